"""Serve the model through an OpenAI-compatible HTTP endpoint, in one process.

| file | contents |
|---|---|
| `settings.py` | settings of a server, as plain values |
| `tenants.py` | tokens, and the documents that each may see |
| `retrievers.py` | the collections, and a retriever for each tenant |
| `service.py` | the model, its tenants and their limits |
| `admitted.py` | what an admitted request has |
| `middleware.py`, `sent_response.py` | tokens, limits, disconnects; the end of a response |
| `app.py` | the routes |
| `requests.py` | bodies of requests |
| `options.py` | `ttft` in a request: the options of one request |
| `request_settings.py` | the settings of one request: its options, within the server's limits |
| `completions.py` | from a request to its response |
| `stream_chunks.py`, `streams.py` | chunks of streams, and their events |
| `messages.py` | OpenAI's messages to LangChain's, and back |
| `responses.py` | bodies of responses |
| `error_responses.py` | errors in OpenAI's format |
| `session_store.py` | adapters that are kept for later requests |
| `session_routes.py` | the routes of sessions |
| `metrics.py` | counters for Prometheus |
| `server.py` | the application under uvicorn |
| `on_ray.py` | replicas on Ray Serve; an extra |

```python
from langchain_sift.serving import ServingSettings, create_app, open_service

with open_service(ServingSettings(model="org/name", store="http://localhost:8000")) as service:
    app = create_app(service)
```

Each public name is imported when it is first used (PEP 562): settings and tenants do not load
PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from langchain_sift.errors import require

if TYPE_CHECKING:
    from langchain_sift.serving.app import create_app as create_app
    from langchain_sift.serving.server import serve as serve
    from langchain_sift.serving.service import Service as Service
    from langchain_sift.serving.service import open_service as open_service
    from langchain_sift.serving.settings import ServingSettings as ServingSettings
    from langchain_sift.serving.settings import SessionLimits as SessionLimits
    from langchain_sift.serving.tenants import Tenant as Tenant
    from langchain_sift.serving.tenants import Tenants as Tenants

require("serve", "torch", "transformers", "fastapi", "uvicorn", "prometheus_client", "filelock")

_EXPORTS = {
    "Service": "langchain_sift.serving.service",
    "ServingSettings": "langchain_sift.serving.settings",
    "SessionLimits": "langchain_sift.serving.settings",
    "Tenant": "langchain_sift.serving.tenants",
    "Tenants": "langchain_sift.serving.tenants",
    "create_app": "langchain_sift.serving.app",
    "open_service": "langchain_sift.serving.service",
    "serve": "langchain_sift.serving.server",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
