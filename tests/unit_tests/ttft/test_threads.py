from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import threads
from langchain_sift.ttft.threads import available_cores, free_cores, prepare_threads

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user who has set nothing, restored after the test."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_threads_are_as_many_as_free_cores_and_wait_asleep() -> None:
    prepare_threads()
    assert 1 <= int(os.environ["OMP_NUM_THREADS"]) <= available_cores()
    assert 1 <= int(os.environ["OPENBLAS_NUM_THREADS"]) <= available_cores()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 1_000_000


def test_the_users_variables_take_precedence(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OMP_NUM_THREADS", "7")
    environment.setenv("OMP_WAIT_POLICY", "active")
    prepare_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_argument_takes_precedence_over_the_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OMP_NUM_THREADS", "7")
    prepare_threads(1)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize("count", [0, -1, 1.5, True, 10_000])
@pytest.mark.usefixtures("environment")
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(ArgumentError, match=f"threads must .*{count}"):
        prepare_threads(count)
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_on_one_core_uses_one_thread() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from langchain_sift.ttft.threads import available_cores, free_cores\n"
        "print(available_cores(), free_cores())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.split() == [b"1", b"1"]


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)]
)
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    without = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert without is not None
    assert available_cores() == min(cores or without, without)


def test_a_system_that_tells_no_use_of_its_cores_counts_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_STAT", tmp_path / "missing")
    assert free_cores() == available_cores()


@pytest.mark.slow
def test_pytorch_and_numpy_start_with_these_threads() -> None:
    code = (
        "import json; from langchain_sift.ttft.threads import prepare_threads; prepare_threads(1)\n"
        "import numpy, torch, threadpoolctl\n"
        "pools = [pool['num_threads'] for pool in threadpoolctl.threadpool_info()]\n"
        "print(json.dumps([torch.get_num_threads(), *pools]))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=clean
    )
    assert set(json.loads(result.stdout)) == {1}
