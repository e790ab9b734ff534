"""Replicas of a cluster of three nodes: clients leave, too many ask, a replica and a node die."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from integration_tests import ray_endpoint as on
from integration_tests.ray_slow import Journal

OK, REFUSED = 200, 503
STEP = 0.1
REQUESTS = 100


async def leave(url: str, journal: Journal) -> dict[str, Any]:
    """Leave while a request is learned for; count the steps taken after."""
    async with on.client() as http:
        task = asyncio.create_task(on.ask(http, url, 1, "left"))
        while not any(what == "step" for _, _, what, _ in journal.read()):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    left = time.time()
    await asyncio.sleep(1.5)
    lines = journal.read()
    return {
        "steps after": sum(what == "step" and when > left for when, _, what, _ in lines),
        "steps in all": sum(what == "step" for _, _, what, _ in lines),
        "answered": any(what == "answer" for _, _, what, _ in lines),
    }


async def flood(url: str, count: int) -> dict[str, Any]:
    """Ask, each after 0.02 s, twenty times as many as two replicas answer in that time."""
    found = await on.ask_all(url, count, at_once=count, apart=0.02)
    refused = [one for one in found if one["status"] == 503]
    return {
        "asked": count,
        "statuses": dict(Counter(str(one["status"]) for one in found)),
        "refused in seconds, median": sorted(one["seconds"] for one in refused)[len(refused) // 2],
        "refused in seconds, most": max(one["seconds"] for one in refused),
        "with Retry-After": sum(one["retry_after"] is not None for one in refused),
    }


async def kill_a_replica(url: str, journal: Journal) -> dict[str, Any]:
    """SIGKILL a replica while each of the two has a request."""
    async with on.client() as http:
        asking = [asyncio.create_task(on.ask(http, url, n, f"kill-{n}")) for n in range(2)]
        while len(begun := processes(journal, "begin", "kill-")) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(STEP)
        victim = begun["kill-0"]
        on.process(victim).kill()
        killed = time.monotonic()
        first = await asyncio.gather(*asking)
        failed = [n for n, one in enumerate(first) if one["status"] != OK]
        again = [await on.ask(http, url, n, f"kill-{n}") for n in failed]
        # Asked in pairs, until two processes answer that live.
        others: list[Any] = []
        while len(set(processes(journal, "answer", "other-").values()) - {victim}) < 2:
            assert time.monotonic() - killed < 60
            pair = (len(others), len(others) + 1)
            asking = [asyncio.create_task(on.ask(http, url, n, f"other-{n}", 2)) for n in pair]
            others += await asyncio.gather(*asking)
        recovered = time.monotonic() - killed
    return {
        "on the victim": sum(pid == victim for pid in begun.values()),
        "statuses": sorted(one["status"] for one in first),
        "failed in seconds": max(first[n]["seconds"] for n in failed),
        "asked again": [one["status"] for one in again],
        "others": dict(Counter(str(one["status"]) for one in others)),
        "two replicas answer after seconds": recovered,
    }


def processes(journal: Journal, wanted: str, names: str) -> dict[str, int]:
    """Return which process began, or answered, each request of such a name."""
    return {
        which: pid
        for _, pid, what, which in journal.read()
        if what == wanted and which.startswith(names)
    }


async def lose_a_node(url: str, cluster: Any, node: Any, journal: Journal) -> dict[str, Any]:
    """Kill a node while a hundred requests are asked by clients as OpenAI's are.

    They send a request again, by the same id, when they are told to come later, or it failed.
    """
    room = asyncio.Semaphore(8)
    ended: list[float] = []
    lost = float("inf")
    async with on.client() as http:

        async def one(number: int) -> list[Any]:
            statuses: list[Any] = []
            async with room:
                while OK not in statuses and statuses.count(500) < 2 and len(statuses) < 50:
                    if statuses and statuses[-1] == REFUSED:
                        await asyncio.sleep(1)  # as Retry-After says
                    found = await on.ask(http, url, number, f"node-{number}", 2)
                    statuses.append(found["status"])
                ended.append(time.monotonic())
            return statuses

        asking = asyncio.gather(*map(one, range(REQUESTS)))
        while len(ended) < REQUESTS // 3:
            await asyncio.sleep(0.01)
        lost = time.monotonic()
        await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
        found = await asking
    begun = Counter(which for _, _, what, which in journal.read() if what == "begin")
    # What is refused has not begun, and nobody but its client asks a request again.
    most = {f"node-{n}": len(s) - s.count(REFUSED) for n, s in enumerate(found)}
    cluster.add_node(num_cpus=1, **on.SMALL)
    waited = await asyncio.to_thread(on.wait_for, lambda: on.running_replicas() == 2, 60)
    after = sorted(when - lost for when in ended if when > lost)
    return {
        "first answers": dict(Counter(str(statuses[0]) for statuses in found)),
        "last answers": dict(Counter(str(statuses[-1]) for statuses in found)),
        "failed once, and asked again": sum(500 in statuses for statuses in found),
        "answered twice": sum(statuses.count(OK) > 1 for statuses in found),
        "begun more often than asked": sum(begun[which] > asked for which, asked in most.items()),
        "longest pause, seconds": max(b - a for a, b in pairwise([0.0, *after])),
        "two replicas, after a node came, seconds": waited,
    }


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
        health = httpx.get(url.removesuffix("/v1") + "/health", timeout=20).json()
        return {
            "health": health,
            "left": asyncio.run(leave(url, journal)),
            "flood": asyncio.run(flood(url, 60)),
            "replica killed": asyncio.run(kill_a_replica(url, journal)),
            "node lost": asyncio.run(lose_a_node(url, cluster, nodes[1], journal)),
        }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
