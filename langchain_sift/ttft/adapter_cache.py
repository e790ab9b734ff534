"""Keep trained adapters on disk, so that the same documents are trained on only once.

Off by default. The key is the content: with another document, order, model, config or tenant it
is another key, so nothing has to be invalidated.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict, astuple
from pathlib import Path

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.requests import Request
from langchain_sift.ttft.texts import digest_of
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

logger = logging.getLogger(__name__)

# Part of each key: increase it when the same request would give another adapter.
_VERSION = 2


class AdapterCache:
    """A folder of trained adapters, which threads and processes may share."""

    def __init__(self, folder: str | Path, *, tenant: str, max_bytes: int = 10 << 30) -> None:
        """Open a cache, or create it.

        Args:
            folder: Folder of the cache. It is created with access for its owner only, because an
                adapter reveals its documents.
            tenant: Owner of the documents. A tenant never gets the adapter of another tenant, so
                a fast answer reveals nothing about the requests of others.
            max_bytes: Maximum size of the folder, by default 10 GiB. Beyond it, the adapters that
                were not used for the longest time are removed.

        Raises:
            ArgumentError: If the folder cannot be made, others may write to it, or `tenant` is
                empty.
        """
        if not tenant:
            raise ArgumentError("tenant must name the owner of the documents, got an empty string")
        self.tenant = tenant
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._reported = False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(f"cannot make the folder of the adapter cache: {error}") from error
        if self._folder.stat().st_mode & 0o022:
            raise ArgumentError(
                f"others may write to {self._folder}, and could replace the adapters that answer: "
                "run chmod 700 on it, or choose another folder"
            )

    def key(self, base: str, request: Request) -> str:
        """Return the key of a request's adapter, 64 hexadecimal digits.

        Args:
            base: Fingerprint of the model's weights.
            request: The request, with its documents and its config.
        """
        config = json.dumps(asdict(request.config), sort_keys=True)
        documents = [(document.token_ids, document.counted) for document in request.documents]
        lessons = [astuple(lesson) for lesson in request.lessons]
        material = json.dumps([documents, lessons])
        return digest_of((str(_VERSION), self.tenant, base, config, material))

    def get(self, key: str) -> TrainedAdapter | None:
        """Return the adapter of a key, or None if it does not exist or is damaged."""
        folder = self._folder / key
        try:
            if not folder.is_dir():
                return None
            adapter = TrainedAdapter.load(folder)
        except ArgumentError:  # damaged, or removed by another process
            self._remove(folder)
            return None
        except PermissionError:  # of the cache's folder; `put` reports it
            return None
        with suppress(OSError):  # the folder may be read-only
            os.utime(folder)
        return adapter

    def put(self, key: str, adapter: TrainedAdapter) -> None:
        """Store an adapter, unless the key exists or its training depended on the clock.

        A folder that cannot be written costs no answer: nothing is stored, and the log has an error
        for the first of several failures.
        """
        if adapter.config.max_train_seconds is not None:
            return
        try:
            with suppress(FileExistsError):
                adapter.save(self._folder / key)
            self._make_room()
            self._reported = False
        except OSError as error:
            if not self._reported:
                self._reported = True
                logger.error(
                    "adapters are not stored: cannot write to the adapter cache %s: %s; free its "
                    "disk, make it writable, or choose another folder",
                    self._folder,
                    error,
                )

    def _make_room(self) -> None:
        sizes: list[tuple[float, int, Path]] = []
        for folder in self._folder.iterdir():
            with suppress(OSError):
                size = sum(file.stat().st_size for file in folder.iterdir())
                sizes.append((folder.stat().st_mtime, size, folder))
        excess = sum(size for _, size, _ in sizes) - self._max_bytes
        for _, size, folder in sorted(sizes)[:-1]:  # never the one just used
            if excess <= 0:
                return
            self._remove(folder)
            excess -= size

    def _remove(self, folder: Path) -> None:
        """Remove an adapter at once, so that no reader sees a part of it."""
        aside = self._folder / f".removed-{uuid.uuid4().hex}"
        with suppress(OSError):
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
