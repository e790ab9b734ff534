"""Where nothing can be recorded, the work itself is done each time."""

from __future__ import annotations

import torch

from langchain_sift.ttft.training.cuda_graphs import Recorder


def test_on_a_cpu_the_work_is_done_each_time() -> None:
    recorder = Recorder(torch.device("cpu"))
    done: list[int] = []

    def work() -> torch.Tensor:
        done.append(len(done))
        return torch.tensor(len(done))

    results = [recorder.run(key, work) for key in ("a", "a", "b", "a")]
    assert [int(result) for result in results if result is not None] == [1, 2, 3, 4]
    recorder.forget()
    assert int(recorder.run("a", work) or 0) == 5
