"""Which serves you: the base model, RAG or test-time fine-tuning?

| file | what it does |
|---|---|
| `corpus.py` | documents and prompts from files |
| `indexing.py` | documents into Chroma |
| `protocols.py` | what is asked with and what is scored |
| `measuring.py` | methods x prompts |
| `results.py` | rows, summaries, the report as a value |
| `plots.py`, `svg.py` | its plots |
| `html.py` | the report as a page |
"""

from langchain_sift.extras import require

require("compare", "torch", "transformers")

from langchain_sift.comparison.corpus import Prompt, read_corpus, read_prompts  # noqa: E402
from langchain_sift.comparison.indexing import index_documents  # noqa: E402
from langchain_sift.comparison.measuring import DEFAULT_METHODS, compare  # noqa: E402
from langchain_sift.comparison.results import MethodSummary, Report, Row  # noqa: E402

__all__ = [
    "DEFAULT_METHODS",
    "MethodSummary",
    "Prompt",
    "Report",
    "Row",
    "compare",
    "index_documents",
    "read_corpus",
    "read_prompts",
]
