"""Calibrate retrieval, and fine-tuning, for a store.

`calibrate_retrieval` chooses kernel, length scale, λ' and number of documents by queries with
known relevant documents, or by queries made of the store's own texts. It needs no language model.

`calibrate` chooses λ', learning rate and number of documents for fine-tuning a model. Documents of
the store are held out and predicted after fine-tuning on other documents. A Gaussian process
first drops the least likely values of λ', without fine-tuning. Successive halving then chooses
the learning rate, and λ' among the rest. Questions with answers can take the place of documents,
and within a time limit the objective, steps, layers, rank and mode are chosen as well.

| file | does |
|---|---|
| `retrieval.py` | calibrate retrieval: `calibrate_retrieval` |
| `labelled_queries.py` | take queries and their labels from prompts |
| `made_queries.py` | make queries of the store's texts |
| `trial_queries.py` | score the choices for a query |
| `cross_validation.py` | choose settings, and measure the choice on held-out queries |
| `retrieval_calibration.py` | report the chosen settings of retrieval and the measurements |
| `experiment.py` | calibrate fine-tuning: `calibrate` |
| `held_out.py` | hold out documents as prompts, and fetch their candidates |
| `surrogate.py` | rank values of λ' by Gaussian-process likelihood |
| `trials.py` | fine-tune, once for each set of documents and settings |
| `halving.py` | measure the better settings on more prompts |
| `search.py` | choose one setting after the other, within a number of steps or minutes |
| `mode_trials.py` | compare the modes with the chosen settings |
| `standard_errors.py` | choose the simplest choice that is as good as the best |
| `conclusion.py` | conclude from the measurements |
| `mode_figures.py` | make the table of `mode="auto"` from the rows of `compare` |
| `calibration.py` | report the chosen settings of fine-tuning and the measurements |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_sift.errors import require

if TYPE_CHECKING:
    from langchain_sift.calibration.calibration import Calibration as Calibration
    from langchain_sift.calibration.experiment import calibrate as calibrate
    from langchain_sift.calibration.mode_figures import mode_table as mode_table
    from langchain_sift.calibration.retrieval import calibrate_retrieval as calibrate_retrieval
    from langchain_sift.calibration.retrieval_calibration import (
        RetrievalCalibration as RetrievalCalibration,
    )

_EXPORTS = {
    "Calibration": "calibration",
    "RetrievalCalibration": "retrieval_calibration",
    "calibrate": "experiment",
    "calibrate_retrieval": "retrieval",
    "mode_table": "mode_figures",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a public name from its module: retrieval is calibrated without PyTorch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "calibrate":
        require("compare", "torch", "transformers")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
