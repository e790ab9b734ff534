"""Ray in processes of its own: what it opens, warns of and leaves behind is not the tests'.

A program is a module that is run with a folder and a model, and prints JSON as its last line.
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


def run_program(module: str, *arguments: object, timeout: float = 240) -> Any:
    """Run a program beside the tests; return what it found, when nothing of it is left."""
    # Ray's sockets lie below it, and the name of a socket is short.
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
    """Return what Ray's processes are started with: small, silent, and in one folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(_TESTS),
        "HOME": folder,  # where it keeps a token
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",  # nobody else reaches this machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ANONYMIZED_TELEMETRY": "False",
    }


def end_all(folder: str) -> list[str]:
    """Wait for all processes of a folder to end; kill, and name, those that do not."""
    deadline = time.monotonic() + 20
    while (left := _of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return [" ".join(process.cmdline()[:4]) for process in left if process.is_running()]


def _of(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
    return found
