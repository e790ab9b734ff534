"""What the commands share: the application, errors in one line, progress, embeddings by name."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_sift.errors import require

require("compare", "typer", "rich")

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from langchain_sift.calibrated_settings import CalibratedSettings  # noqa: E402
from langchain_sift.config import FineTuneConfig  # noqa: E402
from langchain_sift.errors import SIFTError  # noqa: E402

if TYPE_CHECKING:
    from langchain_chroma import Chroma

# Each command imports what it needs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415

app = typer.Typer(
    help="SIFT retrieval and test-time fine-tuning, compared on your own documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@contextmanager
def errors_in_one_line(console: Console, after_interrupt: str = "") -> Iterator[None]:
    """Say what was wrong without a traceback, and exit."""
    logging.basicConfig(level=logging.ERROR)
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    except SIFTError as error:
        # The terminal wraps a long line: a name that is broken in two cannot be copied.
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print(f"interrupted{after_interrupt}")
        raise typer.Exit(130) from None


def echo_for_programs(result: Mapping[str, Any]) -> None:
    """Print a result as one line of JSON, but not to a reader, who has seen its tables."""
    if not sys.stdout.isatty():
        typer.echo(json.dumps(result, ensure_ascii=False))


def names_of(text: str) -> list[str]:
    """Return what stands between the commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_saved(path: Path | None) -> CalibratedSettings | None:
    """Return what `calibrate` wrote, if a file of it is named."""
    return None if path is None else CalibratedSettings.load(path)


def given_or_saved(saved: CalibratedSettings | None, **given: Any) -> dict[str, Any]:
    """Return the options that were given, and of the others those that are saved."""
    found = {} if saved is None else {name: getattr(saved, name) for name in given}
    return found | {name: value for name, value in given.items() if value is not None}


def recipe_of(saved: CalibratedSettings | None, **given: Any) -> FineTuneConfig:
    """Return how the model learns: as was saved, or by default, but for the options given."""
    changes = {name: value for name, value in given.items() if value is not None}
    if "lora_rank" in changes:
        changes["lora_alpha"] = float(changes["lora_rank"])
    return replace(FineTuneConfig() if saved is None else saved.finetune_config(), **changes)


def opened(store: str, collection: str | None, embeddings: str | None) -> Chroma:
    """Open a collection that exists with the embeddings that it holds, and with no others."""
    from langchain_sift.indexing.chroma_collections import (
        embeddings_for,
        open_collection,
        resolve_name,
    )
    from langchain_sift.indexing.named_objects import load_embeddings

    name = resolve_name(store, collection)
    wanted = embeddings_for(store, name, embeddings)
    return open_collection(store, name, lambda _: load_embeddings(wanted))


def progress_bar(console: Console) -> Progress:
    """Return a display of what is done, what is left, and how long that may take."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
