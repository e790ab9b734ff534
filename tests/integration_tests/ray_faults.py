"""Disconnect clients, exceed the capacity, and kill a replica and a node of a cluster of three."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from integration_tests import ray_endpoint as on
from integration_tests.ray_slow import Journal

OK, REJECTED = 200, 503
STEP = 0.1
REQUESTS = 100
LONG = 40
"""Number of documents of a request that is still being trained when something happens to it."""


async def disconnect(url: str, journal: Journal) -> dict[str, Any]:
    """Disconnect during the training of a request; count the steps after that."""
    async with on.client() as http:
        task = asyncio.create_task(on.ask(http, url, 1, "left", LONG))
        while not any(event == "step" for _, _, event, _ in journal.read()):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    left = time.time()
    await asyncio.sleep(1.5)
    lines = journal.read()
    return {
        "steps after": sum(event == "step" and when > left for when, _, event, _ in lines),
        "steps in all": sum(event == "step" for _, _, event, _ in lines),
        "answered": any(event == "answer" for _, _, event, _ in lines),
    }


async def flood(url: str, count: int) -> dict[str, Any]:
    """Send twenty times as many requests as two replicas answer, 0.02 s apart."""
    responses = await on.ask_all(url, count, at_once=count, apart=0.02)
    answered = [response for response in responses if response["status"] == OK]
    rejected = [response for response in responses if response["status"] == REJECTED]
    return {
        "asked": count,
        "statuses": dict(Counter(str(response["status"]) for response in responses)),
        "refused in seconds, median": median(one["seconds"] for one in rejected),
        "refused in seconds, most": max(one["seconds"] for one in rejected),
        "answered in seconds, least": min(one["seconds"] for one in answered),
        "with Retry-After": sum(one["retry_after"] is not None for one in rejected),
    }


async def kill_a_replica(url: str, journal: Journal) -> dict[str, Any]:
    """Kill a replica while each of the two has a request."""
    async with on.client() as http:
        tasks = [asyncio.create_task(on.ask(http, url, n, f"kill-{n}", LONG)) for n in range(2)]
        while len(started := processes(journal, "begin", "kill-")) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(STEP)
        victim = started["kill-0"]
        on.process(victim).kill()
        killed = time.monotonic()
        first = await asyncio.gather(*tasks)
        failed = [n for n, response in enumerate(first) if response["status"] != OK]
        retried = [await on.ask(http, url, n, f"kill-{n}") for n in failed]
        # Pairs of requests, until both replicas answer.
        others: list[Any] = []
        while len(set(processes(journal, "answer", "other-").values()) - {victim}) < 2:
            assert time.monotonic() - killed < on.DEADLINE
            pair = (len(others), len(others) + 1)
            tasks = [asyncio.create_task(on.ask(http, url, n, f"other-{n}", 1)) for n in pair]
            others += await asyncio.gather(*tasks)
        recovered = time.monotonic() - killed
    return {
        "on the victim": sum(pid == victim for pid in started.values()),
        "statuses": sorted(response["status"] for response in first),
        "failed in seconds": max(first[n]["seconds"] for n in failed),
        "asked again": [response["status"] for response in retried],
        "others": dict(Counter(str(response["status"]) for response in others)),
        "two replicas answer after seconds": recovered,
    }


def processes(journal: Journal, event: str, names: str) -> dict[str, int]:
    """Return the processes that began, or answered, the requests with such names."""
    return {
        which: pid
        for _, pid, what, which in journal.read()
        if what == event and which.startswith(names)
    }


async def lose_a_node(url: str, cluster: Any, node: Any, journal: Journal) -> dict[str, Any]:
    """Kill a node while clients send a hundred requests.

    Like OpenAI's clients, they send a request again, with the same id, after a rejection or a
    failure.
    """
    slots = asyncio.Semaphore(8)
    ended: list[float] = []
    lost = float("inf")
    async with on.client() as http:

        async def request(number: int) -> list[Any]:
            statuses: list[Any] = []
            async with slots:
                while OK not in statuses and statuses.count(500) < 2 and len(statuses) < 50:
                    if statuses and statuses[-1] == REJECTED:
                        await asyncio.sleep(1)  # the seconds of Retry-After
                    response = await on.ask(http, url, number, f"node-{number}", 2)
                    statuses.append(response["status"])
                ended.append(time.monotonic())
            return statuses

        requests = asyncio.gather(*map(request, range(REQUESTS)))
        while len(ended) < REQUESTS // 3:
            await asyncio.sleep(0.01)
        lost = time.monotonic()
        await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
        statuses_of = await requests
    started = Counter(which for _, _, what, which in journal.read() if what == "begin")
    # A rejected request was not started, and only its client sends a request again.
    sent = {f"node-{n}": len(s) - s.count(REJECTED) for n, s in enumerate(statuses_of)}
    cluster.add_node(num_cpus=1, **on.SMALL)
    waited = await asyncio.to_thread(on.wait_for, lambda: on.running_replicas() == 2, on.DEADLINE)
    after = sorted(when - lost for when in ended if when > lost)
    return {
        "first answers": dict(Counter(str(statuses[0]) for statuses in statuses_of)),
        "last answers": dict(Counter(str(statuses[-1]) for statuses in statuses_of)),
        "failed once, and asked again": sum(500 in statuses for statuses in statuses_of),
        "answered twice": sum(statuses.count(OK) > 1 for statuses in statuses_of),
        "begun more often than asked": sum(started[which] > n for which, n in sent.items()),
        "longest pause, seconds": max(b - a for a, b in pairwise([0.0, *after])),
        "two replicas, after a node came, seconds": waited,
    }


def health_of(url: str) -> Any:
    """Return the health once the engine is not busy with its start."""
    for _ in range(60):
        health = httpx.get(url.removesuffix("/v1") + "/health", timeout=on.DEADLINE).json()
        if health["engine"] != "busy":
            break
        time.sleep(0.5)
    return health


def main(model: str, folder: Path, store: str) -> dict[str, Any]:
    journal = Journal(folder / "journal")
    args = {
        "journal": str(folder / "journal"),
        "step_seconds": STEP,
        "settings": on.settings(
            model, store, on.fill_store(store, model), k=8, limits={"max_batch_size": 1}
        ),
    }
    with on.cluster_of(0, 1, 1) as (cluster, nodes):
        path = "integration_tests.ray_slow:build_app"
        url = on.deploy(folder, cluster, path, args, num_replicas=2, max_queued_requests=4)
        health = health_of(url)
        return {
            "health": health,
            "left": asyncio.run(disconnect(url, journal)),
            "flood": asyncio.run(flood(url, 60)),
            "replica killed": asyncio.run(kill_a_replica(url, journal)),
            "node lost": asyncio.run(lose_a_node(url, cluster, nodes[1], journal)),
        }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
