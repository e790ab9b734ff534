"""A waiting thread has no helpers; its results before and after are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from langchain_sift.ttft.openmp import _pause, release_helper_threads

# Counts the threads of a process at each stage, and forks a child that computes.
PROGRAM = """
import json, os, pathlib, time
import torch
from langchain_sift.ttft.openmp import release_helper_threads

def threads():
    return len(list(pathlib.Path("/proc/self/task").iterdir()))

torch.set_num_threads(3)
before = threads()
left = torch.ones(300, 300)
expected = left @ left
busy = threads()
release_helper_threads()
deadline = time.monotonic() + 30
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.001)  # the system takes a moment to forget a thread that has been joined
idle = threads()
same = torch.equal(left @ left, expected)
again = threads()
child = os.fork() if hasattr(os, "fork") else None
if child == 0:
    os._exit(0 if torch.equal(left @ left, expected) else 1)
code = None if child is None else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
counts = {"before": before, "busy": busy, "idle": idle, "again": again}
print(json.dumps({**counts, "same": same, "code": code}))
"""


@pytest.fixture(scope="module")
def report() -> Any:
    """Run the program once; it would hang if the child waited for helpers that it lacks."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(_pause is None, reason="the OpenMP of this PyTorch is not GCC's")
def test_helpers_end_and_start_again(report: Any) -> None:
    assert report["busy"] > report["before"]
    assert report["idle"] < report["busy"]
    assert report["again"] == report["busy"]
    assert report["same"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes(report: Any) -> None:
    """Its parent had computed before the fork."""
    assert report["code"] == 0


def test_other_threads_compute_undisturbed() -> None:
    left = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    expected = left @ left
    wrong: list[int] = []

    def compute() -> None:
        wrong.extend(n for n in range(200) if not torch.equal(left @ left, expected))

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        release_helper_threads()
    assert wrong == []
