"""Run programs that use Ray in separate processes, with their files, warnings and processes.

A program is a module that takes arguments and prints JSON as its last line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

_TESTS = Path(__file__).parents[1]


def run_program(module: str, *arguments: object, timeout: float = 1500) -> Any:
    """Run a program; return its result after all of its processes have ended."""
    # A short path: it contains Ray's sockets, whose names are limited.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        left = end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, left


def environment(folder: str) -> dict[str, str]:
    """Return the environment of Ray's processes: small, silent, and in one folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(_TESTS),
        "HOME": folder,  # Ray stores a token there
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",  # the address is local
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray Serve starts its proxy again if a slow machine takes longer than this.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ANONYMIZED_TELEMETRY": "False",
    }


def end_all(folder: str) -> list[str]:
    """Wait for all processes of a folder to end; kill and return those that do not."""
    deadline = time.monotonic() + 120
    while (left := _processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return [" ".join(process.cmdline()[:4]) for process in left if process.is_running()]


def _processes(folder: str) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder:
                processes.append(process)
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return processes
