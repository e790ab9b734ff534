"""Serve on Ray: a store, a cluster, a configuration and clients, for several programs."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromadb
import httpx
import psutil
import ray
import yaml
from conftest import make_sentence
from integration_tests.servers import free_port
from langchain_chroma import Chroma
from ray import serve
from ray.cluster_utils import Cluster

from langchain_sift import HiddenStateEmbeddings

KEY = "a-key-of-the-tests"
SMALL = {"object_store_memory": 80_000_000}
APPLICATION, DEPLOYMENT = "langchain-sift", "Endpoint"
DEADLINE = 600
"""Seconds for a start or an answer that a slow machine may take; a fast one takes a few."""


def fill_store(url: str, model: str) -> str:
    """Store texts in a new collection of a Chroma server; return its name."""
    rng = random.Random(5)
    texts = [make_sentence(rng) for _ in range(60)]
    embeddings = HiddenStateEmbeddings(model=model).fit(texts)
    address = urlsplit(url)
    name = f"served-{rng.getrandbits(64):x}-{time.time_ns()}"
    Chroma.from_texts(
        texts,
        embeddings,
        ids=[f"text-{number}" for number in range(len(texts))],
        client=chromadb.HttpClient(host=str(address.hostname), port=int(address.port or 8000)),
        collection_name=name,
        collection_metadata=embeddings.collection_metadata(),
    )
    return name


def settings(model: str, store: str, collection: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of the application."""
    return {
        "model": model,
        "store": store,
        "collection": collection,
        "name": "tiny",
        "mode": "ttft",
        "k": 4,
        "max_tokens": 12,
        "finetune": {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 0.02, "max_length": 48},
        **more,
    }


@contextmanager
def cluster_of(*cpus: int) -> Iterator[tuple[Cluster, list[Any]]]:
    """Run a cluster on this machine: a node for each number, the first the head."""
    cluster = Cluster()
    try:
        # The port of the agent is free: other clusters may run on this machine.
        head = {"include_dashboard": False, "dashboard_agent_listen_port": 0}
        nodes = [cluster.add_node(num_cpus=cpus[0], **head, **SMALL)]
        nodes += [cluster.add_node(num_cpus=count, **SMALL) for count in cpus[1:]]
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, nodes
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def deploy(
    folder: Path,
    cluster: Cluster,
    import_path: str,
    args: dict[str, Any],
    **deployment: Any,
) -> str:
    """Deploy a file with `serve run`, as users do; return the URL of the endpoint."""
    port = free_port()
    options = {"num_cpus": 1, "runtime_env": {"env_vars": {"LANGCHAIN_SIFT_API_KEY": KEY}}}
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": APPLICATION,
                "import_path": import_path,
                "args": args,
                "deployments": [{"name": DEPLOYMENT, "ray_actor_options": options, **deployment}],
            }
        ],
    }
    path = folder / f"serve-{port}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = shutil.which("serve", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run(
        [command, "run", "--non-blocking", "--address", cluster.address, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    replicas = deployment.get("num_replicas", 1)
    if wait_for(lambda: running_replicas() == replicas, DEADLINE) > DEADLINE:
        raise AssertionError(serve.status())
    return f"http://127.0.0.1:{port}/v1"


def running_replicas() -> int:
    """Return the number of running replicas."""
    application = serve.status().applications.get(APPLICATION)
    if application is None or DEPLOYMENT not in application.deployments:
        return 0
    return application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0)


def wait_for(condition: Any, seconds: float) -> float:
    """Wait until a condition is true; return the seconds, or infinity if it took too long."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - start


def process(pid: int) -> psutil.Process:
    """Return the process with a number."""
    return psutil.Process(pid)


def client() -> httpx.AsyncClient:
    """Return a client without a limit on connections."""
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.AsyncClient(limits=limits, headers=headers, timeout=DEADLINE)


def question(number: int, k: int | None = None) -> dict[str, Any]:
    """Return the body of a request."""
    text = make_sentence(random.Random(1000 + number))
    body = {"model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": text}]}
    return body if k is None else {**body, "ttft": {"k": k}}


async def ask(
    http: httpx.AsyncClient, url: str, number: int, name: str = "", k: int | None = None
) -> dict[str, Any]:
    """Send a request; return status, seconds and body."""
    start = time.monotonic()
    headers = {"X-Request-ID": name or f"request-{number}"}
    try:
        response = await http.post(
            f"{url}/chat/completions", json=question(number, k), headers=headers
        )
    except httpx.HTTPError as error:
        return {"status": type(error).__name__, "seconds": time.monotonic() - start, "body": ""}
    return {
        "status": response.status_code,
        "seconds": time.monotonic() - start,
        "retry_after": response.headers.get("retry-after"),
        "body": response.text,
    }


async def ask_all(
    url: str, count: int, *, at_once: int, apart: float = 0.0
) -> list[dict[str, Any]]:
    """Send requests: a number in all, a number at once, and a number of seconds apart."""
    slots = asyncio.Semaphore(at_once)
    async with client() as http:

        async def request(number: int) -> dict[str, Any]:
            await asyncio.sleep(number * apart)
            async with slots:
                return await ask(http, url, number)

        return await asyncio.gather(*map(request, range(count)))
