"""The model behind an OpenAI-compatible HTTP endpoint, in one process.

| file | what it does |
|---|---|
| `settings.py` | what is to be served, in plain values |
| `tenants.py` | who may ask, and what each may see |
| `opening.py` | the collections, opened once |
| `service.py` | the model, and each tenant's view of it |
| `protocol.py` | bodies of requests and answers |
| `conversations.py` | OpenAI's messages and LangChain's |
| `answering.py` | from a request to its answer |
| `failures.py` | errors in OpenAI's shape |
| `metrics.py` | what was done, for Prometheus |
| `gate.py` | who comes in, and who has left |
| `app.py` | the routes |
| `running.py` | under uvicorn |
| `on_ray.py` | by replicas on Ray Serve; an extra |

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
from langchain_sift.serving.settings import ServingSettings  # noqa: E402
from langchain_sift.serving.tenants import Tenant, Tenants  # noqa: E402

__all__ = ["Service", "ServingSettings", "Tenant", "Tenants", "create_app", "open_service", "serve"]
