"""Query a store: deadlines, retries, and many searches in one call."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from langchain_core.documents import Document
from numpy.testing import assert_allclose

from langchain_sift.errors import (
    CollectionNotFound,
    DimensionMismatch,
    InvalidFilter,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.stores import calls
from langchain_sift.stores.batches import together
from langchain_sift.stores.calls import arun as run_by_coroutines
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import (
    every_candidate,
    nearest_candidates,
    residual_candidates,
)
from langchain_sift.stores.deadlines import MAX_IDLE, CallThread
from langchain_sift.stores.interface import Nearest, Rows

CANARY = "heliotrope"
DIMENSIONS = 4
RNG = np.random.default_rng(11)
VECTORS = RNG.standard_normal((90, DIMENSIONS))
# Every text three times, so that some searches need further requests.
DOCUMENTS = [Document(id=f"row-{row:02}", page_content=f"{CANARY} {row // 3}") for row in range(90)]
TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

SELECTION = SelectionSettings(k=6, noise_variance=0.1)


class Store:
    """A store of a matrix, with a hook that runs at each call."""

    label = "the matrix"
    search_arguments = ()

    def __init__(self, happens: Callable[[], None] = lambda: None) -> None:
        self.happens = happens
        self.calls: list[int] = []  # how many directions; 0 for a page

    def nearest(self, directions, count, *, timeout):
        self.calls.append(len(directions))
        assert timeout > 0.0
        self.happens()
        return self.found(directions, count)

    def page(self, cursor, size, *, timeout):
        del size
        self.calls.append(0)
        assert timeout > 0.0
        self.happens()
        start = cursor or 0
        rows = list(range(start, start + 30))
        return self.rows(rows), start + 30 if start < 60 else None

    def conjunction(self, *_):
        raise AssertionError

    def found(self, directions, count):
        units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        return [self.rows(np.argsort(-(units @ d))[:count]) for d in directions]

    def rows(self, numbers):
        return Rows([DOCUMENTS[row] for row in numbers], VECTORS[list(numbers)], len(numbers))


class AsyncStore(Store):
    """The same store for coroutines."""

    nearest = page = None

    async def anearest(self, directions, count, *, timeout):
        await asyncio.to_thread(lambda: None)
        return Store.nearest(self, directions, count, timeout=timeout)

    async def apage(self, cursor, size, *, timeout):
        return Store.page(self, cursor, size, timeout=timeout)


async def arun(search, store, **settings):
    return await run_by_coroutines(search, store, store=store, **settings)


def by_threads(searches, store, timeout=20.0):
    return run(together(searches), store, timeout=timeout, arguments={})


def by_coroutines(searches, store, timeout=20.0):
    return asyncio.run(arun(together(searches), store, timeout=timeout, arguments={}))


@pytest.fixture(
    params=[(Store, by_threads), (Store, by_coroutines), (AsyncStore, by_coroutines)],
    ids=["run", "arun", "arun async"],
)
def kind(request):
    """Return a class of stores and the function that runs searches on them."""
    return request.param


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((*shape, DIMENSIONS))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def search(seed=0, *, parts=1, fetch_k=5):
    queries = unit(parts, seed=seed)
    return nearest_candidates(queries, queries, fetch_k=fetch_k)


def workers():
    return sum(thread.name == "langchain-sift-store" for thread in threading.enumerate())


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


@pytest.fixture
def hung():
    """Return an event that a hanging store waits for; it is set after the test."""
    event = threading.Event()
    yield event
    event.set()


# The deadline

FAR = 30.0
"""Seconds: far beyond each deadline here, also on a busy machine."""


@pytest.mark.parametrize("searching", [search, lambda: every_candidate(DIMENSIONS)])
def test_a_hanging_store_raises_a_timeout_at_the_deadline(hung, searching):
    started = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"^the matrix: no answer to a (search|reading)"):
        run(searching(), Store(hung.wait), timeout=0.3, arguments={})
    assert 0.3 <= time.monotonic() - started < FAR


@pytest.mark.slow
async def test_a_hanging_store_takes_no_thread_from_the_event_loop(hung):
    # Its own executor has few: a hundred waiting callers must leave them to others.
    searches = [
        arun(search(seed), Store(hung.wait), timeout=60.0, arguments={}) for seed in range(100)
    ]
    waiting = asyncio.gather(*searches)
    await asyncio.sleep(0.1)
    try:
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 30.0)
        assert not waiting.done()
    finally:
        hung.set()
    assert len(await waiting) == 100


async def test_a_hanging_store_does_not_block_another_of_the_same_name(hung):
    hanging = Store(hung.wait)
    searches = [arun(search(seed), hanging, timeout=60.0, arguments={}) for seed in range(100)]
    waiting = asyncio.gather(*searches)
    await asyncio.sleep(0.1)
    try:
        assert len((await arun(search(), Store(), timeout=30.0, arguments={})).documents) == 5
        assert not waiting.done()
    finally:
        hung.set()
    assert len(await waiting) == 100


async def test_a_stop_iteration_of_a_store_becomes_a_store_error():
    def stop():
        raise StopIteration

    for ask in (arun(search(), Store(stop), timeout=20.0, arguments={}), None):
        with pytest.raises(StoreError, match=r"search failed: (RuntimeError|StopIteration)"):
            await ask if ask else run(search(), Store(stop), timeout=20.0, arguments={})


def test_an_answer_after_the_end_of_the_event_loop_is_dropped(hung):
    with pytest.raises(StoreTimeout):
        asyncio.run(arun(search(), Store(hung.wait), timeout=0.1, arguments={}))
    hung.set()
    wait_until(lambda: len(CallThread.idle) == workers())
    assert len(by_threads([search()], Store())) == 1


async def test_a_hanging_coroutine_is_cancelled_at_the_deadline():
    cancelled = []

    class Hung(AsyncStore):
        async def anearest(self, *_, **__):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    started = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"^the matrix: no answer to a search"):
        await arun(search(), Hung(), timeout=0.3, arguments={})
    assert 0.3 <= time.monotonic() - started < FAR
    assert cancelled == [True]


@pytest.mark.slow
def test_all_requests_share_one_deadline_and_none_follows_it(kind):
    store_class, search_all = kind
    store = store_class(lambda: time.sleep(0.2))
    query = unit(1)
    searches = [  # of several requests each, no two of which fit in one call
        residual_candidates(query, query, SELECTION, step_fetch_k=step_fetch_k)
        for step_fetch_k in range(3, 11)
    ]
    outcomes = search_all(searches, store, timeout=0.5)
    assert {type(outcome) for outcome in outcomes} == {StoreTimeout}
    time.sleep(0.3)  # an abandoned request would show by now
    assert len(store.calls) <= 3


@pytest.mark.slow
def test_retries_end_before_the_deadline(kind):
    store_class, search_all = kind

    def unavailable():
        time.sleep(0.2)
        raise StoreUnavailable

    store = store_class(unavailable)
    (outcome,) = search_all([search()], store, timeout=0.3)
    assert isinstance(outcome, StoreUnavailable | StoreTimeout)
    time.sleep(0.5)  # a third try would show by now
    assert len(store.calls) <= 2


# The errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "expected", "calls"),
    [
        (StoreUnavailable("it said so"), StoreUnavailable, 3),
        (ConnectionResetError(CANARY), StoreUnavailable, 3),
        (httpx.ConnectError(CANARY), StoreUnavailable, 3),
        (httpx.RemoteProtocolError(CANARY), StoreUnavailable, 3),
        (httpx.ReadTimeout(CANARY), StoreTimeout, 1),
        (TimeoutError(CANARY), StoreTimeout, 1),
        (StoreError("it said so"), StoreError, 1),
        (InvalidFilter("it said so"), InvalidFilter, 1),
        (CollectionNotFound("it said so"), CollectionNotFound, 1),
        (KeyError(CANARY), StoreError, 1),
        (ValueError(CANARY), StoreError, 1),
        (OSError(CANARY), StoreError, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_only_transient_errors_are_retried(kind, error, expected, calls):
    store_class, search_all = kind

    def fails():
        raise error

    store = store_class(fails)
    (outcome,) = search_all([search()], store)
    assert type(outcome) is expected
    assert len(store.calls) == calls
    assert CANARY not in str(outcome)
    if expected is not type(error):
        assert outcome.__cause__ is error
        assert str(outcome).startswith("the matrix: ")
    if expected in (StoreError, StoreUnavailable) and expected is not type(error):
        assert str(outcome) == f"the matrix: search failed: {type(error).__name__}"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_transient_fault_does_not_change_the_result(kind, times):
    store_class, search_all = kind
    faults = [ConnectionResetError()] * times

    def fails_at_first():
        if faults:
            raise faults.pop()

    (found,) = search_all([search()], store_class(fails_at_first))
    (expected,) = search_all([search()], store_class())
    assert found.documents == expected.documents
    assert_allclose(found.embeddings, expected.embeddings, rtol=0)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(kind, interrupt):
    store_class, search_all = kind

    def interrupted():
        raise interrupt

    with pytest.raises(interrupt):
        search_all([search()], store_class(interrupted))


# Many searches


def every_kind_of_search():
    return [
        *(search(seed, fetch_k=5) for seed in range(5)),
        *(search(seed, fetch_k=12, parts=1 + seed % 3) for seed in range(5)),
        *(
            residual_candidates(queries, queries, settings, step_fetch_k=4)
            for settings in (SELECTION, replace(SELECTION, replace=True))
            for queries in (unit(1 + seed % 2, seed=seed) for seed in range(5))
        ),
        *(every_candidate(DIMENSIONS) for _ in range(3)),
    ]


def same(one, other):
    if isinstance(one, tuple):  # with its selection
        return same(one[0], other[0]) and np.array_equal(one[1].indices, other[1].indices)
    return (
        one.documents == other.documents
        and one.copies == other.copies
        and np.allclose(one.embeddings, other.embeddings, rtol=0, atol=1e-15)
    )


@pytest.mark.slow
def test_united_searches_share_calls_and_return_the_same_results(kind):
    store_class, search_all = kind
    shared, alone = store_class(), store_class()
    found = search_all(every_kind_of_search(), shared)
    expected = [outcome for one in every_kind_of_search() for outcome in search_all([one], alone)]
    assert len(found) == len(expected) == 23
    assert all(same(*pair) for pair in zip(found, expected, strict=True))
    # Requests for different numbers of rows cannot share a call.
    assert 2 * len(shared.calls) < len(alone.calls)


def test_equal_requests_of_many_searches_are_one_call(kind):
    store_class, search_all = kind
    store = store_class()
    search_all([search(seed, fetch_k=1) for seed in range(60)], store)
    assert store.calls == [60]
    store.calls.clear()
    search_all([every_candidate(DIMENSIONS) for _ in range(60)], store)
    assert store.calls == [0, 0, 0]


@pytest.mark.slow
def test_no_call_has_more_than_64_directions(kind):
    store_class, search_all = kind
    shared, alone = store_class(), store_class()
    parts = [3] * 50 + [150, 1, 64, 65]
    searches = [[search(n, parts=count) for n, count in enumerate(parts)] for _ in range(2)]
    found = search_all(searches[0], shared)
    expected = [outcome for one in searches[1] for outcome in search_all([one], alone)]
    assert all(same(*pair) for pair in zip(found, expected, strict=True))
    assert max(shared.calls) == max(alone.calls) == 64


def failing(at: int) -> Generator[Nearest, list[Rows], None]:
    for _ in range(at):
        yield Nearest(unit(1), 5)
    raise LookupError("its own fault")


def test_a_failing_search_does_not_disturb_the_others(kind):
    store_class, search_all = kind
    wrong = nearest_candidates(*[np.eye(1, DIMENSIONS + 1)] * 2, fetch_k=5)

    class Store(store_class):
        def found(self, directions, count):
            directions = directions[:, :DIMENSIONS]  # the wrong one meets vectors of another size
            return super().found(directions, count)

    found = search_all([search(1), failing(0), wrong, failing(1), failing(2), search(2)], Store())
    (first,), (last,) = search_all([search(1)], Store()), search_all([search(2)], Store())
    assert same(found[0], first)
    assert same(found[5], last)
    assert [type(outcome) for outcome in found[1:5]] == [
        LookupError,
        DimensionMismatch,
        LookupError,
        LookupError,
    ]


def test_a_failing_call_fails_only_the_searches_that_share_it(kind):
    store_class, search_all = kind

    class Picky(store_class):
        def found(self, directions, count):
            if count == 7:
                raise ValueError
            return super().found(directions, count)

    searches = [search(seed, fetch_k=7 if seed % 2 else 30) for seed in range(6)]
    outcomes = search_all(searches, Picky())
    expected = [
        outcome for s in (0, 2, 4) for outcome in search_all([search(s, fetch_k=30)], store_class())
    ]
    assert all(same(*pair) for pair in zip(outcomes[::2], expected, strict=True))
    assert {type(outcome) for outcome in outcomes[1::2]} == {StoreError}


# The threads


@pytest.mark.slow
def test_a_thread_is_reused_after_its_hanging_call_ends(hung):
    run(search(), Store(), timeout=20, arguments={})
    before, hanging = workers(), Store(hung.wait)
    # On a busy machine, the time may be over before the store is called.
    while len(hanging.calls) <= before:
        with pytest.raises(StoreTimeout):
            run(search(), hanging, timeout=0.02, arguments={})
    assert workers() > before
    assert run(search(), Store(), timeout=20, arguments={}).documents
    hung.set()
    wait_until(lambda: workers() == len(CallThread.idle) <= MAX_IDLE)
    all_idle = workers()
    for _ in range(20):
        run(search(), Store(), timeout=20, arguments={})
    assert workers() == len(CallThread.idle) == all_idle


def test_excess_threads_end_after_a_peak():
    callers = MAX_IDLE + 20
    all_there = threading.Barrier(callers)
    outcomes = []

    def call():
        outcomes.append(run(search(fetch_k=90), Store(all_there.wait), timeout=60, arguments={}))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == callers
    wait_until(lambda: workers() <= MAX_IDLE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_search(hung):
    run(search(), Store(), timeout=20, arguments={})  # leaves a thread that the child has not
    with pytest.raises(StoreTimeout):
        run(search(), Store(hung.wait), timeout=0.02, arguments={})
    expected = run(search(), Store(), timeout=20, arguments={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
        child = os.fork()
    if not child:
        status = 1
        try:
            status = int(not same(run(search(), Store(), timeout=30, arguments={}), expected))
        finally:
            os._exit(status)
    ended = []
    try:
        wait_until(lambda: ended or ended.extend(os.waitpid(child, os.WNOHANG)) or ended[0])
    finally:
        if not any(ended):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_the_store_is_called_in_the_caller_s_context(kind):
    store_class, search_all = kind
    seen = []

    def look():
        seen.append(TENANT.get())
        TENANT.set("changed by the store")

    token = TENANT.set("a")
    try:
        search_all([search()], store_class(look))
        assert TENANT.get() == "a"
        TENANT.set("b")
        search_all([search()], store_class(look))
    finally:
        TENANT.reset(token)
    assert seen[0] == "a"
    assert "b" in seen[1:]


def test_each_of_many_threads_has_its_own_context_and_answer():
    seen = {}

    def call(number):
        TENANT.set(f"tenant {number}")
        names = seen[number] = []
        found = run(
            search(number), Store(lambda: names.append(TENANT.get())), timeout=20, arguments={}
        )
        seen[number] = {*names}, found

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(16):
        names, found = seen[number]
        assert names == {f"tenant {number}"}
        assert same(found, run(search(number), Store(), timeout=20, arguments={}))


# Coroutines


async def test_a_cancelled_task_stops_its_call():
    called, ended = asyncio.Event(), []

    class Slow(AsyncStore):
        async def anearest(self, *_, **__):
            called.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

    task = asyncio.create_task(arun(search(), Slow(), timeout=60, arguments={}))
    await asyncio.wait_for(called.wait(), timeout=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_the_caller_s_timeout_is_not_reported_as_the_store_s():
    class Slow(AsyncStore):
        async def anearest(self, *_, **__):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(0.1):
            await arun(search(), Slow(), timeout=60, arguments={})
    assert not isinstance(raised.value, StoreTimeout)


async def test_the_selection_does_not_block_the_event_loop():
    loop_thread = threading.get_ident()
    chosen_in = []

    def choosing():
        yield Nearest(unit(1), 5)
        chosen_in.append(threading.get_ident())

    await arun(choosing(), AsyncStore(), timeout=20, arguments={})
    assert chosen_in != [loop_thread]


# Many coroutines at once


class Clock:
    """The clock of the event loop and of the calls, which only a test moves."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)
        monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: self.now))


