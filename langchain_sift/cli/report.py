"""`langchain-sift report`: write the report of a comparison again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_sift.cli.app import app, errors_in_one_line
from langchain_sift.cli.options import path_option
from langchain_sift.cli.terminal import Terminal

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@app.command("report")
def report_command(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=path_option, metavar="DIR", help="Folder of a comparison, complete or not."
        ),
    ],
) -> None:
    """Write the report of a comparison again, from the rows in its folder."""
    with errors_in_one_line(Terminal(stderr=True)):
        from langchain_sift.cli.tables import print_report
        from langchain_sift.comparison.run_folder import read_report
        from langchain_sift.report.files import write_report

        print_report(write_report(read_report(folder), folder))
