"""Choose documents for a query: arrays in, a `Selection` out.

With unit-norm embeddings φ, the kernel k(x, x') = φ(x)ᵀφ(x'), noise variance λ' and the choices
X, the posterior variance at the query x* is

    σ²_X(x*) = k(x*, x*) − k_X(x*)ᵀ (K_X + λ' I)⁻¹ k_X(x*)

(arXiv 2410.08020, section 3; Rasmussen & Williams (2006), eq. 2.26). SIFT chooses, one by one,
the candidates that minimise it. Every method reports it after each choice.

One function per published method, all with the signature of `select`:

| function | chooses | source |
|---|---|---|
| `select` | the largest reduction of the posterior variance at the query | SIFT, arXiv 2410.08020 |
| `select_residual` | the same, from an index that is queried before each choice | |
| `nearest_neighbors` | the most similar candidates | TTT-NN, arXiv 2305.18466 |
| `repeat_nearest` | the most similar candidate, k times | NN-F in arXiv 2410.08020 |
| `uncertainty_sampling` | the most uncertain candidates | Lewis & Catlett (1994) |
| `mmr` | a trade-off of similarity and novelty | Carbonell & Goldstein (1998) |
| `hull` | a convex combination close to the query | HullFT, arXiv 2605.30337 |
| `random` | candidates at random | |
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
"""The methods by their names in `compare` and on the command line."""

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
