"""Fine-tune a language model for each request. Needs PyTorch and transformers, never LangChain.

`engine.py` draws the path of a request through these modules:

| module | purpose |
|---|---|
| `engine` | check requests, submit them, wait for their outcome |
| `engine_registry` | share an engine between users of the same model |
| `requests` | a request, its tasks and its outcome |
| `tickets` | admission; a submitted request and its events |
| `batching` | the queue, and the thread that runs batches |
| `worker`, `jobs` | a batch from training to reset, with retries |
| `generation`, `stop_strings` | answers token by token, up to a stop string |
| `adapter_cache` | trained adapters on disk |
| `openmp` | end OpenMP's helper threads |
| `model` | load a model; tokens, devices, quantization, hidden states |
| `training` | LoRA, slots, loss, gradient steps, trained adapters |
"""

from langchain_sift.ttft.adapter_cache import AdapterCache
from langchain_sift.ttft.engine import Engine, EngineStatus
from langchain_sift.ttft.engine_registry import shared_engine
from langchain_sift.ttft.model.devices import fastest_dtype
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.loading import load_language_model
from langchain_sift.ttft.requests import GenerationTask, Milestone, Outcome, Request, ScoringTask
from langchain_sift.ttft.tickets import Reservation, Ticket
from langchain_sift.ttft.training.tasks import Step, TrainingRecord
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

__all__ = [
    "AdapterCache",
    "Engine",
    "EngineStatus",
    "GenerationTask",
    "LanguageModel",
    "Milestone",
    "Outcome",
    "Request",
    "Reservation",
    "ScoringTask",
    "Step",
    "Ticket",
    "TrainedAdapter",
    "TrainingRecord",
    "fastest_dtype",
    "load_language_model",
    "shared_engine",
]
