"""Calibrate λ', learning rate and number of documents for a store and a model.

Documents of the store are held out and predicted after fine-tuning on other documents. A Gaussian
process first drops the least likely values of λ', without fine-tuning. Successive halving then
chooses the learning rate, and λ' among the rest.

| file | does |
|---|---|
| `experiment.py` | run the calibration: `calibrate` |
| `held_out.py` | hold out documents as prompts, and fetch their candidates |
| `surrogate.py` | rank values of λ' by Gaussian-process likelihood |
| `trials.py` | fine-tune, once for each set of documents and learning rate |
| `halving.py` | measure the better settings on more prompts |
| `calibration.py` | report the chosen settings and the measurements |
"""

from langchain_sift.errors import require

require("compare", "torch", "transformers")

from langchain_sift.calibration.calibration import Calibration  # noqa: E402
from langchain_sift.calibration.experiment import calibrate  # noqa: E402

__all__ = ["Calibration", "calibrate"]
