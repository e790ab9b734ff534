"""Share an engine between all users of the same model, adapter shape and limits."""

from __future__ import annotations

import threading
import weakref

from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.ttft.engine import Engine
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.training.adapted_model import adapter_shape

# One queue then makes batches of all their requests.
_engines: weakref.WeakValueDictionary[tuple[object, ...], Engine] = weakref.WeakValueDictionary()
_creating = threading.Lock()


def shared_engine(
    language_model: LanguageModel, config: FineTuneConfig, limits: Limits | None = None
) -> Engine:
    """Return the engine of this model, tokenizer, adapter shape and limits.

    The first call creates it; another is created once it is closed.

    Raises:
        ArgumentError: As `Engine`.
    """
    limits = limits or Limits()
    weights = (id(language_model.model), id(language_model.tokenizer))
    key = (*weights, adapter_shape(config), limits)
    with _creating:
        engine = _engines.get(key)
        if engine is None or engine.closed:
            engine = Engine(language_model, config, limits)
            _engines[key] = engine
        return engine
