"""Choose the number of threads, and how they wait, before PyTorch and NumPy are loaded.

GCC's OpenMP and OpenBLAS let threads spin while they wait for each other. On an idle machine that
is fastest. Beside another busy process a thread that waits takes the core from one that works.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from langchain_sift.checks import check_integer
from langchain_sift.errors import ArgumentError

_SPIN_COUNT = "GOMP_SPINCOUNT"
_WAITING = (_SPIN_COUNT, "OMP_WAIT_POLICY")
_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# A short time, but longer than the pauses between two operations of a model.
_SPINS = "10000"

_STAT = Path("/proc/stat")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SAMPLE_SECONDS = 0.1


def prepare_threads(threads: int | None = None) -> None:
    """Set the variables of OpenMP and OpenBLAS; the user's own variables take precedence.

    Args:
        threads: Number of threads, at most that of the cores. None means as many as there are
            cores that other processes leave free now. It takes precedence over the variables.

    Raises:
        ArgumentError: If `threads` is below 1 or above the number of cores.
    """
    cores = available_cores()
    check_integer("threads", threads, 1, optional=True)
    if threads is not None and threads > cores:
        raise ArgumentError(f"threads must be at most {cores}, the number of cores, got {threads}")
    if not any(name in os.environ for name in _WAITING):
        os.environ[_SPIN_COUNT] = _SPINS
    for name in _COUNTS:
        if threads is not None or name not in os.environ:
            os.environ[name] = str(threads or free_cores())
    if threads is not None and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)  # has read the variables when it was loaded


def available_cores() -> int:
    """Return the number of cores that this process may use: its affinity, its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _container_quota() or sys.maxsize))


def _container_quota() -> int | None:
    """Return the number of cores that the control group of this process may use."""
    try:
        quota, period = _QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # another system, or no quota
        return None


def free_cores() -> int:
    """Return the number of cores that other processes leave free, at least 1.

    Counts for a tenth of a second, where the system tells the use of its cores.
    """
    before = _idle_seconds()
    if before is None:
        return available_cores()
    own = time.process_time()
    began = time.perf_counter()
    time.sleep(_SAMPLE_SECONDS)
    seconds = time.perf_counter() - began
    idle = (_idle_seconds() or 0.0) - before + time.process_time() - own
    return max(1, min(available_cores(), round(idle / seconds)))


def _idle_seconds() -> float | None:
    """Return the seconds that the cores of this process were idle since the system's start."""
    try:
        lines = _STAT.read_text().splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, ValueError, AttributeError):
        return None
    fields = [line.split() for line in lines]
    # Idle, and waiting for input or output (proc(5)).
    idle = [int(line[4]) + int(line[5]) for line in fields if line and line[0] in cores]
    return sum(idle) / ticks
