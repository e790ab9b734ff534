"""The figures of memory in use follow what the process allocates."""

from __future__ import annotations

import sys

import pytest
import torch

from langchain_sift.ttft.memory.use import (
    is_out_of_memory,
    peak_bytes,
    return_to_system,
    used_bytes,
)

CPU = torch.device("cpu")


def test_a_failed_allocation_is_known_on_a_cpu_too() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError())
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(raised.value)
    assert not is_out_of_memory(None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory in use")
def test_memory_in_use_and_its_peak_grow_with_an_allocation_and_only_the_peak_stays() -> None:
    return_to_system()
    before = used_bytes(CPU)
    block = torch.ones(32 * 2**20)
    grown = used_bytes(CPU)
    assert 100 * 2**20 < grown - before < 200 * 2**20
    assert peak_bytes(CPU) >= grown - 2**20
    del block
    return_to_system()
    assert used_bytes(CPU) < grown - 100 * 2**20
    assert peak_bytes(CPU) >= grown - 2**20
