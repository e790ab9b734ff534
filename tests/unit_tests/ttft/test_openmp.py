"""A thread that waits keeps no helpers; what it computes before and after is the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from langchain_sift.ttft.openmp import _pause, release_helper_threads

COUNT = """
import pathlib, torch
from langchain_sift.ttft.openmp import release_helper_threads
def threads():
    return len(list(pathlib.Path("/proc/self/task").iterdir()))
torch.set_num_threads(3)
before = threads()
left = torch.ones(300, 300)
expected = left @ left
busy = threads()
release_helper_threads()
idle = threads()
assert torch.equal(left @ left, expected)
print(before, busy, idle, threads())
"""


def test_helpers_end_and_come_again() -> None:
    if _pause is None:  # another OpenMP than GCC's: there is nothing to end
        release_helper_threads()
        return
    found = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True
    )
    before, busy, idle, again = map(int, found.stdout.split())
    assert busy > before
    assert idle < busy
    assert again == busy


def test_threads_that_compute_are_not_disturbed() -> None:
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


FORK = """
import os, torch
from langchain_sift.ttft import openmp as cores
torch.set_num_threads(3)
left = torch.ones(300, 300)
expected = left @ left
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(left @ left, expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes() -> None:
    """Where the parent had computed before, it would wait for helpers that it does not have."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
