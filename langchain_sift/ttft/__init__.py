"""Fine-tune a language model for each request. Needs PyTorch and transformers, never LangChain.

`engine.py` draws the path of a request through these modules:

| module | purpose |
|---|---|
| `engine` | check requests, submit them, wait for their outcome |
| `engine_registry` | share an engine between users of the same model |
| `requests` | a request, its tasks and its outcome |
| `admission` | room for requests, within the engine's limits |
| `tickets` | a submitted request and its events |
| `batching` | the queue, and the thread that runs batches |
| `worker`, `jobs` | a batch from training to reset, with retries |
| `task_runner` | the tasks of a batch after training |
| `teacher` | the base model with documents in its context writes, and rates tokens |
| `generation`, `answering` | one pass over each prompt, scores after it, answers by token |
| `sampling`, `grammars`, `constrained_decoding` | the next token of an answer; its grammar |
| `answer_room` | whether an answer's grammar fits into `max_tokens` |
| `decoding`, `reasoning`, `stop_strings` | the text of an answer, and its end |
| `documents` | the documents of a request, as token ids |
| `adapter_cache` | trained adapters on disk |
| `openmp`, `threads` | end OpenMP's helper threads; the number of threads of a command |
| `memory` | estimate batches, and keep them within a limit |
| `texts` | check, repair and hash texts, without PyTorch |
| `model` | load a model; tokens, devices, quantization, hidden states |
| `training` | LoRA, slots, loss, gradient steps, trained adapters |

Each public name is imported when it is first used (PEP 562): only those that compute load PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from langchain_sift.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_sift.ttft.adapter_cache import AdapterCache as AdapterCache
    from langchain_sift.ttft.admission import Reservation as Reservation
    from langchain_sift.ttft.engine import Engine as Engine
    from langchain_sift.ttft.engine_registry import shared_engine as shared_engine
    from langchain_sift.ttft.model.devices import fastest_dtype as fastest_dtype
    from langchain_sift.ttft.model.language_model import LanguageModel as LanguageModel
    from langchain_sift.ttft.model.loading import load_language_model as load_language_model
    from langchain_sift.ttft.requests import EngineStatus as EngineStatus
    from langchain_sift.ttft.requests import GenerationTask as GenerationTask
    from langchain_sift.ttft.requests import Milestone as Milestone
    from langchain_sift.ttft.requests import Outcome as Outcome
    from langchain_sift.ttft.requests import PromptScores as PromptScores
    from langchain_sift.ttft.requests import Request as Request
    from langchain_sift.ttft.requests import ScoringTask as ScoringTask
    from langchain_sift.ttft.requests import TokenScore as TokenScore
    from langchain_sift.ttft.tickets import Ticket as Ticket
    from langchain_sift.ttft.training.tasks import Step as Step
    from langchain_sift.ttft.training.tasks import TrainingRecord as TrainingRecord
    from langchain_sift.ttft.training.trained_adapter import TrainedAdapter as TrainedAdapter

_EXPORTS = {
    "AdapterCache": "langchain_sift.ttft.adapter_cache",
    "Engine": "langchain_sift.ttft.engine",
    "EngineStatus": "langchain_sift.ttft.requests",
    "GenerationTask": "langchain_sift.ttft.requests",
    "LanguageModel": "langchain_sift.ttft.model.language_model",
    "Milestone": "langchain_sift.ttft.requests",
    "Outcome": "langchain_sift.ttft.requests",
    "PromptScores": "langchain_sift.ttft.requests",
    "Request": "langchain_sift.ttft.requests",
    "Reservation": "langchain_sift.ttft.admission",
    "ScoringTask": "langchain_sift.ttft.requests",
    "Step": "langchain_sift.ttft.training.tasks",
    "Ticket": "langchain_sift.ttft.tickets",
    "TokenScore": "langchain_sift.ttft.requests",
    "TrainedAdapter": "langchain_sift.ttft.training.trained_adapter",
    "TrainingRecord": "langchain_sift.ttft.training.tasks",
    "fastest_dtype": "langchain_sift.ttft.model.devices",
    "load_language_model": "langchain_sift.ttft.model.loading",
    "shared_engine": "langchain_sift.ttft.engine_registry",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a public name from its module.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_EXPORTS[name])
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtraError(package, "ttft") from error
    return getattr(module, name)
