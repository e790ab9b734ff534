"""Kill the server under load and restart it, or stop and continue it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from integration_tests.corpus import CANARY, QUERIES, RandomEmbeddings, ids
from integration_tests.servers import Server
from langchain_chroma import Chroma

from langchain_sift import SIFTRetriever
from langchain_sift.errors import SIFTError, StoreTimeout, StoreUnavailable
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.deadlines import CallThread

CALLERS = 20
RECOVERY = 30.0
"""Seconds after the first good heartbeat."""
PATIENCE = 60.0
"""Seconds, far beyond any wait on a busy machine."""


# Killed, and started again


@dataclass(frozen=True)
class Observation:
    """The outcome of a query, with its time."""

    caller: int
    query: str
    when: float
    outcome: Any


async def kill_and_restart(server: Server, observed: list[Observation]) -> float:
    """Return when the server answered again, after all callers had right answers again."""

    async def until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, problem
            await asyncio.sleep(0.05)

    def answers(caller: int, since: float) -> int:
        return sum(
            o.caller == caller and o.when > since and isinstance(o.outcome, list) for o in observed
        )

    def all_have(count: int, since: float) -> bool:
        return all(answers(caller, since) >= count for caller in range(CALLERS))

    await until(lambda: all_have(3, 0.0), PATIENCE, "some caller has no answers yet")
    server.kill()
    await until(
        lambda: any(isinstance(o.outcome, Exception) for o in list(observed)),
        PATIENCE,
        "the server was killed in vain",
    )
    await asyncio.to_thread(server.start)
    back = time.monotonic()
    await until(lambda: all_have(1, back), RECOVERY, "some caller has no answer again")
    await until(lambda: all_have(3, back), PATIENCE, "some caller has no further answers")
    return back


def check(observed: list[Observation], expected: dict[str, list[str]], back: float) -> None:
    answers = [o for o in observed if isinstance(o.outcome, list)]
    errors = [o.outcome for o in observed if not isinstance(o.outcome, list)]
    assert len(answers) > 5 * CALLERS
    assert [o for o in answers if o.outcome != expected[o.query]] == []
    assert errors, "the server was killed in vain"
    assert {type(error) for error in errors} <= {StoreUnavailable, StoreTimeout}
    assert not any(CANARY in str(error) for error in errors)
    recovered = {o.caller: o.when for o in reversed(answers) if o.when > back}
    assert len(recovered) == CALLERS
    assert max(recovered.values()) < back + RECOVERY


async def test_threads_are_served_again_after_a_restart(stoppable_server, name, fill):
    retriever = SIFTRetriever(vectorstore=fill(stoppable_server.port, name), k=5, timeout=5)
    expected = {query: ids(retriever.invoke(query)) for query in QUERIES}
    observed: list[Observation] = []
    done = threading.Event()

    def ask(caller: int) -> None:
        turn = caller
        while not done.wait(0.03):
            query = QUERIES[turn % len(QUERIES)]
            try:
                outcome: Any = ids(retriever.invoke(query))
            except Exception as error:  # noqa: BLE001 - looked at below
                outcome = error
            observed.append(Observation(caller, query, time.monotonic(), outcome))
            turn += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        back = await kill_and_restart(stoppable_server, observed)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    check(observed, expected, back)


async def test_tasks_are_served_again_after_a_restart(stoppable_server, name, fill, aconnect):
    fill(stoppable_server.port, name)
    store = AsyncChroma(await aconnect(stoppable_server.port), name, RandomEmbeddings())
    retriever = SIFTRetriever(vectorstore=store, k=5, timeout=5)
    expected = {query: ids(await retriever.ainvoke(query)) for query in QUERIES}
    observed: list[Observation] = []

    async def ask(caller: int) -> None:
        turn = caller
        while True:
            query = QUERIES[turn % len(QUERIES)]
            try:
                outcome: Any = ids(await retriever.ainvoke(query))
            except Exception as error:  # noqa: BLE001 - looked at below
                outcome = error
            observed.append(Observation(caller, query, time.monotonic(), outcome))
            turn += 1
            await asyncio.sleep(0.03)

    tasks = [asyncio.create_task(ask(caller)) for caller in range(CALLERS)]
    try:
        back = await kill_and_restart(stoppable_server, observed)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.aclose()
    check(observed, expected, back)


# Hung, and going on


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """Return a server that a test may pause; it continues before the next test."""
    with Server(tmp_path_factory.mktemp("hanging")) as running:
        yield running


@pytest.fixture
async def both(hanging, name, fill, aconnect):
    """Return retrievers for threads and for coroutines."""
    store = AsyncChroma(await aconnect(hanging.port), name, RandomEmbeddings())
    stores: list[Any] = [fill(hanging.port, name), store]
    yield [SIFTRetriever(vectorstore=store, k=5, timeout=60) for store in stores]
    hanging.resume()
    await store.aclose()


ASK: dict[str, tuple[int, Callable[..., Any]]] = {
    "invoke": (0, lambda retriever, **settings: retriever.invoke(QUERIES[0], **settings)),
    "batch": (0, lambda retriever, **settings: retriever.batch(QUERIES, **settings)),
    "ainvoke, by threads": (0, lambda retriever, **s: retriever.ainvoke(QUERIES[0], **s)),
    "ainvoke, by coroutines": (1, lambda retriever, **s: retriever.ainvoke(QUERIES[0], **s)),
    "abatch, by threads": (0, lambda retriever, **settings: retriever.abatch(QUERIES, **settings)),
    "abatch, by coroutines": (1, lambda retriever, **s: retriever.abatch(QUERIES, **s)),
}


@pytest.mark.parametrize("way", ASK)
async def test_a_hanging_server_is_a_timeout_and_serves_when_it_continues(hanging, both, way):
    which, ask = ASK[way]

    async def retrieve(**settings: Any) -> Any:
        outcome = ask(both[which], **settings)
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    async def late(timeout: float) -> float:
        started = time.monotonic()
        with pytest.raises(StoreTimeout) as raised:
            await retrieve(timeout=timeout)
        assert CANARY not in str(raised.value)
        return time.monotonic() - started - timeout

    expected = await retrieve()
    hanging.hang()
    for timeout in (2, 6, 18):  # a busy machine adds some seconds, whichever the timeout is
        if abs(await late(timeout)) < timeout / 3:
            break
    else:
        pytest.fail("the error came far from the deadline, each time")
    hanging.resume()
    assert await retrieve() == expected
    assert asyncio.all_tasks() == {asyncio.current_task()}


def workers() -> int:
    return sum(thread.name == "langchain-sift-store" for thread in threading.enumerate())


async def until_all_are_idle() -> None:
    deadline = time.monotonic() + PATIENCE
    while len(CallThread.idle) < workers():
        assert time.monotonic() < deadline, "a thread waits for a server that hangs"
        await asyncio.sleep(0.02)


async def test_threads_do_not_accumulate_for_a_hanging_server(hanging, both):
    retriever = both[0]
    expected = retriever.invoke(QUERIES[0])
    await until_all_are_idle()
    most = workers()
    hanging.hang()
    for _ in range(6):
        with pytest.raises(StoreTimeout):
            retriever.invoke(QUERIES[0], timeout=0.2)
        await until_all_are_idle()
        outcomes = retriever.batch(QUERIES, timeout=0.2, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreTimeout}
        await until_all_are_idle()
    assert workers() == most
    hanging.resume()
    for _ in range(10):
        assert retriever.invoke(QUERIES[0]) == expected
    assert workers() == most


async def test_a_lookup_on_a_hanging_server_is_a_timeout(hanging, name, connect, fill, aconnect):
    fill(hanging.port, name)
    by_threads = Chroma(
        client=connect(hanging.port), collection_name=name, embedding_function=RandomEmbeddings()
    )
    by_threads._chroma_collection = None
    by_coroutines = AsyncChroma(await aconnect(hanging.port), name, RandomEmbeddings())
    hanging.hang()
    try:
        for store in (by_threads, by_coroutines):
            started = time.monotonic()
            with pytest.raises(StoreTimeout):
                await SIFTRetriever(vectorstore=store).ainvoke(QUERIES[0], timeout=0.5)
            assert time.monotonic() - started < 25  # the default is 30 s
        await until_all_are_idle()
    finally:
        hanging.resume()
    for store in (by_threads, by_coroutines):
        assert len(await SIFTRetriever(vectorstore=store).ainvoke(QUERIES[0])) == 4
    await by_coroutines.aclose()


async def test_the_error_is_a_python_timeout_error(hanging, both):
    hanging.hang()
    with pytest.raises(TimeoutError) as raised:
        both[0].invoke(QUERIES[0], timeout=0.2)
    assert isinstance(raised.value, SIFTError)
    patient = both[0].bind(timeout=0.2).with_fallbacks([both[0].bind(timeout=60)])
    threading.Timer(0.5, hanging.resume).start()
    assert len(patient.invoke(QUERIES[0])) == 5
