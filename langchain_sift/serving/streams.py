"""Send events as they come, with comments that keep the connection open while a model learns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Generic, NamedTuple, Self, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

_COMMENT = b": the model is learning or thinking\n\n"  # clients ignore it, and proxies see life
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ServerEvent(NamedTuple):
    """A server-sent event."""

    data: bytes
    name: str = ""

    def encoded(self) -> bytes:
        """Return the event as it is sent."""
        name = f"event: {self.name}\n".encode() if self.name else b""
        return name + b"data: " + self.data + b"\n\n"


_DONE = ServerEvent(b"[DONE]")

LAST_LINES = "last_lines"
"""Key in the state of a request: a function that returns the end of its stream after an error, for
a server that cuts the stream."""


class Merged(Generic[T]):
    """The items of several sources in the order in which they come; `aclose` ends all sources."""

    def __init__(self) -> None:
        """Start without sources."""
        # The item of a source, its error, or None at its end.
        self._queue: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(16)
        self._tasks: list[asyncio.Task[None]] = []
        self._open = 0

    def add(self, source: AsyncGenerator[T]) -> None:
        """Add a source, which is read from now on."""
        self._open += 1
        self._tasks.append(asyncio.ensure_future(self._read(source)))

    async def put(self, item: T) -> None:
        """Add one item."""
        await self._queue.put((item,))

    async def _read(self, source: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    await self.put(item)
        except Exception as error:  # noqa: BLE001 - raised where the items are read
            await self._queue.put(error)
        await self._queue.put(None)

    def __aiter__(self) -> Self:
        """Return the items."""
        return self

    async def __anext__(self) -> T:
        """Wait for the next item.

        Raises:
            StopAsyncIteration: If all sources have ended.
            Exception: That of a source.
        """
        while self._open:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if item is not None:
                return item[0]
            self._open -= 1
        raise StopAsyncIteration

    async def next_within(self, seconds: float) -> T | None:
        """Do the same, but return None if there is no item after this time."""
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await anext(self)
        except TimeoutError:
            if not deadline.expired():  # that of a source
                raise
            return None

    async def aclose(self) -> None:
        """Cancel the sources that have not ended, and wait until they are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def event_stream(
    source: AsyncGenerator[ServerEvent],
    *,
    status_seconds: float,
    comment_seconds: float,
    on_error: Callable[[Exception], Sequence[ServerEvent]],
) -> EventStream:
    """Return the response with the events of a source.

    An error of the first moment is raised, for a status of its own. Then the headers are sent, and
    the events of a later error are the last.

    Args:
        source: The events.
        status_seconds: Seconds to wait for the first event or an error before the headers.
        comment_seconds: Seconds without an event after which a comment is sent.
        on_error: Returns the events of an error.
    """
    events: Merged[ServerEvent] = Merged()
    events.add(source)
    try:
        first = await events.next_within(status_seconds)
    except BaseException:
        await events.aclose()
        raise
    return EventStream(events, first, comment_seconds, on_error)


class EventStream(StreamingResponse):
    """A response of server-sent events."""

    def __init__(
        self,
        events: Merged[ServerEvent],
        first: ServerEvent | None,
        comment_seconds: float,
        on_error: Callable[[Exception], Sequence[ServerEvent]],
    ) -> None:
        """Prepare a response; see `event_stream`.

        Args:
            events: The events.
            first: The first of them. None means that it has not come yet.
            comment_seconds: As in `event_stream`.
            on_error: As in `event_stream`.
        """
        self._events = events
        self._first = first
        self._comment_seconds = comment_seconds
        self._on_error = on_error
        super().__init__(self._lines(), headers=_HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and close its source, also if nothing could be sent."""
        scope.setdefault("state", {})[LAST_LINES] = self._last_lines
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()

    async def _lines(self) -> AsyncGenerator[bytes]:
        yield _COMMENT if self._first is None else self._first.encoded()
        while True:
            try:
                coming = await self._events.next_within(self._comment_seconds)
            except StopAsyncIteration:
                yield _DONE.encoded()
                return
            except Exception as error:  # noqa: BLE001 - the status was already sent
                yield self._last_lines(error)
                return
            yield _COMMENT if coming is None else coming.encoded()

    def _last_lines(self, error: Exception) -> bytes:
        return b"".join(event.encoded() for event in (*self._on_error(error), _DONE))
