"""Answer many prompts together, and cancel all of them if one fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, as_completed
from typing import Any, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, get_executor_for_config

from langchain_sift.errors import EngineOverloaded

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
    """Lets the answers of a batch wait for each other where the engine has no room for all.

    Threads may share it.
    """

    def __init__(self) -> None:
        """Start without answers."""
        self._changed = threading.Condition()
        self._running = 0
        self._ended = 0

    def answer(self, call: Callable[[], Output]) -> Output:
        """Return the result of a call; if there is no room, call again when another has ended.

        Raises:
            EngineOverloaded: If there is no room, and no other answer of the batch is running.
        """
        while True:
            ended = self._begin()
            try:
                result = call()
            except EngineOverloaded:
                if not self._wait(ended):
                    raise
            except BaseException:
                self._end()
                raise
            else:
                self._end()
                return result

    def _begin(self) -> int:
        with self._changed:
            self._running += 1
            return self._ended

    def _end(self) -> None:
        with self._changed:
            self._running -= 1
            self._ended += 1
            self._changed.notify_all()

    def _wait(self, ended: int) -> bool:
        """Wait until more answers have ended; return False if none is running."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended != ended or not self._running)
            return self._ended != ended


class AsyncSharedRoom:
    """Does the same for the coroutines of one event loop."""

    def __init__(self) -> None:
        """Start without answers."""
        self._changed = asyncio.Event()
        self._running = 0
        self._ended = 0

    async def answer(self, call: Callable[[], Awaitable[Output]]) -> Output:
        """Await a call; if there is no room, call again when another has ended.

        Raises:
            EngineOverloaded: If there is no room, and no other answer of the batch is running.
        """
        while True:
            ended = self._ended
            self._running += 1
            try:
                result = await call()
            except EngineOverloaded:
                self._leave()
                while self._ended == ended:
                    if not self._running:
                        raise
                    await self._changed.wait()
            except BaseException:
                self._ended += 1
                self._leave()
                raise
            else:
                self._ended += 1
                self._leave()
                return result

    def _leave(self) -> None:
        """Count one answer less, and wake those that wait."""
        self._running -= 1
        self._changed.set()
        self._changed = asyncio.Event()


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
