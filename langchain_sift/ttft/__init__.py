"""The fine-tuning engine: PyTorch and transformers, never LangChain.

| file | what it does |
|---|---|
| `loading.py` | a model and its tokenizer, loaded once |
| `adapter.py` | low-rank weights beside the frozen ones |
| `tokens.py` | what is learned from |
| `loss.py` | the next token's negative log-likelihood |
| `training.py` | one gradient step per document |
| `generation.py` | the answer, token by token |
| `scoring.py` | how well a text is predicted |
| `embedding.py` | a text's representation in the model |
| `engine.py` | the whole of it, for one prompt at a time |
"""

from langchain_sift.ttft.engine import Engine, FineTunedModel, shared_engine
from langchain_sift.ttft.loading import LanguageModel, fastest_dtype, load_language_model
from langchain_sift.ttft.training import TrainingRecord

__all__ = [
    "Engine",
    "FineTunedModel",
    "LanguageModel",
    "TrainingRecord",
    "fastest_dtype",
    "load_language_model",
    "shared_engine",
]
