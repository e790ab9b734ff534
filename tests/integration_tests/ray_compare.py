"""Compare on Ray actors, of which one and then a node is killed, and in one process."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import ray
from conftest import make_sentence
from langchain_chroma import Chroma
from langchain_core.runnables import RunnableLambda
from ray.cluster_utils import Cluster

from langchain_sift import FineTuneConfig, HiddenStateEmbeddings, Report, compare
from langchain_sift.comparison import Prompt, Row
from langchain_sift.comparison.ray_pool import ActorModel
from langchain_sift.errors import ModelLoadError

METHODS = ("base", "rag:sift", "ttft:nearest", "ttft:sift")
SETTINGS: dict[str, Any] = {
    "protocols": ("document", "continuation"),
    "k": (2, 6),
    "fetch_k": 30,
    "noise_variance": 1.0,
    "jobs": 2,
    "finetune": FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=5e-3, max_length=48),
}


class Interrupted(Exception):  # noqa: N818 - not an error
    pass


def results(report: Report) -> list[str]:
    """Return the rows without times and memory, which differ in every run.

    The rows are texts with all digits, because NaN is not equal to itself.
    """
    zeros = dict.fromkeys(("seconds_retrieval", "seconds_training", "seconds_answering"), 0.0)
    return [repr(replace(row, **zeros, peak_memory=0)) for row in report.rows]


def actors() -> list[psutil.Process]:
    """Return the processes of the actors."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "_Actor" in " ".join(process.cmdline())]


def twice(out: Path) -> int:
    """Return the number of rows that were recorded more than once."""
    keys = [
        (row["protocol"], row["prompt"], row["method"], row["k"])
        for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())
    ]
    return sum(times - 1 for times in Counter(keys).values())


def questions(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison of answers, with a chain and a scorer of the user's."""
    lock = threading.Lock()  # like a connection, it cannot be sent to another process

    def chain(question: str) -> str:
        with lock:
            return f"bread, {len(question)} times"

    return {
        **arguments,
        "prompts": [Prompt(p.id, p.text, answers=("bread",)) for p in arguments["prompts"][:4]],
        "methods": ("base", "ttft:sift", "mine"),
        "protocols": ("qa",),
        "chains": {"mine": RunnableLambda(chain)},
        "scorers": {"length": lambda answer, _: float(len(answer))},
        "max_tokens": 8,
    }


def main(model: str, folder: Path) -> dict[str, Any]:
    rng = random.Random(3)
    texts = [make_sentence(rng) for _ in range(60)]
    prompts = [Prompt(f"prompt-{number}", make_sentence(rng)) for number in range(12)]
    store = Chroma.from_texts(texts, HiddenStateEmbeddings(model=model).fit(texts))
    arguments = {
        "prompts": prompts,
        "methods": METHODS,
        "model": model,
        "vectorstore": store,
        **SETTINGS,
    }
    alone, answered = compare(**arguments), compare(**questions(arguments))

    cluster = Cluster()
    small: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster.add_node(num_cpus=1, **small)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        killed = compare_while_killing(cluster, nodes, folder / "killed", arguments)
        failure = failure_to_load(arguments)
        answers = compare(ray=2, **questions(arguments))
        resumed = compare_with_interruptions(folder / "interrupted", arguments)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {
        "rows": len(alone.rows),
        "failures": sum(row.failure is not None for row in alone.rows),
        "equal after kills": results(killed) == results(alone),
        "equal after interruptions": results(resumed) == results(alone),
        "failure to load": failure,
        "answers": len(answered.rows),
        "answers equal": results(answers) == results(answered),
        "recorded twice": twice(folder / "killed") + twice(folder / "interrupted"),
    }


def failure_to_load(arguments: dict[str, Any]) -> str:
    """Return the error if the actors do not have the model of this process."""
    like = ActorModel.like
    there = lambda *model, **more: replace(like(*model, **more), name="/only/here")  # noqa: E731
    with mock.patch.object(ActorModel, "like", there):
        try:
            compare(ray=2, **arguments)
        except ModelLoadError as error:
            return str(error)
    raise AssertionError


def compare_while_killing(
    cluster: Cluster, nodes: list[Any], out: Path, arguments: dict[str, Any]
) -> Report:
    """Compare by three actors; kill one, and then a node with another."""
    rows = 0

    def kill(_: Row) -> None:
        nonlocal rows
        rows += 1
        if rows == 20:
            actors()[0].kill()
        if rows == 60:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    return compare(ray=3, out=out, on_row=kill, **arguments)


def compare_with_interruptions(out: Path, arguments: dict[str, Any]) -> Report:
    """Compare in three runs, each with other actors."""
    for last in (50, 100):
        rows = count(1)  # those of the run before come first

        def interrupt(_: Row, rows: Iterator[int] = rows, last: int = last) -> None:
            if next(rows) == last:
                raise Interrupted

        with contextlib.suppress(Interrupted):
            compare(ray=1, out=out, resume=True, on_row=interrupt, **arguments)
            raise AssertionError
    return compare(ray=2, out=out, resume=True, **arguments)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))  # noqa: T201
