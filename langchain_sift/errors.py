"""Define the errors of this package.

    SIFTError
    ├── ArgumentError           (ValueError)       an argument is out of range
    │   ├── InvalidFilter                          a filter that the store cannot apply
    │   ├── MemoryExceeded      (MemoryError)      a request needs more memory than is allowed
    │   └── PromptTooLong                          a prompt fills the model's context
    ├── EmbeddingError          (ValueError)       a vector is NaN, zero or of the wrong size
    │   └── DimensionMismatch                      query and stored vectors differ in size
    ├── NotFittedError          (ValueError)       embeddings without a fitted mean
    ├── StoreError              (RuntimeError)     a vector store cannot be used
    │   ├── StoreUnavailable    (ConnectionError)  it cannot be reached, or is overloaded
    │   ├── StoreTimeout        (TimeoutError)     it did not answer before the deadline
    │   ├── CollectionNotFound  (LookupError)      it has no such collection
    │   ├── QuotaExceeded                          a request is larger than the store allows
    │   └── StoreInUse                             another process has its folder open
    ├── CorpusError             (ValueError)       a file of documents or prompts is unreadable
    ├── ModelLoadError          (OSError)          a model or tokenizer cannot be loaded
    ├── EngineError             (RuntimeError)     a prompt cannot be answered now
    │   ├── EngineOverloaded                       the engine is at capacity: try again later
    │   ├── RequestTimeout      (TimeoutError)     no answer before the deadline
    │   ├── RequestCancelled                       cancelled, or the engine was closed
    │   ├── TrainingError                          training on the documents failed
    │   │   └── NothingToLearn                     there is no document, or all are too short
    │   ├── GeneratorUnavailable (ConnectionError) the generating server cannot be reached
    │   └── AdapterRefused                         the generating server refuses the adapter
    └── MissingExtraError       (ImportError)      an optional dependency is not installed

Each error is also the built-in error in brackets, for callers that do not know this package, and
the error of LangChain for the same condition, which the middleware of agents looks for:

    ArgumentError           ModelInvalidRequestError   is not retried
    PromptTooLong           ContextOverflowError       the conversation can be summarised
    ModelLoadError          ModelNotFoundError         is not retried
    EngineError             ModelError                 is not retried, except:
    EngineOverloaded        ModelRateLimitError        is retried
    RequestTimeout          ModelTimeoutError          is retried
    GeneratorUnavailable    ModelConnectionError       is retried

`langchain-core` has `ContextOverflowError` since 1.2 and the others since 1.6. With an earlier
version the errors are only this package's.

No message contains text of a document or of a prompt.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.exceptions import (
        ContextOverflowError,
        ModelConnectionError,
        ModelError,
        ModelInvalidRequestError,
        ModelNotFoundError,
        ModelRateLimitError,
        ModelTimeoutError,
    )
else:
    try:
        from langchain_core import exceptions as _langchain
    except ImportError:  # the engine and the selection run without LangChain
        _langchain = None
    # A class that the installed version lacks adds nothing to the errors that derive from it.
    ContextOverflowError = getattr(_langchain, "ContextOverflowError", Exception)
    ModelConnectionError = getattr(_langchain, "ModelConnectionError", Exception)
    ModelError = getattr(_langchain, "ModelError", Exception)
    ModelInvalidRequestError = getattr(_langchain, "ModelInvalidRequestError", Exception)
    ModelNotFoundError = getattr(_langchain, "ModelNotFoundError", Exception)
    ModelRateLimitError = getattr(_langchain, "ModelRateLimitError", Exception)
    ModelTimeoutError = getattr(_langchain, "ModelTimeoutError", Exception)


class SIFTError(Exception):
    """The root of all errors of this package."""


class ArgumentError(SIFTError, ValueError, ModelInvalidRequestError):
    """An argument is out of range or contradicts another."""


class InvalidFilter(ArgumentError):  # noqa: N818 - named as Chroma names its errors
    """A filter that the store cannot apply, or that a tenant must not use."""


class MemoryExceeded(ArgumentError, MemoryError):  # noqa: N818 - named as PromptTooLong
    """A request that alone needs more memory than `Limits.max_memory_gb`, by estimate.

    Raised before any work on the request.
    """


class PromptTooLong(ArgumentError, ContextOverflowError):  # noqa: N818
    """A prompt that leaves no room for an answer in the model's context."""


class EmbeddingError(SIFTError, ValueError):
    """A vector contains NaN or infinity, is zero, has the wrong size, or could not be made."""


class DimensionMismatch(EmbeddingError):  # noqa: N818
    """The vectors of the query and of the store differ in size."""


class NotFittedError(SIFTError, ValueError):
    """Embeddings are used before the mean that they subtract is fitted."""


class StoreError(SIFTError, RuntimeError):
    """A vector store cannot be used with SIFT."""


class StoreUnavailable(StoreError, ConnectionError):  # noqa: N818
    """The store cannot be reached, closed the connection or is overloaded, also after retries."""


class StoreTimeout(StoreError, TimeoutError):  # noqa: N818
    """The store did not answer before the deadline."""


class CollectionNotFound(StoreError, LookupError):  # noqa: N818
    """The collection was deleted, or never existed."""


class QuotaExceeded(StoreError):  # noqa: N818
    """A request exceeds a quota of the store, such as those of Chroma Cloud."""

    def __init__(self, message: str, quota: str = "", limit: int = 0) -> None:
        """Keep the name of the quota, as the store calls it, and its limit; 0 if it names none."""
        super().__init__(message)
        self.quota = quota
        self.limit = limit


class StoreInUse(StoreError):  # noqa: N818
    """Another process has the folder of an embedded store open; a server can share the store."""


class CorpusError(SIFTError, ValueError):
    """A file of documents or prompts is unreadable; the message names file and line."""


class ModelLoadError(SIFTError, OSError, ModelNotFoundError):
    """A model or its tokenizer cannot be loaded."""


class EngineError(SIFTError, RuntimeError, ModelError):
    """A prompt cannot be answered now."""


class EngineOverloaded(EngineError, ModelRateLimitError):  # noqa: N818
    """The engine is at capacity: too many requests or training tokens are admitted.

    Raised before any work on the request. Try again later, or raise `Limits`.
    """


class RequestTimeout(EngineError, TimeoutError, ModelTimeoutError):  # noqa: N818
    """A prompt was not answered before the deadline."""


class RequestCancelled(EngineError):  # noqa: N818
    """A request ended without an answer: it was cancelled, or the engine was closed."""


class TrainingError(EngineError):
    """Training on the documents failed, and `on_failure` is "raise"."""


class NothingToLearn(TrainingError):  # noqa: N818
    """There is no document to learn, or all are too short."""


class GeneratorUnavailable(EngineError, ConnectionError, ModelConnectionError):  # noqa: N818
    """The server that generates with an adapter cannot be reached, or is at capacity."""


class AdapterRefused(EngineError):  # noqa: N818
    """The server that generates refuses the adapter; the message names the cure."""


class MissingExtraError(SIFTError, ImportError):
    """An optional dependency is not installed; the message names the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the missing package and the extra that contains it."""
        super().__init__(f"{package} is required: pip install 'langchain-sift[{extra}]'")
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the two names, from which the message is made."""
        return type(self), (self.package, self.extra)


def require(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: The extra of langchain-sift that contains the packages.
        *packages: Import names of packages.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
