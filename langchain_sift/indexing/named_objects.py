"""Objects that a command line or a settings file names: embeddings, retrievers, functions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import load_language_model


def embeddings_of(name: str) -> Any:
    """Return the embeddings of a name: a model's hidden states, or an object to import.

    Raises:
        ArgumentError: If there is no such object, or it cannot be made without arguments.
        ModelLoadError: If there is no such model.
    """
    if ":" not in name or Path(name).exists():
        return load_language_model(name)
    found = imported(name)
    try:
        return found() if isinstance(found, type) else found
    except Exception as error:
        raise ArgumentError(f"{name!r} cannot be made without arguments: {error}") from error


def imported(path: str) -> Any:
    """Return the object that module:NAME names; modules beside the caller are found as well.

    Raises:
        ArgumentError: If there is none.
    """
    module, _, attribute = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module does when it is imported
        raise ArgumentError(f"there is no {path!r}: {error}") from error
