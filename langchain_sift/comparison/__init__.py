"""Compare the base model, RAG and test-time fine-tuning on your documents and prompts.

| file | task |
|---|---|
| `experiment.py` | `compare`: check the arguments, run all units, return a report |
| `settings.py` | the settings of a comparison, checked |
| `prompts.py` | read prompts from files |
| `tasks.py` | turn a prompt into a query, a context and a scored text |
| `methods.py` | parse the names of methods |
| `selection.py` | choose the documents of each method |
| `units.py` | plan and measure batches that are trained and written together |
| `measurement.py` | measure prompts under a method, with the engine |
| `chains.py` | measure questions with the chains of a user |
| `ray_pool.py` | the same on Ray actors |
| `run_folder.py` | keep rows in a folder, and continue from them |
| `leaks.py` | find prompts whose scored text the store holds |
"""

from langchain_sift.errors import require

require("compare", "torch", "transformers")

from langchain_sift.comparison.experiment import DEFAULT_METHODS, compare  # noqa: E402
from langchain_sift.comparison.prompts import Prompt, read_prompts  # noqa: E402
from langchain_sift.report.report import Report  # noqa: E402
from langchain_sift.report.rows import Row  # noqa: E402
from langchain_sift.report.summaries import MethodSummary  # noqa: E402

__all__ = [
    "DEFAULT_METHODS",
    "MethodSummary",
    "Prompt",
    "Report",
    "Row",
    "compare",
    "read_prompts",
]
