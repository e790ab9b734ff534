"""Load the objects that a command line or a settings file names."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langchain_sift.errors import ArgumentError, ModelLoadError, require
from langchain_sift.indexing.sentence_embeddings import (
    SentenceTransformerEmbeddings,
    is_sentence_transformer,
)
from langchain_sift.ttft.model.load_settings import LoadSettings


def load_embeddings(name: str, settings: LoadSettings | None = None) -> Any:
    """Return the embeddings of a name: a model, or LangChain embeddings.

    Args:
        name: A name on the Hugging Face hub, a folder, a GGUF file, or module:NAME; a class is
            called. A folder or repository with a modules.json is a sentence-transformer.
        settings: Device and form of a model's weights. None means their defaults.

    Raises:
        ArgumentError: If the object does not exist, or the class needs arguments.
        MissingExtraError: If a model is named, and PyTorch and transformers are not installed, or
            sentence-transformers for such a model.
        ModelLoadError: If the model cannot be loaded.
    """
    if ":" not in name or Path(name).exists():
        if is_sentence_transformer(name):
            return SentenceTransformerEmbeddings(name, settings)
        require("ttft", "torch", "transformers")
        from langchain_sift.ttft import load_language_model  # noqa: PLC0415 - needs PyTorch

        return load_language_model(name, **asdict(settings or LoadSettings()))
    embeddings = import_object(name)
    try:
        return embeddings() if isinstance(embeddings, type) else embeddings
    except Exception as error:
        raise ArgumentError(f"{name!r} cannot be made without arguments: {error}") from error


def load_embeddings_of(collection: str, stored: str, settings: LoadSettings | None = None) -> Any:
    """Return the embeddings that a collection names as those that filled it.

    Args:
        collection: Name of the collection.
        stored: The name of the embeddings in the collection.
        settings: As in `load_embeddings`.

    Raises:
        ModelLoadError: If the model cannot be loaded, such as one that was moved; the message says
            where its name comes from.
    """
    try:
        return load_embeddings(stored, settings)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"{error}; this model filled the collection {collection!r}: if it is elsewhere now, "
            "name it (--embeddings, in Python embeddings=...)"
        ) from error


def import_object(path: str) -> Any:
    """Return the object at module:NAME; modules in the current folder are found as well.

    Raises:
        ArgumentError: If no object is named, or the module cannot be imported or has no such name.
    """
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ArgumentError(f"{path!r} names no object: write module:NAME")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # an import may run any code
        raise ArgumentError(f"{path!r} cannot be imported: {error}") from error
