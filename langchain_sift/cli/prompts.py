"""Read the prompts that an option names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.cli.app import print_note
from langchain_sift.cli.terminal import Terminal

if TYPE_CHECKING:
    from langchain_sift.comparison.prompts import Prompt

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


def prompts_of(path: Path | str, *, lines: bool = True, qrels: Path | None = None) -> list[Prompt]:
    """Return the prompts of a path; print a note on the files of a folder that are left out.

    Args:
        path: As in `read_prompts`, and so are the others.
        lines: True if each line of a text is a prompt.
        qrels: A file with the relevant documents.
    """
    from langchain_sift.comparison.prompts import read_prompts

    on_note = partial(print_note, Terminal(stderr=True))
    return read_prompts(path, lines=lines, qrels=qrels, on_note=on_note)
