"""Which serves you: the base model, RAG or test-time fine-tuning?

| file | what it does |
|---|---|
| `corpus.py`, `prompts.py` | documents and prompts from files |
| `files.py` | files of many kinds, found, read and split into chunks |
| `indexing.py` | documents, or chunks of files, into Chroma |
| `protocols.py` | what is asked with and what is scored |
| `methods.py` | the methods by their names |
| `choosing.py` | what each method chooses |
| `asking.py` | what is asked of the engine, and the rows that come of it |
| `measuring.py` | methods x prompts |
| `ray_pool.py` | the same by Ray actors; an extra |
| `metrics.py`, `memory.py` | how good an answer is, and how much memory it took |
| `leaks.py` | whether the store holds what is scored |
| `results.py` | rows, summaries, the report as a value |
| `run_folder.py` | rows on disk as they come |
| `statistics.py` | intervals, and verdicts |
| `calibration.py`, `saved_settings.py` | λ', learning rate and k for one's own store |
| `plots.py`, `svg.py` | its plots, and how methods look in them |
| `markdown.py` | what was found, in words and tables |
| `html.py` | the report as a page |
| `writing.py` | all files of a report |
"""

from langchain_sift.extras import require

require("compare", "torch", "transformers")

from langchain_sift.comparison.calibration import Calibration, calibrate  # noqa: E402
from langchain_sift.comparison.corpus import read_corpus  # noqa: E402
from langchain_sift.comparison.indexing import index_documents  # noqa: E402
from langchain_sift.comparison.measuring import DEFAULT_METHODS, compare  # noqa: E402
from langchain_sift.comparison.prompts import Prompt, read_prompts  # noqa: E402
from langchain_sift.comparison.results import MethodSummary, Report, Row  # noqa: E402

__all__ = [
    "DEFAULT_METHODS",
    "Calibration",
    "MethodSummary",
    "Prompt",
    "Report",
    "Row",
    "calibrate",
    "compare",
    "index_documents",
    "read_corpus",
    "read_prompts",
]
