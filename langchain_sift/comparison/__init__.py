"""Which serves you: the base model, RAG or test-time fine-tuning?

| file | what it does |
|---|---|
| `prompts.py` | prompts from files |
| `protocols.py` | what is asked with and what is scored |
| `methods.py` | the methods by their names |
| `choosing.py` | what each method chooses |
| `asking.py` | what is asked of the engine, and the rows that come of it |
| `measuring.py` | methods x prompts: what is asked for, checked |
| `running.py` | methods x prompts: unit by unit |
| `ray_pool.py` | the same by Ray actors; an extra |
| `metrics.py`, `memory.py` | how good an answer is, and how much memory it took |
| `leaks.py` | whether the store holds what is scored |
| `rows.py`, `summaries.py` | a method on one prompt, and on many |
| `results.py` | the report as a value |
| `run_folder.py` | rows on disk as they come |
| `statistics.py` | intervals, and verdicts |
| `findings.py`, `verdicts.py` | what a report says, and how certain that is |
| `columns.py`, `wording.py` | its tables' columns, and how numbers are written |
| `plots.py`, `quality_plots.py`, `uncertainty_plots.py` | its plots |
| `axes.py`, `svg.py` | what they have in common, and how methods look in them |
| `markdown.py` | the report as Markdown |
| `html.py`, `chosen_documents.py` | the report as a page, and what its script reads |
| `writing.py` | all files of a report |
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
