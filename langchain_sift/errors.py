"""Every error that is ours.

    SIFTError
    ├── ArgumentError           (ValueError)       an argument is out of range
    │   ├── InvalidFilter                          a store does not understand a filter
    │   └── PromptTooLong                          a prompt fills the model's context
    ├── EmbeddingError          (ValueError)       a vector is NaN, zero, of the wrong size or none
    │   └── DimensionMismatch                      the query's size is not the stored vectors'
    ├── NotFittedError          (ValueError)       embeddings are used before they know their mean
    ├── StoreError              (RuntimeError)     a vector store cannot be used as it is
    │   ├── StoreUnavailable    (ConnectionError)  it cannot be reached, or is overloaded
    │   ├── StoreTimeout        (TimeoutError)     it did not answer in time
    │   ├── CollectionNotFound  (LookupError)      it has no such collection
    │   └── StoreInUse                             another process has its folder open
    ├── CorpusError             (ValueError)       a file of documents or prompts cannot be read
    ├── ModelLoadError          (OSError)          a model or tokenizer cannot be loaded
    ├── EngineError             (RuntimeError)     a prompt cannot be answered now
    │   ├── EngineOverloaded                       too much is asked at once: refused, try later
    │   ├── RequestTimeout      (TimeoutError)     it was not answered within the time allowed
    │   ├── RequestCancelled                       it was cancelled, or the engine was closed
    │   ├── TrainingError                          its documents could not be learned from
    │   ├── GeneratorUnavailable (ConnectionError) the server that is to answer cannot be reached
    │   └── AdapterRefused                         it does not take what was learned
    └── MissingExtraError       (ImportError)      an optional dependency is not installed

Each also is the built-in error that a caller would have caught without knowing us.
No message holds text of a document or of a prompt.
"""

from __future__ import annotations

import importlib.util


class SIFTError(Exception):
    """The root of every error that is ours."""


class ArgumentError(SIFTError, ValueError):
    """An argument is out of range or contradicts another."""


class InvalidFilter(ArgumentError):  # noqa: N818 - named for what is wrong, as Chroma's are
    """A filter that the store does not understand, or that a tenant may not have."""


class PromptTooLong(ArgumentError):  # noqa: N818
    """A prompt leaves no room for an answer in the model's context."""


class EmbeddingError(SIFTError, ValueError):
    """A vector holds NaN or infinity, is zero, has the wrong size, or could not be made."""


class DimensionMismatch(EmbeddingError):  # noqa: N818
    """The query's vector and the stored ones have different numbers of dimensions."""


class NotFittedError(SIFTError, ValueError):
    """Embeddings were used before the mean that they are centred on was fitted."""


class StoreError(SIFTError, RuntimeError):
    """A vector store cannot serve SIFT as it is."""


class StoreUnavailable(StoreError, ConnectionError):  # noqa: N818
    """The store cannot be reached, broke off, or said that it is overloaded; retried before."""


class StoreTimeout(StoreError, TimeoutError):  # noqa: N818
    """The store did not answer within the time allowed."""


class CollectionNotFound(StoreError, LookupError):  # noqa: N818
    """The collection was deleted, or never existed."""


class StoreInUse(StoreError):  # noqa: N818
    """Another process has the folder of an embedded store open; a server shares one."""


class CorpusError(SIFTError, ValueError):
    """A file of documents or prompts cannot be read; the message names file and line."""


class ModelLoadError(SIFTError, OSError):
    """A model or its tokenizer cannot be loaded."""


class EngineError(SIFTError, RuntimeError):
    """A prompt cannot be answered as things are."""


class EngineOverloaded(EngineError):  # noqa: N818
    """As many requests or training tokens as the engine admits are there already.

    Said before anything is done for the request. Ask again later, or raise `Limits`.
    """


class RequestTimeout(EngineError, TimeoutError):  # noqa: N818
    """A prompt was not answered within the time allowed."""


class RequestCancelled(EngineError):  # noqa: N818
    """A request ended before its answer: it was cancelled, or the engine was closed."""


class TrainingError(EngineError):
    """The documents could not be learned from, and `on_failure` is "raise"."""


class GeneratorUnavailable(EngineError, ConnectionError):  # noqa: N818
    """The server that is to answer with an adapter cannot be reached, or has no room."""


class AdapterRefused(EngineError):  # noqa: N818
    """The server that is to answer does not take the adapter; the message says what to do."""


class MissingExtraError(SIFTError, ImportError):
    """An optional dependency is not installed; the message carries the command that cures it."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the package that is missing and the extra that brings it."""
        super().__init__(f"{package} is required: pip install 'langchain-sift[{extra}]'")
        self.package = package
        self.extra = extra


def require(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: The extra of langchain-sift that brings the packages.
        *packages: Names of packages, as they are imported.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
