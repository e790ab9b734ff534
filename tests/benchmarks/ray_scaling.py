"""Measure the answers per second of one to four replicas on Ray.

The gradient steps sleep, so that the result shows the overhead of Ray and of the endpoint on any
machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from integration_tests import ray_endpoint as on

STEP_SECONDS = 0.5
STEPS = 4
REQUESTS_EACH = 8
REPLICAS = (1, 2, 3, 4)


def main(model: str, folder: Path, store: str) -> dict[str, Any]:
    settings = on.settings(
        model,
        store,
        on.fill_store(store, model),
        k=STEPS,
        max_tokens=1,
        limits={"max_batch_size": 1},
    )
    args = {
        "journal": str(folder / "journal"),
        "step_seconds": STEP_SECONDS,
        "settings": settings,
    }
    seconds = {}
    with on.cluster_of(max(REPLICAS)) as (cluster, _):
        for count in REPLICAS:
            path = "integration_tests.ray_slow:build_app"
            url = on.deploy(folder, cluster, path, args, num_replicas=count)
            asyncio.run(
                on.ask_all(url, 2 * count, at_once=2 * count)
            )  # each replica has answered once
            start = time.monotonic()
            requests = REQUESTS_EACH * count
            responses = asyncio.run(on.ask_all(url, requests, at_once=2 * count))
            seconds[count] = time.monotonic() - start
            assert all(response["status"] == 200 for response in responses)
            on.serve.shutdown()
    rates = {count: REQUESTS_EACH * count / taken for count, taken in seconds.items()}
    return {
        "seconds of the steps of an answer": STEPS * STEP_SECONDS,
        "answers a second": rates,
        "of linear": {count: rate / (count * rates[1]) for count, rate in rates.items()},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
