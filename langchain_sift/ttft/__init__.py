"""The fine-tuning engine: PyTorch and transformers, never LangChain.

| file | what it does |
|---|---|
| `loading.py` | a model and its tokenizer, loaded once |
| `tokens.py` | what is learned from |
| `adapter.py` | low-rank weights beside the frozen ones, a row for each prompt |
| `loss.py` | the next token's negative log-likelihood, and its gradient |
| `recording.py` | steps of one shape as CUDA graphs |
| `training.py` | one gradient step per document, for several prompts at once |
| `generation.py` | their answers, token by token |
| `scoring.py` | how well a text is predicted |
| `worker.py` | a batch of requests from beginning to end, whatever goes wrong |
| `admission.py` | who may come in |
| `cores.py` | cores for the thread that computes |
| `batching.py` | the queue, and the thread that empties it |
| `tickets.py` | a request, and its events for who waits |
| `artefact.py` | an adapter to keep |
| `cache.py` | adapters kept between requests |
| `engine.py` | the whole of it |
| `embedding.py` | a text's representation in the model |
"""

from langchain_sift.ttft.adapter_cache import AdapterCache
from langchain_sift.ttft.admission import Reservation
from langchain_sift.ttft.engine import Engine, EngineStatus, shared_engine
from langchain_sift.ttft.model.devices import fastest_dtype
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.loading import load_language_model
from langchain_sift.ttft.requests import GenerationTask, Milestone, Outcome, Request, ScoringTask
from langchain_sift.ttft.tickets import Ticket
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
