"""Count the requests under faults between retriever and server, injected by a proxy."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import pytest
from integration_tests.corpus import CANARY, QUERIES, RandomEmbeddings
from integration_tests.servers import (
    ProxiedResponse,
    delay,
    html_page,
    no_response,
    slow_bytes,
    status,
    truncated_body,
    truncated_response,
)
from langchain_chroma import Chroma

from langchain_sift import SIFTRetriever
from langchain_sift.errors import SIFTError, StoreError, StoreTimeout, StoreUnavailable
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.deadlines import CallThread

# Faults that a retry may mend.
PASSING = {
    "503": status(503),
    "429": status(429),
    "502": status(502),
    "504": status(504),
    "429 of Chroma": status(429, b'{"error": "RateLimitError", "message": "heliotrope"}'),
    "reset": ProxiedResponse.reset,
    "half an answer": truncated_response,
    "half a text": truncated_body,
    "no JSON": html_page,
}
# Faults that it does not mend.
LASTING = {
    "500": status(500, CANARY.encode()),
    "500 of Chroma": status(500, b'{"error": "InternalError", "message": "heliotrope"}'),
    "401": status(401, CANARY.encode()),
    "403 of Chroma": status(403, b'{"error": "AuthError", "message": "heliotrope"}'),
    "400": status(400, CANARY.encode()),
    "200 with another body": status(200, b'{"heliotrope": 1}'),
}


LATE = 30.0
"""Seconds: far beyond the deadlines here, also on a busy machine."""


@pytest.fixture
async def retriever(filled, proxy, open_store):
    """Return a retriever that queries through the proxy, with threads or coroutines."""
    found = SIFTRetriever(vectorstore=await open_store(proxy.port, filled), k=5, timeout=60)
    await found.ainvoke(QUERIES[0])  # so that the collection is known
    proxy.requests.clear()
    return found


async def error_of(retriever, **settings):
    """Return the error of a search, and the seconds until it."""
    started = time.monotonic()
    with pytest.raises(SIFTError) as raised:
        await retriever.ainvoke(QUERIES[0], **settings)
    assert CANARY not in str(raised.value)
    return raised.value, time.monotonic() - started


@pytest.mark.parametrize("fault", PASSING)
async def test_a_transient_fault_is_retried_twice_and_then_raised(proxy, retriever, fault):
    proxy.inject(PASSING[fault])
    error, _ = await error_of(retriever)
    assert type(error) is StoreUnavailable
    assert "Chroma collection 'facts-" in str(error)
    assert len(proxy.requests) == 3


@pytest.mark.parametrize(("fault", "times"), [*((fault, 1) for fault in PASSING), ("503", 2)])
async def test_a_transient_fault_does_not_change_the_result(proxy, retriever, fault, times):
    expected = await retriever.ainvoke(QUERIES[0])
    requests = len(proxy.requests)
    proxy.inject(PASSING[fault], times=times)
    assert await retriever.ainvoke(QUERIES[0]) == expected
    assert len(proxy.requests) == requests + times


@pytest.mark.parametrize("fault", LASTING)
async def test_a_permanent_fault_is_not_retried(proxy, retriever, fault):
    proxy.inject(LASTING[fault])
    error, _ = await error_of(retriever)
    assert type(error) is StoreError
    assert "Chroma collection 'facts-" in str(error)
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
async def test_every_call_of_a_search_is_retried(proxy, retriever, candidate_search):
    settings = {"candidate_search": candidate_search}
    expected = await retriever.abatch(QUERIES, **settings)
    requests = len(proxy.requests)
    for number in range(min(requests, 4)):
        proxy.inject(status(503), after=number, times=2)
        assert await retriever.abatch(QUERIES, **settings) == expected
        assert requests < len(proxy.requests) <= 3 * requests


async def test_a_server_that_refuses_connections_is_unavailable_until_it_accepts(proxy, retriever):
    expected = await retriever.ainvoke(QUERIES[0])
    proxy.refuse()
    error, _ = await error_of(retriever)
    assert type(error) is StoreUnavailable
    assert str(error).endswith("search failed: ConnectError")
    proxy.accept()
    assert await retriever.ainvoke(QUERIES[0]) == expected


@pytest.mark.parametrize(
    "fault", [no_response, slow_bytes, delay(LATE)], ids=["no_response", "slow_bytes", "delay"]
)
async def test_a_late_answer_is_a_timeout(proxy, retriever, fault):
    proxy.inject(fault)
    error, seconds = await error_of(retriever, timeout=0.6)
    assert type(error) is StoreTimeout
    assert 0.5 < seconds < LATE
    assert len(proxy.requests) <= 1  # on a busy machine, it may be on its way
    proxy.inject(fault, times=0)
    assert len(await retriever.ainvoke(QUERIES[0])) == 5


async def test_a_slow_answer_in_time_is_used(proxy, retriever):
    expected = await retriever.ainvoke(QUERIES[0])
    proxy.inject(delay(0.4))
    assert await retriever.ainvoke(QUERIES[0]) == expected


async def test_retries_count_towards_the_timeout(proxy, retriever):
    def slow_refusal(answer):
        answer.ended.wait(0.5)
        answer.send(503, b"")

    proxy.inject(slow_refusal)
    await error_of(retriever, timeout=0.8)
    await asyncio.sleep(0.5)  # a third would show by now
    assert len(proxy.requests) <= 2


@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        (status(503), StoreUnavailable, 3),
        (status(500), StoreError, 1),
        (no_response, StoreTimeout, 1),
    ],
    ids=["503", "500", "no_response"],
)
async def test_the_lookup_of_the_collection_fails_in_the_same_way(
    proxy, retriever, fault, kind, requests
):
    expected = await retriever.ainvoke(QUERIES[0])
    forget(retriever.vectorstore)
    proxy.inject(fault)
    error, seconds = await error_of(retriever, timeout=0.8 if fault is no_response else 60)
    assert type(error) is kind
    assert seconds < LATE
    assert len(proxy.requests) == requests or (fault is no_response and not proxy.requests)
    assert all("/collections/facts-" in request.path for request in proxy.requests)
    proxy.inject(fault, times=0)
    assert await retriever.ainvoke(QUERIES[0]) == expected


def forget(store):
    """Make a store look for its collection by name, as after a deletion."""
    if isinstance(store, AsyncChroma):
        store._handle._collection = None
    else:
        store._chroma_collection = None


async def test_concurrent_calls_fail_and_recover_separately(proxy, retriever):
    expected = await retriever.abatch(QUERIES)
    proxy.inject(status(503), times=20)
    requests = [retriever.ainvoke(query) for query in QUERIES * 5]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    for outcome, right in zip(outcomes, expected * 5, strict=True):
        assert outcome == right or type(outcome) is StoreUnavailable
    assert len(proxy.requests) <= 3 * len(outcomes)
    assert await retriever.abatch(QUERIES) == expected


async def test_a_failing_query_of_a_batch_is_returned_at_its_position(proxy, retriever):
    proxy.inject(status(500))
    outcomes = await retriever.abatch(QUERIES, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreError}
    assert not any(CANARY in str(outcome) for outcome in outcomes)


async def test_only_vectors_are_sent(proxy, retriever):
    for candidate_search in CANDIDATE_SEARCHES:
        await retriever.ainvoke(QUERIES[0], candidate_search=candidate_search)
        await retriever.abatch(QUERIES, candidate_search=candidate_search)
    queries = [request.body for request in proxy.requests if request.path.endswith("/query")]
    assert queries
    assert all("query_embeddings" in body and "query_texts" not in body for body in queries)
    assert not any(CANARY in str(request.body) for request in proxy.requests)


def test_threads_are_idle_again_after_timeouts(proxy, filled, connect):
    store = Chroma(
        client=connect(proxy.port), collection_name=filled, embedding_function=RandomEmbeddings()
    )
    retriever = SIFTRetriever(vectorstore=store, timeout=0.4)
    proxy.inject(no_response)

    def wait_in_vain():
        with suppress(StoreTimeout):
            retriever.invoke("?")

    waiting = [threading.Thread(target=wait_in_vain) for _ in range(12)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    proxy.inject(no_response, times=0)
    deadline = time.monotonic() + 60
    while len(CallThread.idle) < sum(
        t.name == "langchain-sift-store" for t in threading.enumerate()
    ):
        assert time.monotonic() < deadline, "some still wait"
        time.sleep(0.02)
    assert len(retriever.invoke(QUERIES[0], timeout=60)) == 4
