"""Work of fixed shape, recorded once and replayed: on a GPU, as a CUDA graph.

A step of test-time fine-tuning launches thousands of small kernels; for one prompt the GPU
waits for Python between them. A recorded step is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

_MOST = 64  # recordings; each keeps its thousands of launches in memory


@dataclass(slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    result: torch.Tensor | None


class Recorder:
    """Runs a piece of work; the second time that it is asked for, it is recorded.

    The work must read its inputs from the same tensors each time, and write its outputs to the
    same. The first time is both the work itself and what libraries need to warm up.
    """

    def __init__(self, device: torch.device) -> None:
        """Record on CUDA devices; elsewhere work is run as it is, each time."""
        self._records = device.type == "cuda"
        # One pool for all: a result is copied before the next recording may write to its place.
        self._pool = torch.cuda.graph_pool_handle() if self._records else None
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}

    def run(self, key: Hashable, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """Do the work that `key` names, and return its result, valid until it is run again."""
        if not self._records:
            return work()
        if key not in self._seen:
            result = work()
            self._seen.add(key)  # not before: a piece that failed has warmed nothing up
            return result
        if key not in self._recordings:
            if len(self._recordings) == _MOST:
                self._recordings.clear()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = work()
            self._recordings[key] = _Recording(graph, result)
        recording = self._recordings[key]
        recording.graph.replay()
        return recording.result

    def forget(self) -> None:
        """Drop what was recorded: the tensors that it read and wrote are no more."""
        self._seen.clear()
        self._recordings.clear()
