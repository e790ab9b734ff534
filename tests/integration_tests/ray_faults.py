"""Replicas of a cluster of three nodes: clients leave, too many ask, a replica and a node die."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from integration_tests import ray_endpoint as on
from integration_tests.ray_slow import Journal

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
    """Ask ten times as many as are answered at once or wait."""
    found = await on.ask_all(url, count, at_once=count)
    refused = [one for one in found if one["status"] == 503]
    return {
        "asked": count,
        "statuses": dict(Counter(str(one["status"]) for one in found)),
        "refused in seconds, median": sorted(one["seconds"] for one in refused)[len(refused) // 2],
        "refused in seconds, most": max(one["seconds"] for one in refused),
        "with Retry-After": sum(one["retry_after"] is not None for one in refused),
    }


async def kill_a_replica(url: str, journal: Journal) -> dict[str, Any]:
    """SIGKILL a replica in the middle of one of eight requests."""
    async with on.client() as http:
        asking = [asyncio.create_task(on.ask(http, url, n, f"kill-{n}")) for n in range(2)]
        begun: dict[str, int] = {}
        while len(begun) < 2:
            await asyncio.sleep(0.01)
            begun = {w: pid for _, pid, what, w in journal.read() if w.startswith("kill-")}
        await asyncio.sleep(STEP)
        victim = begun["kill-0"]
        on.process(victim).kill()
        killed = time.monotonic()
        first = await asyncio.gather(*asking)
        failed = [n for n, one in enumerate(first) if one["status"] != 200]
        again = [await on.ask(http, url, n, f"kill-{n}") for n in failed]
        others = [await on.ask(http, url, n, f"after-{n}") for n in range(2, 8)]
    recovered = await asyncio.to_thread(on.wait_for, lambda: on.running_replicas() == 2, 60)
    on_victim = sum(pid == victim for pid in begun.values())
    return {
        "statuses": [one["status"] for one in first],
        "on the victim": on_victim,
        "failed": len(failed),
        "failed in seconds": max(first[n]["seconds"] for n in failed),
        "asked again": [one["status"] for one in again],
        "others": [one["status"] for one in others],
        "two replicas after seconds": time.monotonic() - killed,
        "in time": recovered < 60,
    }


async def lose_a_node(url: str, cluster: Any, node: Any, journal: Journal) -> dict[str, Any]:
    """Kill a node while a hundred requests are asked, each again once if it fails."""
    room, done = asyncio.Semaphore(6), 0
    lost = resumed = 0.0
    async with on.client() as http:

        async def one(number: int) -> list[Any]:
            nonlocal done, lost, resumed
            async with room:
                found = [await on.ask(http, url, number, f"node-{number}")]
                if found[0]["status"] != 200:
                    found.append(await on.ask(http, url, number, f"node-{number}"))
                done += 1
                if done == REQUESTS // 3:
                    await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
                    lost = time.monotonic()
                elif lost and not resumed and found[-1]["status"] == 200:
                    resumed = time.monotonic()
                return [one["status"] for one in found]

        found = await asyncio.gather(*map(one, range(REQUESTS)))
    answers = Counter(which for _, _, what, which in journal.read() if what == "answer")
    cluster.add_node(num_cpus=1, **on.SMALL)
    began = time.monotonic()
    await asyncio.to_thread(on.wait_for, lambda: on.running_replicas() == 2, 60)
    return {
        "first statuses": dict(Counter(str(statuses[0]) for statuses in found)),
        "last statuses": dict(Counter(str(statuses[-1]) for statuses in found)),
        "answered twice": sum(
            times > 1 for which, times in answers.items() if which.startswith("node-")
        ),
        "next answer after seconds": resumed - lost,
        "two replicas after a node came, seconds": time.monotonic() - began,
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
