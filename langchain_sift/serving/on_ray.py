"""Run the endpoint on Ray Serve: replicas with an engine each, behind one address.

```yaml
applications:
  - name: langchain-sift
    import_path: langchain_sift.serving.on_ray:build_app
    args: {model: org/name, store: "http://chroma:8000", limits: {max_batch_size: 8}}
    deployments: [{name: Endpoint, num_replicas: 2, ray_actor_options: {num_gpus: 1}}]
```

Deploy with `serve run config.yaml`. Credentials of the store are best given by the environment
variables LANGCHAIN_SIFT_STORE_TOKEN or LANGCHAIN_SIFT_STORE_HEADERS of the replicas. If a replica
dies, its requests fail with status 500. They can safely be sent again, which OpenAI's clients do
by default. Replicas keep no sessions: a later request may reach another replica.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_sift.auto_mode import ModeTable
from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.checks import check_string, mapping_or_empty
from langchain_sift.config import API_KEY_VARIABLE, FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, EngineError, require

require("ray", "ray")

from ray import serve  # noqa: E402
from ray.serve import Application  # noqa: E402
from ray.serve.config import BackpressureConfig, RequestRouterConfig  # noqa: E402
from starlette.types import ASGIApp  # noqa: E402

from langchain_sift.serving.app import create_app  # noqa: E402
from langchain_sift.serving.service import open_service  # noqa: E402
from langchain_sift.serving.settings import ServingSettings, SessionLimits  # noqa: E402
from langchain_sift.serving.tenants import Tenants  # noqa: E402
from langchain_sift.stores.location import ChromaLocation  # noqa: E402

_NESTED = {"finetune": FineTuneConfig, "limits": Limits, "training_selection": CalibratedSelection}


# Ray checks each second for dead replicas, and lets idle replicas verify their slots. The queue at
# each of Ray's proxies is bounded; further requests are rejected at once.
@serve.deployment(
    max_queued_requests=64,
    backpressure_config=BackpressureConfig(retry_after_s=1),
    # Seconds until a queued request learns of a free replica: Ray's 0.5 s leave replicas idle.
    request_router_config=RequestRouterConfig.model_validate({"max_backoff_s": 0.1}),
    health_check_period_s=1,
    health_check_timeout_s=30,
)
@serve.ingress()
class Endpoint:
    """A replica: a process with the model, its engine and the HTTP interface.

    If a client disconnects, its request ends within one gradient step or token.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        """Open the store and load the model.

        Raises:
            ArgumentError: If there is no token, or as `open_service`.
        """
        self._service = open_service(settings_of(args, _tenants(args.get("tenants"))))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application; Ray calls this after the constructor."""
        return create_app(self._service, adds_ids=False)  # Ray's proxy adds the header

    async def check_health(self) -> None:
        """Let an idle engine verify the slots that it has; Ray replaces the replica if that fails.

        An unavailable store is no failure: all replicas use the same store.

        Raises:
            EngineError: If the engine cannot answer.
        """
        health = await self._service.check_health()
        if health.status == "unavailable":
            raise EngineError("the engine does not respond, or its slots are not at rest")

    def __del__(self) -> None:
        """Cancel all requests and release the store."""
        if hasattr(self, "_service"):
            self._service.close()


def build_app(args: dict[str, Any]) -> Application:
    """Return the application, for `import_path` in a configuration of Ray Serve.

    Replicas, GPUs and autoscaling are configured under `deployments`. By default a replica gets as
    many requests at once as its engine trains together (`max_ongoing_requests`), and one that is
    removed has the time of a request to answer (`graceful_shutdown_timeout_s`).

    Args:
        args: Fields of `ServingSettings`, with `finetune`, `limits`, `training_selection` and
            `modes` as mappings (`selection` of `fine_tuning` and `modes` in a file of `calibrate`),
            and `tenants` as the path of a file that each replica reads. Without `tenants`, the only
            token is that of the environment variable LANGCHAIN_SIFT_API_KEY of each replica.

    Raises:
        ArgumentError: If an argument is unknown or out of range, or the store is a folder.
    """
    checked = settings_of(args, Tenants.anybody())
    location = ChromaLocation.of(checked.store)
    if location.url is None:
        raise ArgumentError(
            f"store must be the URL of a Chroma server, got {str(location)!r}: a folder belongs "
            "to one process; to share it, run `chroma run --path FOLDER`"
        )
    deployment: Any = Endpoint
    options = deployment.options(
        max_ongoing_requests=checked.limits.max_batch_size,
        graceful_shutdown_timeout_s=checked.longest,
    )
    application: Application = options.bind(args)
    return application


def settings_of(args: Mapping[str, Any], tenants: Tenants) -> ServingSettings:
    """Return the settings of a configuration file; null means the default.

    Raises:
        ArgumentError: If an argument is unknown, missing or out of range.
    """
    if "sessions" in args:
        raise ArgumentError(
            "replicas keep no sessions: an adapter lives in one process, and a later request may "
            "reach another. Leave `sessions` out; `langchain-sift serve` keeps sessions"
        )
    for name in ("tenants", "adapter_cache"):
        check_string(name, args.get(name), optional=True)
    fields = {name: value for name, value in args.items() if value is not None}
    fields |= {"tenants": tenants, "sessions": SessionLimits(max_sessions=0)}
    try:
        for name, kind in _NESTED.items():
            if name in fields:
                fields[name] = kind(**mapping_or_empty(name, fields[name]))
        if "modes" in fields:
            fields["modes"] = ModeTable.from_json(mapping_or_empty("modes", fields["modes"]))
        if "adapter_cache" in fields:
            fields["adapter_cache"] = Path(fields["adapter_cache"]).expanduser()
        return ServingSettings(**fields)
    except TypeError as error:  # an unknown argument, or a missing one
        raise ArgumentError(f"args of the application: {error}") from error


def _tenants(path: str | None) -> Tenants:
    if path is not None:
        return Tenants.load(Path(path).expanduser())
    if key := os.environ.get(API_KEY_VARIABLE):
        return Tenants.of_one_key(key)
    raise ArgumentError(
        "requests need no token, and Ray's address may be public: name a file of tenants in the "
        f"application's args, or set {API_KEY_VARIABLE} where the replicas run"
    )
