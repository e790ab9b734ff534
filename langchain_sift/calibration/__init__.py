"""Which λ', learning rate and number of documents suit a store and a model?

Documents of the store are held out and predicted after fine-tuning on others. Which λ' are worth
a fine-tuning is decided first, without any, by a Gaussian process; then successive halving decides
among the learning rates, and among those λ'.

| file | what it does |
|---|---|
| `held_out.py` | documents of the store as prompts, and their candidates |
| `surrogate.py` | which λ' make likely what the texts say |
| `trials.py` | fine-tunings, each done once |
| `halving.py` | which settings are measured on more prompts |
| `findings.py` | what was found, as a value |
| `calibrating.py` | all of it |
"""

from langchain_sift.errors import require

require("compare", "torch", "transformers")

from langchain_sift.calibration.calibrating import calibrate  # noqa: E402
from langchain_sift.calibration.findings import Calibration  # noqa: E402

__all__ = ["Calibration", "calibrate"]
