"""Adapters kept between requests: the same documents in the same order are learned once.

Off unless asked for. What is found is found by content: a changed document, model, recipe or
tenant is another key, so there is nothing to invalidate.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.digests import digest_of
from langchain_sift.ttft.requests import Request
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter

# Part of each key: raise it when the same key would mean another adapter.
_VERSION = 1


class AdapterCache:
    """A folder of adapters, that several threads and processes may share."""

    def __init__(self, folder: str | Path, *, tenant: str, max_bytes: int = 10 << 30) -> None:
        """Open a cache, or make one.

        Args:
            folder: Made with access for its owner only; an adapter tells of its documents.
            tenant: Whose documents these are: no tenant finds what another's were learned into,
                and so cannot learn from a quick answer what another asked.
            max_bytes: Beyond, the adapters that were not used for longest are removed.

        Raises:
            ArgumentError: If others may write to the folder, or `tenant` is empty.
        """
        if not tenant:
            raise ArgumentError("tenant must name whose documents these are, got an empty string")
        self.tenant = tenant
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_mode & 0o022:
            raise ArgumentError(
                f"others may write to {self._folder}, and what they put there would be answered "
                "with: chmod 700 it, or choose another folder"
            )

    def key(self, base: str, request: Request) -> str:
        """Return what the adapter of a request is found by, 64 hexadecimal digits.

        Args:
            base: Fingerprint of the model's weights.
            request: Its documents are what is learned from.
        """
        recipe = json.dumps(asdict(request.config), sort_keys=True)
        documents = [list(document.token_ids) for document in request.documents]
        return digest_of((str(_VERSION), self.tenant, base, recipe, json.dumps(documents)))

    def get(self, key: str) -> TrainedAdapter | None:
        """Return the adapter of a key, if there is one that is whole."""
        place = self._folder / key
        if not place.is_dir():
            return None
        try:
            adapter = TrainedAdapter.load(place)
            os.utime(place)
        except (ArgumentError, OSError):  # damaged, or removed by another process
            self._remove(place)
            return None
        return adapter

    def put(self, key: str, adapter: TrainedAdapter) -> None:
        """Keep an adapter; one that another thread kept meanwhile stays."""
        if not is_repeatable(adapter.config):
            return
        with suppress(FileExistsError):
            adapter.save(self._folder / key)
        self._make_room()

    def _make_room(self) -> None:
        sizes: list[tuple[float, int, Path]] = []
        for place in self._folder.iterdir():
            with suppress(OSError):
                size = sum(file.stat().st_size for file in place.iterdir())
                sizes.append((place.stat().st_mtime, size, place))
        excess = sum(size for _, size, _ in sizes) - self._max_bytes
        for _, size, place in sorted(sizes)[:-1]:  # never the one that is used just now
            if excess <= 0:
                return
            self._remove(place)
            excess -= size

    def _remove(self, place: Path) -> None:
        """Remove an adapter, so that a reader finds it whole or not at all."""
        aside = self._folder / f".removed-{uuid.uuid4().hex}"
        with suppress(OSError):
            place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def is_repeatable(config: FineTuneConfig) -> bool:
    """Return whether training by this recipe ends alike each time, whatever the clock says."""
    return config.max_train_seconds is None