class Held(Store):
    """A store whose calls wait in threads until they are released."""

    def __init__(self) -> None:
        self.released = threading.Semaphore(0)
        super().__init__(self.released.acquire)


class AsyncHeld(AsyncStore):
    """The same for coroutines."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Semaphore(0)

    async def anearest(self, directions, count, *, timeout):
        self.calls.append(len(directions))
        assert timeout > 0.0
        await self.released.acquire()
        return self.found(directions, count)


@pytest.mark.slow
@pytest.mark.parametrize("store_class", [Held, AsyncHeld])
async def test_the_wait_for_other_calls_does_not_count_as_the_store_s_time(
    store_class, monkeypatch
):
    # Ten rounds of 64 calls take 2000 s, longer than the timeout of each.
    clock, store = Clock(monkeypatch), store_class()
    searches = [
        asyncio.create_task(arun(search(seed, fetch_k=1), store, timeout=1500, arguments={}))
        for seed in range(640)
    ]
    for called in range(64, 641, 64):
        while len(store.calls) < called and not any(
            task.done() and task.exception() for task in searches
        ):
            await asyncio.to_thread(time.sleep, 0.001)
        assert len(store.calls) <= called
        clock.now += 200.0
        for _ in range(64):
            store.released.release()
    found = await asyncio.gather(*searches)
    assert all(len(candidates.documents) == 1 for candidates in found)


@pytest.mark.slow
async def test_the_wait_for_an_executor_does_not_count_as_the_store_s_time(monkeypatch):
    # A search with a second request, whose computation waits longer than the timeout.
    submitted, released = [], threading.Event()

    class Executor(ThreadPoolExecutor):
        def submit(self, *job):
            submitted.append(job)
            return super().submit(*job)

    clock, store, executor = Clock(monkeypatch), Store(), Executor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.submit(released.wait)
    task = asyncio.create_task(arun(search(fetch_k=20), store, timeout=1500, arguments={}))
    while len(submitted) == 1:
        await asyncio.sleep(0)
    clock.now += 2000.0
    released.set()
    found = await task
    assert len(found.documents) == 20
    assert len(store.calls) > 1


@pytest.mark.slow
@pytest.mark.parametrize("by_thread", [True, False])
async def test_calls_that_wait_for_a_hanging_store_end_with_the_others(hung, by_thread):
    class Hung(AsyncStore):
        async def anearest(self, *_, **__):
            await asyncio.sleep(60)

    store = Store(hung.wait) if by_thread else Hung()
    searches = [arun(search(seed), store, timeout=1.0, arguments={}) for seed in range(300)]
    started = time.monotonic()
    outcomes = await asyncio.gather(*searches, return_exceptions=True)
    assert time.monotonic() - started < FAR
    assert {type(outcome) for outcome in outcomes} == {StoreTimeout}
    assert {str(outcome) for outcome in outcomes} == {
        "the matrix: no answer to a search within 1 s: raise `timeout`, or use `abatch` for many "
        "queries"
    }


@pytest.mark.slow
async def test_a_call_that_hangs_among_others_that_answer_ends_at_its_deadline(hung):
    calls = []

    def happens():
        calls.append(None)
        if len(calls) == 1:
            hung.wait()

    store = Store(happens)
    hanging = asyncio.create_task(arun(search(), store, timeout=0.5, arguments={}))
    started = time.monotonic()
    while not hanging.done():
        assert time.monotonic() - started < FAR
        if calls:
            await arun(search(), store, timeout=FAR, arguments={})
        await asyncio.sleep(0.01)
    with pytest.raises(StoreTimeout):
        await hanging


async def test_a_cancelled_call_leaves_its_turn_to_others(hung):
    store = Store(hung.wait)
    tasks = [
        asyncio.create_task(arun(search(n), store, timeout=60.0, arguments={})) for n in range(200)
    ]
    await asyncio.sleep(0.1)
    for task in tasks[:199]:
        task.cancel()
    await asyncio.sleep(0.1)
    hung.set()
    assert len((await tasks[199]).documents) == 5
