"""Measure the memory that this process, or a device, has in use."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True if an allocation failed: on a CPU, PyTorch raises a plain `RuntimeError`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def used_bytes(device: torch.device) -> int:
    """Return the bytes in use now: resident ones on a CPU, else those that PyTorch allocated."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux: the peak is the closest figure there is
        return peak_bytes(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that were in use at a time since the process began; 0 if unknown.

    On a GPU since `torch.cuda.reset_peak_memory_stats`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not the kernel's count for `getrusage`, which begins with the peak of the parent.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        return _peak_of_usage()


def _peak_of_usage() -> int:
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_memory() -> None:
    """Free the memory that finished work still occupies."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_to_system()


def return_to_system() -> None:
    """Return freed memory to the system, if the allocator is glibc's, which keeps some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
