"""SIFT retrieval and test-time fine-tuning for LangChain.

Importing this package loads neither PyTorch, transformers nor Chroma: each public name is
imported when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_sift.calibrated_settings import CalibratedSettings as CalibratedSettings
    from langchain_sift.calibration import calibrate as calibrate
    from langchain_sift.calibration import calibrate_retrieval as calibrate_retrieval
    from langchain_sift.chains import create_ttft_chain as create_ttft_chain
    from langchain_sift.chat_models import ChatTestTimeFineTuned as ChatTestTimeFineTuned
    from langchain_sift.comparison import Report as Report
    from langchain_sift.comparison import compare as compare
    from langchain_sift.config import FineTuneConfig as FineTuneConfig
    from langchain_sift.config import GenerationConfig as GenerationConfig
    from langchain_sift.config import Limits as Limits
    from langchain_sift.document_compressors import SIFTReranker as SIFTReranker
    from langchain_sift.embeddings import HiddenStateEmbeddings as HiddenStateEmbeddings
    from langchain_sift.llms import TestTimeFineTunedLLM as TestTimeFineTunedLLM
    from langchain_sift.retrieval.scores import Retrieval as Retrieval
    from langchain_sift.retrieval.scores import ScoredDocument as ScoredDocument
    from langchain_sift.retrievers import SIFTRetriever as SIFTRetriever
    from langchain_sift.stores import AsyncChroma as AsyncChroma

__version__ = version("langchain-sift")

_EXPORTS = {
    "AsyncChroma": "langchain_sift.stores",
    "CalibratedSettings": "langchain_sift.calibrated_settings",
    "ChatTestTimeFineTuned": "langchain_sift.chat_models",
    "FineTuneConfig": "langchain_sift.config",
    "GenerationConfig": "langchain_sift.config",
    "HiddenStateEmbeddings": "langchain_sift.embeddings",
    "Limits": "langchain_sift.config",
    "Report": "langchain_sift.comparison",
    "Retrieval": "langchain_sift.retrieval.scores",
    "SIFTReranker": "langchain_sift.document_compressors",
    "SIFTRetriever": "langchain_sift.retrievers",
    "ScoredDocument": "langchain_sift.retrieval.scores",
    "TestTimeFineTunedLLM": "langchain_sift.llms",
    "calibrate": "langchain_sift.calibration",
    "calibrate_retrieval": "langchain_sift.calibration",
    "compare": "langchain_sift.comparison",
    "create_ttft_chain": "langchain_sift.chains",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return [*__all__, "__version__"]
