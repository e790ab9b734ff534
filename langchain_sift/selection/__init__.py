"""Which documents to learn from: arrays in, a `Selection` out.

One function per published method, with the signature of `select`:

| function | chooses | source |
|---|---|---|
| `select` | what most reduces the posterior variance at the query | SIFT, arXiv 2410.08020 |
| `select_residual` | the same, out of an index that is asked before each choice | |
| `nearest_neighbors` | the most similar | arXiv 2305.18466 |
| `repeat_nearest` | the most similar one, every time | NN-F in arXiv 2410.08020 |
| `uncertainty_sampling` | what is least known, whatever the query | Lewis & Catlett (1994) |
| `mmr` | a trade-off of similarity and novelty | Carbonell & Goldstein (1998) |
| `hull` | what comes closest to the query together | HullFT, arXiv 2605.30337 |
| `random` | anything | |
"""

from collections.abc import Mapping
from types import MappingProxyType

from langchain_sift.selection.greedy import Selection, Selector
from langchain_sift.selection.hull import hull
from langchain_sift.selection.marginal_relevance import mmr
from langchain_sift.selection.nearest import nearest_neighbors, repeat_nearest
from langchain_sift.selection.residual import select_residual
from langchain_sift.selection.sift import select
from langchain_sift.selection.uncertainty import uncertainty_sampling
from langchain_sift.selection.uniform import random

SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "sift": select,
        "nearest": nearest_neighbors,
        "nearest-repeated": repeat_nearest,
        "uncertainty": uncertainty_sampling,
        "mmr": mmr,
        "hull": hull,
        "random": random,
    }
)
"""The methods by the names that `compare` and the command line know them by."""

__all__ = [
    "SELECTORS",
    "Selection",
    "Selector",
    "hull",
    "mmr",
    "nearest_neighbors",
    "random",
    "repeat_nearest",
    "select",
    "select_residual",
    "uncertainty_sampling",
]
