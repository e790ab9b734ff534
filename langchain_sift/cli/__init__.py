"""The command line: the only code here that prints.

Progress and errors go to standard error, the result to standard output; the last line of the
result is one JSON document. One file per command.
"""

from langchain_sift.cli import compare, explain
from langchain_sift.cli.app import app

__all__ = ["app", "compare", "explain"]
