"""Make the folder that a vLLM server reads adapters from, and remove adapters from it."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from langchain_sift.errors import ArgumentError

logger = logging.getLogger(__name__)


def writable_folder(folder: str | Path) -> Path:
    """Return the absolute path of a folder, which is made if it does not exist.

    Raises:
        ArgumentError: If it cannot be made or written. An adapter is then not trained in vain.
    """
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot make the folder of the adapters: {error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ArgumentError(f"cannot write to {path}: choose another folder for the adapters")
    return path


def remove_adapter(path: Path) -> None:
    """Remove the files of an adapter; the log has a failure, as the answer is complete."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("the adapter in %s cannot be removed: %s", path, error)
