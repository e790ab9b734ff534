"""Learn documents once, and answer many prompts with the trained adapter."""

from __future__ import annotations

import asyncio
import functools
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, NothingToLearn, RequestTimeout
from langchain_sift.language_models.call_settings import (
    FINETUNE_SETTINGS,
    GENERATION_SETTINGS,
    CallSettings,
    check_documents,
)
from langchain_sift.language_models.modes import aretrieve_within, retrieve_within
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.language_models.preparing import EXECUTOR
from langchain_sift.retrieval.scores import too_little_to_gain
from langchain_sift.ttft import Engine, Request, TrainedAdapter

_OF_RETRIEVALS = ("k", "filter", "retriever")
_OF_LEARNING = ("k", "filter", *FINETUNE_SETTINGS)
_OF_ANSWERS = ("context", *GENERATION_SETTINGS, "stop", "logprobs", "top_logprobs")


class Closable:
    """A model that `with` closes, or `async with await chat.alearn(documents) as session`."""

    def __enter__(self) -> Self:
        """Return the model."""
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """Release the adapter of a model that has learned; it refuses further calls."""

    async def __aenter__(self) -> Self:
        """Return the model."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Do as `__exit__` does."""
        self.__exit__(*error)


def learn(
    engine: Engine, query: str, settings: CallSettings, start: TrainedAdapter | None
) -> TrainedAdapter:
    """Train an adapter on the documents of a call, or on those of its retriever.

    Args:
        engine: The engine.
        query: The query for the retriever.
        settings: The settings of the call.
        start: An adapter to train on from. None means a new one.

    Raises:
        RequestTimeout: If the time is up.
        TrainingError: If training failed, there was no document to train on, or the documents gain
            less than `min_gain`.
    """
    began = settings.beginning
    documents: Sequence[Document] = settings.documents or ()
    if settings.retriever is not None:
        retrieve = functools.partial(settings.retriever.invoke, query, None, **settings.retrieval)
        documents = retrieve_within(settings.timeout, retrieve, started=began)
    request = _request(engine, documents, settings, start)
    with _in_time(settings.timeout):
        left = _time_left(settings.timeout, began)
        return engine.outcome(request, reservation=settings.reservation, timeout=left).trained()


async def alearn(
    engine: Engine, query: str, settings: CallSettings, start: TrainedAdapter | None
) -> TrainedAdapter:
    """Do as `learn` does without blocking the event loop."""
    began = settings.beginning
    documents: Sequence[Document] = settings.documents or ()
    if settings.retriever is not None:
        retrieval = settings.retriever.ainvoke(query, None, **settings.retrieval)
        documents = await aretrieve_within(settings.timeout, retrieval, started=began)
    loop = asyncio.get_running_loop()
    request = await loop.run_in_executor(EXECUTOR, _request, engine, documents, settings, start)
    with _in_time(settings.timeout):
        left = _time_left(settings.timeout, began)
        outcome = await engine.aoutcome(request, reservation=settings.reservation, timeout=left)
        return outcome.trained()


def check_has_effect(call: Mapping[str, object], *, is_query: bool) -> None:
    """Check that each argument of `learn` has an effect.

    Args:
        call: The arguments. One that is None counts as left out.
        is_query: True if the retriever finds the documents, False if they are given.

    Raises:
        ArgumentError: If one has none, such as a setting of answers.
    """
    for name in (name for name, value in call.items() if value is not None):
        if name in _OF_RETRIEVALS and not is_query:
            raise ArgumentError(
                f"{name!r} has no effect on documents that are given: leave it out, or learn a "
                "query for the retriever"
            )
        if name in _OF_ANSWERS:
            raise ArgumentError(
                f"{name!r} has no effect on learning: pass it to the calls of the session, or to "
                "the model"
            )


def bound_to_learning(bound: Mapping[str, object], *, is_query: bool) -> dict[str, object]:
    """Return those of the arguments that are bound to a model which have an effect on `learn`.

    Args:
        bound: The arguments, which stay bound to the model that has learned.
        is_query: As in `check_has_effect`.

    Raises:
        ArgumentError: If the calls of that model would not answer with what was learned.
    """
    if given := [name for name in ("documents", "retriever", "adapter") if name in bound]:
        raise ArgumentError(
            f"{given[0]!r} is bound to the model, whose calls would use it in place of what is "
            "learned: pass it to learn or to the calls instead"
        )
    effective = (*FINETUNE_SETTINGS, "timeout", *(_OF_RETRIEVALS if is_query else ()))
    return {name: value for name, value in bound.items() if name in effective}


def settings_of_learning(call: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a call that have no effect on the answer of an adapter."""
    return {name: call[name] for name in _OF_LEARNING if call.get(name) is not None}


def check_adapter(call: Mapping[str, Any], field: TrainedAdapter | None) -> TrainedAdapter | None:
    """Return the adapter that answers a call: its argument, else the model's field, else None.

    Documents in a call take precedence over the field.

    Raises:
        ArgumentError: If the argument is no trained adapter, or the call has documents too, or a
            setting that only a retrieval or a training would use.
    """
    sources = [name for name in ("documents", "retriever") if call.get(name) is not None]
    adapter = None if call.get("adapter") is None else as_adapter(call["adapter"])
    if adapter is not None and sources:
        raise ArgumentError(
            f"a call takes either adapter or {sources[0]}: learn(documents) trains an adapter"
        )
    if adapter is None and not sources:
        adapter = field
    if adapter is not None:
        _check_answered_by_adapter(call)
    return adapter


def _check_answered_by_adapter(call: Mapping[str, Any]) -> None:
    """Reject settings without effect, but not those that were bound when the model learned."""
    inherited = call.get("inherited", {})
    for name, value in settings_of_learning(call).items():
        if name not in inherited or inherited[name] != value:
            raise ArgumentError(
                f"{name!r} has no effect on the answer of a model that has learned, which "
                "retrieves and trains nothing: leave it out, or pass it to learn"
            )


def as_adapter(value: object) -> TrainedAdapter:
    """Return a trained adapter.

    Raises:
        ArgumentError: If it is of another type.
    """
    if not isinstance(value, TrainedAdapter):
        raise ArgumentError(
            "adapter must be a TrainedAdapter, such as learn(...).adapter or "
            f"TrainedAdapter.load(folder), got a {type(value).__name__}"
        )
    return value


def _request(
    engine: Engine,
    documents: Sequence[Document],
    settings: CallSettings,
    start: TrainedAdapter | None,
) -> Request:
    checked = check_documents(documents, "the retriever's result")
    min_gain = settings.finetune.min_gain
    if min_gain and checked and (reason := too_little_to_gain(checked, min_gain)):
        raise NothingToLearn(reason)
    material = training_material(
        checked, settings.finetune, engine.language_model, settings.template
    )
    request = engine.request(
        material.texts,
        teaching=material.teaching,
        config=replace(settings.finetune, on_failure="raise"),
        keep_adapter=True,
        start=start,
    )
    if not request.documents:
        raise NothingToLearn("there is no document to train on, or all have fewer than two tokens")
    return request


@contextmanager
def _in_time(timeout: float | None) -> Iterator[None]:
    """Name the whole time limit, and the cures, if the time is up."""
    try:
        yield
    except RequestTimeout as error:
        raise RequestTimeout(
            f"the documents were not learned within {timeout} s: raise timeout, or train on less "
            "(max_documents, max_train_tokens)"
        ) from error


def _time_left(timeout: float | None, began: float) -> float | None:
    if timeout is None:
        return None
    left = timeout - (time.perf_counter() - began)
    if left <= 0:
        raise RequestTimeout("the time is up")
    return left
