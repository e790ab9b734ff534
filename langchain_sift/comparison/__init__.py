"""Compare retrieval methods, RAG and test-time fine-tuning on your documents and prompts.

| file | task |
|---|---|
| `experiment.py` | `compare`: check the arguments, run all units, return a report |
| `settings.py` | the settings of a comparison, checked |
| `prompts.py`, `question_files.py`, `qrels.py` | read prompts, and their relevant documents |
| `prompt_files.py` | find the files of a folder that hold prompts |
| `defaults.py` | the settings that a caller leaves out |
| `examples.py` | make documents of answered questions, to learn from |
| `judgments.py` | find the relevant documents of prompts in the store |
| `tasks.py` | turn a prompt into a query, a context and a target |
| `methods.py` | parse the names of methods |
| `selection.py`, `choice.py` | choose the documents of each method |
| `diversification.py` | choose with the strategies of pyversity |
| `units.py`, `planner.py` | plan and measure batches that are trained and written together |
| `measurement.py` | describe the measurement of a prompt under a method |
| `measurer.py`, `scored_text.py` | measure prompts with the engine |
| `chains.py` | measure questions with the chains of a user |
| `ray_pool.py` | the same on Ray actors |
| `run_folder.py`, `row_files.py` | keep rows in a folder, and continue from them |
| `leaks.py` | find prompts whose scored text the store holds |
| `judging.py` | let a chat model grade the answers |
| `shared_work.py` | keep what the next method of a prompt needs again |
| `description.py` | describe a comparison, for its folder and its report |

The protocol "retrieval" runs without PyTorch; `measurer.py` and `ray_pool.py` need it.
"""

from langchain_sift.comparison.defaults import DEFAULT_METHODS, RETRIEVAL_METHODS
from langchain_sift.comparison.examples import example_documents
from langchain_sift.comparison.experiment import compare
from langchain_sift.comparison.prompts import Prompt, read_prompts
from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row
from langchain_sift.report.summaries import MethodSummary

__all__ = [
    "DEFAULT_METHODS",
    "RETRIEVAL_METHODS",
    "MethodSummary",
    "Prompt",
    "Report",
    "Row",
    "compare",
    "example_documents",
    "read_prompts",
]
