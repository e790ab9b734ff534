"""Answer many prompts together, and cancel all of them if one fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, get_executor_for_config

from langchain_sift.errors import EngineOverloaded
from langchain_sift.ttft import Reservation

Input = TypeVar("Input")
Output = TypeVar("Output")


class Cancellable(Protocol):
    """An answer that can be cancelled."""

    def cancel(self) -> None:
        """Cancel it, if it has started."""


class AnswerGroup:
    """Answers that are cancelled together; threads may share it."""

    def __init__(self) -> None:
        """Start without answers."""
        self._answers: list[Cancellable] = []
        self._cancelled = False

    def add(self, answer: Cancellable) -> None:
        """Add a started answer; cancel it if the group was cancelled before."""
        self._answers.append(answer)
        if self._cancelled:
            answer.cancel()

    def cancel(self) -> None:
        """Cancel all answers, and those that will be added."""
        self._cancelled = True
        for answer in self._answers:
            answer.cancel()


class SharedRoom:
    """The room in the engine for the answers of a batch; threads may share it.

    An answer that finds no room waits until another of the batch has ended.
    """

    def __init__(self) -> None:
        """Start without answers."""
        self._changed = threading.Condition()
        self._admitted: set[object] = set()

    def admit(self, place: object, reserve: Callable[[], Reservation]) -> Reservation:
        """Reserve room for an answer.

        Args:
            place: The place of the answer.
            reserve: Makes the reservation.

        Raises:
            EngineOverloaded: If there is no room, and no other answer of the batch has any.
        """
        with self._changed:
            while (reservation := _reserved(self._admitted, place, reserve)) is None:
                self._changed.wait()
            return reservation

    def leave(self, place: object) -> None:
        """Wake the answers that wait, if this one had room."""
        with self._changed:
            if place in self._admitted:
                self._admitted.remove(place)
                self._changed.notify_all()


class AsyncSharedRoom:
    """Does the same for the coroutines of one event loop."""

    def __init__(self) -> None:
        """Start without answers."""
        self._changed = asyncio.Event()
        self._admitted: set[object] = set()

    async def admit(self, place: object, reserve: Callable[[], Reservation]) -> Reservation:
        """Reserve room for an answer.

        Args:
            place: The place of the answer.
            reserve: Makes the reservation.

        Raises:
            EngineOverloaded: If there is no room, and no other answer of the batch has any.
        """
        while (reservation := _reserved(self._admitted, place, reserve)) is None:
            await self._changed.wait()
        return reservation

    def leave(self, place: object) -> None:
        """Wake the answers that wait, if this one had room."""
        if place in self._admitted:
            self._admitted.remove(place)
            self._changed.set()
            self._changed = asyncio.Event()


def _reserved(
    admitted: set[object], place: object, reserve: Callable[[], Reservation]
) -> Reservation | None:
    """Reserve room for an answer; None means to wait until one of the admitted has ended."""
    try:
        reservation = reserve()
    except EngineOverloaded:
        if not admitted:
            raise
        return None
    admitted.add(place)
    return reservation


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The place of an answer, in the room of its batch if it has one."""

    room: SharedRoom | AsyncSharedRoom | None = None

    def admit(self, reserve: Callable[[], Reservation]) -> Reservation:
        """Reserve room for the answer; see `SharedRoom.admit`."""
        return self.room.admit(self, reserve) if isinstance(self.room, SharedRoom) else reserve()

    async def aadmit(self, reserve: Callable[[], Reservation]) -> Reservation:
        """Do the same without blocking the event loop."""
        if isinstance(self.room, AsyncSharedRoom):
            return await self.room.admit(self, reserve)
        return reserve()

    def leave(self) -> None:
        """Make room for the others of the batch."""
        if self.room is not None:
            self.room.leave(self)


def batch_configs(
    config: RunnableConfig | Sequence[RunnableConfig] | None, count: int, at_once: int
) -> list[RunnableConfig]:
    """Return one configuration per prompt; without `max_concurrency`, `at_once` is the limit."""
    return [
        {**each, "max_concurrency": each.get("max_concurrency") or at_once}
        for each in get_config_list(config, count)
    ]


def run_batch(
    answer: Callable[[Input, RunnableConfig], Output],
    inputs: Sequence[Input],
    configs: Sequence[RunnableConfig],
    group: AnswerGroup,
) -> list[Output]:
    """Answer several prompts in threads; if one fails or the caller is interrupted, cancel all.

    Args:
        answer: Answers one prompt, and adds its answer to the group.
        inputs: At least one prompt.
        configs: One configuration per prompt; the first sets the number of threads.
        group: The answers of this batch.

    Returns:
        The answers, in the order of the prompts.
    """
    with get_executor_for_config(configs[0]) as executor:
        futures: list[Future[Output]] = []
        try:
            for prompt, config in zip(inputs, configs, strict=True):
                futures.append(executor.submit(answer, prompt, config))
            for future in as_completed(futures):
                future.result()
        except BaseException:
            # Before the executor waits for its threads.
            for future in futures:
                future.cancel()
            group.cancel()
            raise
        return [future.result() for future in futures]


async def gather_or_cancel(answers: Iterable[Coroutine[Any, Any, Output]]) -> list[Output]:
    """Await all answers together; if one fails or the caller is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
