"""The figures of memory in use follow what the process allocates."""

from __future__ import annotations

import sys

import pytest
import torch

from langchain_sift.ttft.memory.use import peak_bytes, return_to_system, used_bytes

CPU = torch.device("cpu")


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
