"""Cores for the thread that computes, in place of threads that only wait."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft, OpenMP 5.0, section 3.2.43: what a thread has computed stays


def leave_cores_to_others() -> None:
    """End the helper threads that OpenMP keeps for the calling thread, until it computes again.

    Each thread that ever computed keeps as many helpers as there are cores. Where there are more
    of them than cores, GCC's OpenMP lets all of them sleep between two operations, and the engine
    takes twice as long. Starting helpers again takes a tenth of a millisecond.
    """
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """Return `omp_pause_resource_all` of the OpenMP that PyTorch brought, where it is GCC's."""
    root = Path(torch.__file__).parent
    for folder in (root / "lib", root.with_name("torch.libs")):
        for library in folder.glob("libgomp*.so*"):
            function = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
            if function is not None:
                pause: Callable[[int], int] = function
                return pause
    return None


# A forked child has no helpers, only this thread's memory of them: it would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=leave_cores_to_others)
