"""Print what `langchain-sift learn` did."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from langchain_core.documents import Document

from langchain_sift.report.counts import counted
from langchain_sift.report.metrics import contains_answer
from langchain_sift.ttft import TrainedAdapter
from langchain_sift.ttft.training.tasks import STOPPED, time_was_up


def print_summary(
    adapter: TrainedAdapter,
    documents: Sequence[Document],
    without_answer: int,
    epochs: int,
) -> None:
    """Print the number of steps, the losses, and how many examples have their answer.

    Args:
        adapter: The trained adapter.
        documents: The examples, each once.
        without_answer: Number of questions that were left out.
        epochs: Number of times that each example was to be learned.
    """
    losses = adapter.training.losses
    count = len(documents)
    learned = f"learned {len(losses)} of {counted(count, 'example')}"
    if epochs > 1:
        steps = f"{len(losses)} of {epochs * count} steps"
        learned = f"took {steps} ({epochs} on each of {counted(count, 'example')})"
    # The first and the last epoch have the same examples.
    part, size = "epoch", count
    if epochs == 1 or len(losses) < epochs * count:
        part, size = "tenth", max(1, len(losses) // 10)
    first, last = (sum(some) / size for some in (losses[:size], losses[-size:]))
    typer.echo(
        f"{learned} in {adapter.training.seconds:.0f} s of training; mean loss of the first {part} "
        f"{first:.2f}, of the last {last:.2f} nats per token of the answers"
    )
    if (ended := adapter.training.ended) is not None:
        reason = _reason(ended, adapter.config.max_train_seconds)
        typer.echo(f"the training ended early: {reason}")
    in_documents = sum(
        any(contains_answer(text, [fields["answer"]]) for text in fields["context"])
        for fields in (document.metadata for document in documents)
    )
    typer.echo(f"examples whose documents contain the answer: {in_documents}")
    if without_answer:
        typer.echo(f"questions without an answer, left out: {without_answer}")


def _reason(ended: str, limit: float | None) -> str:
    """Return why the training ended early, in the words of the command."""
    if limit is not None and ended == time_was_up(limit):
        return f"the {limit / 60:g} minutes were over (--minutes)"
    return "Ctrl-C; the adapter keeps what was learned" if ended == STOPPED else ended
