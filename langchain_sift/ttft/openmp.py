"""End the helper threads that OpenMP keeps for threads that only wait."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft, OpenMP 5.0, section 3.2.43: results of the thread stay


def _find_pause() -> Callable[[int], object] | None:
    """Return `omp_pause_resource_all` of PyTorch's OpenMP, if that is GCC's."""
    root = Path(torch.__file__).parent
    for folder in (root / "lib", root.with_name("torch.libs")):
        for library in folder.glob("libgomp*.so*"):
            function = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
            if function is not None:
                pause: Callable[[int], object] = function
                return pause
    return None


_pause = _find_pause()

release_helper_threads: Callable[[], object] = (
    (lambda: None) if _pause is None else functools.partial(_pause, _SOFT)
)
"""End the helper threads of the calling thread, until it computes again.

Each thread that has computed keeps as many helpers as there are cores. If there are more helpers
than cores, GCC's OpenMP makes all of them sleep between two operations, and the engine takes twice
as long. Starting helpers again takes a tenth of a millisecond.
"""

# A forked child believes that it has helpers but has none: it would wait forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=release_helper_threads)
