"""The endpoint on Ray Serve: replicas, each with its own engine, behind one address.

```yaml
applications:
  - name: langchain-sift
    import_path: langchain_sift.serving.on_ray:build_app
    args: {model: org/name, store: "http://chroma:8000", limits: {max_batch_size: 8}}
    deployments: [{name: Endpoint, num_replicas: 2, ray_actor_options: {num_gpus: 1}}]
```

Deploy with `serve run config.yaml`. A request has no effect but its answer: one whose replica
dies fails with status 500, and may be sent again, as OpenAI's clients do by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, EngineError, require

require("ray", "ray")

from ray import serve  # noqa: E402
from ray.serve import Application  # noqa: E402
from ray.serve.config import BackpressureConfig, RequestRouterConfig  # noqa: E402
from starlette.types import ASGIApp  # noqa: E402

from langchain_sift.indexing.chroma_collections import is_url  # noqa: E402
from langchain_sift.serving.app import create_app  # noqa: E402
from langchain_sift.serving.service import open_service  # noqa: E402
from langchain_sift.serving.settings import ServingSettings  # noqa: E402
from langchain_sift.serving.tenants import Tenants  # noqa: E402

_KEY = "LANGCHAIN_SIFT_API_KEY"
_NESTED = {"finetune": FineTuneConfig, "limits": Limits}


# Dead replicas are noticed, and idle slots verified, every second. What waits beyond the
# replicas' batches is bounded at each of Ray's proxies; what is more is refused at once.
@serve.deployment(
    max_queued_requests=64,
    backpressure_config=BackpressureConfig(retry_after_s=1),
    # How soon a request that waits hears that a replica has room: Ray's own 0.5 s leave it idle.
    request_router_config=RequestRouterConfig.model_validate({"max_backoff_s": 0.1}),
    health_check_period_s=1,
    health_check_timeout_s=30,
)
@serve.ingress()
class Endpoint:
    """One replica: a process with the model, its engine, and the HTTP interface.

    A client that leaves cancels its request, which ends within one gradient step or token.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        """Open the store and load the model.

        Raises:
            ArgumentError: If nobody has a token, or as `open_service`.
        """
        self._service = open_service(settings_of(args, _tenants(args.get("tenants"))))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return what answers HTTP; called by Ray once the replica is there."""
        return create_app(self._service)

    async def check_health(self) -> None:
        """Have an idle engine verify its slots; Ray replaces the replica where that fails.

        A store that does not answer is no reason to: another replica would ask the same one.

        Raises:
            EngineError: If the engine cannot answer.
        """
        found = await self._service.check_health()
        if found.status == "unavailable":
            raise EngineError("the engine's slots are not at rest, or it does not answer")

    def __del__(self) -> None:
        """End what is being answered, and let go of the store."""
        if hasattr(self, "_service"):
            self._service.close()


def build_app(args: dict[str, Any]) -> Application:
    """Return the application that a configuration of Ray Serve names.

    Replicas, GPUs and autoscaling are Ray's, under `deployments`; each replica takes as many
    requests at once as its engine trains together, unless `max_ongoing_requests` says otherwise.

    Args:
        args: Fields of `ServingSettings`, with `finetune` and `limits` as mappings, and `tenants`
            as the path of a file that each replica reads. Without it, each replica takes the one
            token of the environment variable LANGCHAIN_SIFT_API_KEY.

    Raises:
        ArgumentError: If an argument is unknown or out of range, or the store is a folder.
    """
    checked = settings_of(args, Tenants.anybody())
    if not is_url(checked.store):
        raise ArgumentError(
            f"store must be the URL of a Chroma server, got {checked.store!r}: a folder belongs "
            "to one process, and replicas are several (chroma run --path FOLDER serves it)"
        )
    at_once = checked.limits.max_batch_size
    deployment: Any = Endpoint
    application: Application = deployment.options(max_ongoing_requests=at_once).bind(args)
    return application


def settings_of(args: Mapping[str, Any], tenants: Tenants) -> ServingSettings:
    """Return the settings of plain values, as a file holds them.

    Raises:
        ArgumentError: If one is unknown, missing or out of range.
    """
    given: dict[str, Any] = {**args, "tenants": tenants}
    try:
        for name, kind in _NESTED.items():
            if name in given:
                given[name] = kind(**given[name])
        if "adapter_cache" in given:
            given["adapter_cache"] = Path(given["adapter_cache"])
        return ServingSettings(**given)
    except TypeError as error:  # an argument that there is not, or too few
        raise ArgumentError(f"args of the application: {error}") from error


def _tenants(path: str | None) -> Tenants:
    if path is not None:
        return Tenants.load(path)
    if key := os.environ.get(_KEY):
        return Tenants.of_one_key(key)
    raise ArgumentError(
        "no token is asked for, and Ray's address may be one that others reach: name a file of "
        f"tenants in the application's args, or set {_KEY} where the replicas run"
    )
