"""Record work of fixed shape as CUDA graphs, and replay it.

A training step launches thousands of small kernels; for one prompt, the GPU waits for Python
between them. A recorded step is a single launch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

_MAX_RECORDINGS = 64  # each keeps its thousands of launches in memory


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    result: torch.Tensor | None


class Recorder:
    """Runs work on a CUDA device; the second run of the same work is recorded.

    The work must read its inputs from the same tensors each time, and write its outputs to the
    same tensors. The first run also warms up the libraries, as a recording requires.
    """

    def __init__(self) -> None:
        """Start without recordings."""
        # All share one memory pool: a result is copied before the next recording writes to it.
        self._pool: Any = None
        self._warm: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}

    def run(self, key: Hashable, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """Run the work that `key` identifies; return its result, valid until the next run."""
        if key not in self._warm:
            result = work()
            self._warm.add(key)  # only now: work that failed has warmed nothing up
            return result
        if key not in self._recordings:
            if len(self._recordings) == _MAX_RECORDINGS:
                self._recordings.clear()
            self._recordings[key] = self._record(work)
        recording = self._recordings[key]
        recording.graph.replay()
        return recording.result

    def _record(self, work: Callable[[], torch.Tensor | None]) -> _Recording:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        return _Recording(graph, result)

    def forget(self) -> None:
        """Drop all recordings: their tensors no longer exist."""
        self._warm.clear()
        self._recordings.clear()
