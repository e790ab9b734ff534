"""Measure the endpoint under ten times the load that it can answer.

    python tests/benchmarks/serving.py --commit COMMIT --out tests/benchmarks/results/serving.json

`langchain-sift serve` runs in a separate process, with the model and documents of the demo. The
benchmark first measures the duration of a full batch. It gives the rate that the server can answer,
and the longest wait of an admitted request: the batches before it and its batch. Then independent
clients send ten times as many requests, first at a steady rate and then all at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch
from langchain_core.documents import Document

from langchain_sift.comparison import read_prompts
from langchain_sift.indexing import read_corpus
from langchain_sift.indexing.index import index_into
from langchain_sift.ttft import load_language_model

DEMO = Path(__file__).parents[2] / "examples" / "demo"
BATCH, CAPACITY, FACTOR = 4, 16, 10
NAME = "demo"
SERVED = {
    "--mode": "ttft",
    "--k": 4,
    "--max-length": 128,
    "--lora-rank": 16,
    "--learning-rate": 4e-3,
    "--max-tokens": 8,
    "--max-batch-size": BATCH,
    "--max-requests": CAPACITY,
}


@dataclass(frozen=True)
class Answer:
    """Status, seconds and `Retry-After` of a response."""

    status: int
    seconds: float
    retry_after: str | None


class Server:
    """A process of the command, and its memory."""

    def __init__(self, store: Path) -> None:
        options = [str(part) for option in SERVED.items() for part in option]
        command = ["serve", "--model", DEMO / "model", "--name", NAME, "--store", store]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "langchain_sift", *map(str, command), "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]
        self._usage = psutil.Process(self._process.pid)

    def megabytes(self) -> float:
        return self._usage.memory_info().rss / 2**20

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(60)


class Clients:
    """Plain connections to the server, so that the client costs little."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, count: int) -> None:
        while len(self._idle) < count:
            self._idle.append(await asyncio.open_connection(self._host, self._port))

    async def ask(self, text: str) -> Answer:
        content = json.dumps({"model": NAME, "prompt": text[:400]}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        # The server closes idle connections after some seconds.
        self._idle = [(reader, writer) for reader, writer in self._idle if not reader.at_eof()]
        await self.connect(1)
        reader, writer = self._idle.pop()
        start = time.perf_counter()
        writer.write(head.encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        seconds = time.perf_counter() - start
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        self._idle.append((reader, writer))
        return Answer(int(lines[0].split()[1]), seconds, headers.get("retry-after"))

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


async def full_batches(clients: Clients, texts: list[str], rounds: int) -> list[float]:
    """Return the seconds of full batches, each without a queue before it."""
    seconds = []
    for turn in range(rounds):
        start = time.perf_counter()
        requests = [clients.ask(texts[(turn * BATCH + n) % len(texts)]) for n in range(BATCH)]
        answers = await asyncio.gather(*requests)
        assert {answer.status for answer in answers} == {200}
        seconds.append(time.perf_counter() - start)
    return seconds


async def send_at_rate(
    clients: Clients, texts: list[str], *, rate: float, seconds: float
) -> list[Answer]:
    """Send requests at a rate, whether or not responses arrive."""
    tasks = []
    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(start + number / rate - time.perf_counter())
        tasks.append(asyncio.ensure_future(clients.ask(texts[number % len(texts)])))
    return await asyncio.gather(*tasks)


async def with_memory(
    server: Server, work: Awaitable[list[Answer]]
) -> tuple[list[Answer], list[float]]:
    """Return the responses, and the server's memory every quarter of a second."""
    task = asyncio.ensure_future(work)
    memory = [server.megabytes()]
    while not task.done():
        await asyncio.wait((task,), timeout=0.25)
        memory.append(server.megabytes())
    return task.result(), memory


def summary(answers: list[Answer], memory: list[float], batch_seconds: float) -> dict[str, Any]:
    admitted = sorted(a.seconds for a in answers if a.status == 200)
    refused = sorted(a.seconds for a in answers if a.status in {429, 503})
    assert len(admitted) + len(refused) == len(answers)
    assert all(a.retry_after for a in answers if a.status != 200)
    longest = math.ceil(CAPACITY / BATCH) * batch_seconds
    third = max(1, len(memory) // 3)
    return {
        "asked": len(answers),
        "answered": len(admitted),
        "refused": len(refused),
        "refusal_milliseconds": milliseconds(refused),
        "admitted_milliseconds": milliseconds(admitted),
        "queue_arithmetic_milliseconds": round(1000 * longest, 1),
        "p99_by_arithmetic": round(float(np.percentile(admitted, 99)) / longest, 2),
        "memory_mib": {
            "before": round(memory[0], 1),
            "first_third": round(statistics.mean(memory[:third]), 1),
            "last_third": round(statistics.mean(memory[-third:]), 1),
            "most": round(max(memory), 1),
        },
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        name: round(1000 * float(np.percentile(seconds, at)), 1)
        for name, at in (("p50", 50), ("p99", 99), ("max", 100))
    }


async def measure(server: Server, texts: list[str], seconds: float) -> dict[str, Any]:
    clients = Clients(server.url)
    await clients.connect(FACTOR * CAPACITY)
    try:
        await full_batches(clients, texts, 2)  # warm
        batch_seconds = statistics.median(await full_batches(clients, texts, 7))
        rate = FACTOR * BATCH / batch_seconds
        sustained, memory = await with_memory(
            server, send_at_rate(clients, texts, rate=rate, seconds=seconds)
        )
        results = {
            "full_batch_milliseconds": round(1000 * batch_seconds, 1),
            "asked_per_second": round(rate, 1),
            "sustained": summary(sustained, memory, batch_seconds),
        }

        await clients.connect(FACTOR * CAPACITY)

        async def burst() -> list[Answer]:
            requests = (clients.ask(texts[n % len(texts)]) for n in range(FACTOR * CAPACITY))
            return await asyncio.gather(*requests)

        at_once, memory = await with_memory(server, burst())
        results["burst"] = summary(at_once, memory, batch_seconds)
        results["after"] = summary_after(server, await full_batches(clients, texts, 5))
    finally:
        await clients.close()
    return results


def summary_after(server: Server, batches: list[float]) -> dict[str, float]:
    return {
        "full_batch_milliseconds": round(1000 * statistics.median(batches), 1),
        "memory_mib": round(server.megabytes(), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="duration of the sustained overload"
    )
    parser.add_argument("--commit", default="", help="the commit, for the record")
    arguments = parser.parse_args()
    load_before = round(os.getloadavg()[0], 1)  # load by other processes
    texts = [prompt.text for prompt in read_prompts(DEMO / "prompts.jsonl")]
    with tempfile.TemporaryDirectory() as folder:
        index_demo(Path(folder))
        server = Server(Path(folder))
        try:
            results = asyncio.run(measure(server, texts, arguments.seconds))
        finally:
            server.end()
    recorded = {
        "command": f"python tests/benchmarks/serving.py --seconds {arguments.seconds:g}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        "machine": {
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "load_before": load_before,
        },
        "served": {name.removeprefix("--"): value for name, value in SERVED.items()},
        **results,
    }
    arguments.out.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def index_demo(folder: Path, count: int = 100) -> None:
    """Store the beginnings of some of the demo's documents in a collection."""
    load: Callable[[str], Any] = load_language_model
    documents = [
        Document(found.page_content[:600], id=found.id)
        for found in read_corpus(DEMO / "corpus")[::30][:count]
    ]
    index_into(str(folder), "documents", documents, str(DEMO / "model"), load)


if __name__ == "__main__":
    main()
