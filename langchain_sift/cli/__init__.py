"""Run the commands; no other code of the package prints.

Progress and errors go to standard error, the result to standard output. The last line of the
result is one JSON document, except in a terminal. Each command has a module.
"""

from langchain_sift.errors import require

require("compare", "typer", "rich")

from langchain_sift.cli import (  # noqa: E402
    calibrate,
    compare,
    doctor,
    explain,
    index,
    learn,
    repair,
    report,
    serve,
)
from langchain_sift.cli.app import app  # noqa: E402

__all__ = [
    "app",
    "calibrate",
    "compare",
    "doctor",
    "explain",
    "index",
    "learn",
    "repair",
    "report",
    "serve",
]
