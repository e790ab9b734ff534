"""How much memory a piece of work took at most."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

_INTERVAL = 0.02  # seconds between two looks at the process


class peak_memory:  # noqa: N801 - used like contextlib's
    """Measure the most memory held within the block: `bytes` of it, at any time.

    On a GPU what PyTorch allocated there, else the resident memory of the process, looked at
    fifty times a second.
    """

    def __init__(self, device: torch.device) -> None:
        """Measure what a model on that device takes."""
        self._cuda = device if device.type == "cuda" else None
        self._process = psutil.Process()
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def bytes(self) -> int:
        """The most so far."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda)
        self._most = max(self._most, self._process.memory_info().rss)
        return self._most

    def __enter__(self) -> peak_memory:
        """Begin."""
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._done.set()

    def _look(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._most = max(self._most, self._process.memory_info().rss)
