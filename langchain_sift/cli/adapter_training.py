"""Train the adapter of `langchain-sift learn`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from langchain_core.documents import Document

from langchain_sift.cli.app import progress_bar
from langchain_sift.cli.terminal import Terminal
from langchain_sift.config import FineTuneConfig
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.ttft import LanguageModel, Outcome, Step, TrainedAdapter, shared_engine
from langchain_sift.ttft.requests import Event


def train_adapter(
    language_model: LanguageModel,
    documents: Sequence[Document],
    config: FineTuneConfig,
    console: Terminal,
) -> TrainedAdapter:
    """Return an adapter that was trained on the documents, and show the progress.

    The first Ctrl-C ends the training, and the adapter keeps what was learned.

    Args:
        language_model: The model.
        documents: The examples, in the order of the steps.
        config: Settings of the training.
        console: The console of the progress bar.

    Raises:
        KeyboardInterrupt: After a second Ctrl-C.
        TrainingError: If training failed.
    """
    material = training_material(documents, config, language_model)
    engine = shared_engine(language_model, config)
    request = engine.request(
        material.texts, config=replace(config, on_failure="raise"), keep_adapter=True
    )
    ticket = engine.submit(request)
    with progress_bar(console) as progress:
        learning = progress.add_task("learning", total=len(documents))

        def end() -> None:
            """End the training, and say so."""
            ticket.end_training()
            progress.update(learning, description="ending; Ctrl-C again writes nothing")

        def shown() -> Iterator[Event]:
            """Yield the events, and show the steps."""
            for event in ticket:
                if isinstance(event, Step):
                    progress.update(learning, completed=event.number)
                yield event

        with _on_interrupt(end):
            return next(event for event in shown() if isinstance(event, Outcome)).trained()


@contextmanager
def _on_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """Call a function on the first Ctrl-C; the second one interrupts.

    A process that ignores the signal, such as a job in the background, still ignores it.
    """
    before = signal.getsignal(signal.SIGINT)

    def first(_number: int, _frame: FrameType | None) -> None:
        """Leave the next signal to the former handler, and call the function."""
        signal.signal(signal.SIGINT, before)
        call()

    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
