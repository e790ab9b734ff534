"""The first run of a piece of work is the work itself; only later runs may be recorded."""

from __future__ import annotations

import pytest
import torch

from langchain_sift.ttft import Engine
from langchain_sift.ttft.training.cuda_graphs import Recorder


def test_a_cpu_records_nothing(engine: Engine) -> None:
    assert engine._worker._trainer._recorder is None


def test_the_first_run_of_each_key_is_the_work_itself() -> None:
    recorder = Recorder()
    runs: list[int] = []

    def work() -> torch.Tensor:
        runs.append(len(runs))
        return torch.tensor(len(runs))

    results = [recorder.run(key, work) for key in ("a", "b")]
    assert [int(result) for result in results if result is not None] == [1, 2]
    recorder.forget()
    assert int(recorder.run("a", work) or 0) == 3


def test_work_that_failed_runs_once_more_before_it_is_recorded() -> None:
    """A run that failed has warmed nothing up."""
    recorder = Recorder()

    def fail() -> torch.Tensor:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - exactly this error
        recorder.run("step", fail)
    result = recorder.run("step", lambda: torch.ones(1))
    assert result is not None
    assert bool(result)
