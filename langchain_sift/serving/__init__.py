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
"""

from langchain_sift.errors import require

require("serve", "torch", "transformers", "fastapi", "uvicorn", "prometheus_client", "filelock")

from langchain_sift.serving.app import create_app  # noqa: E402
from langchain_sift.serving.server import serve  # noqa: E402
from langchain_sift.serving.service import Service, open_service  # noqa: E402
from langchain_sift.serving.settings import ServingSettings, SessionLimits  # noqa: E402
from langchain_sift.serving.tenants import Tenant, Tenants  # noqa: E402

__all__ = [
    "Service",
    "ServingSettings",
    "SessionLimits",
    "Tenant",
    "Tenants",
    "create_app",
    "open_service",
    "serve",
]
