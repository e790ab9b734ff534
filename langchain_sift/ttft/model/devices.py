"""Resolve the device and the dtype that a model is loaded with."""

from __future__ import annotations

import functools
import time

import torch

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.load_settings import DTYPES

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return a device of this machine.

    Args:
        device: None means "cuda" if it is available, otherwise "cpu". "cuda" without an index
            means the current CUDA device.

    Raises:
        ArgumentError: If this machine has no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = _available_devices()
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = torch.device("meta")  # never available
    if resolved.type == "cpu":
        return torch.device("cpu")
    if resolved.index is None and resolved in {torch.device(d.type) for d in available}:
        resolved = torch.device(resolved.type, torch.accelerator.current_device_index())
    if resolved not in available:
        names = ", ".join(f'"{name}"' for name in available)
        raise ArgumentError(
            f"device must be one of {names}, the devices of this machine, got {str(device)!r}"
        )
    return resolved


def _available_devices() -> list[torch.device]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return [torch.device("cpu")]
    count = torch.accelerator.device_count()
    return [torch.device("cpu"), *(torch.device(accelerator.type, i) for i in range(count))]


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return a dtype of weights.

    Args:
        dtype: None means the fastest of the device.
        device: The device of the weights.

    Raises:
        ArgumentError: If the dtype is not bfloat16, float16 or float32.
    """
    if dtype is None:
        return fastest_dtype(device)
    for name, allowed in _DTYPES.items():
        if dtype in (name, allowed):
            return allowed
    names = ", ".join(f'"{name}"' for name in _DTYPES)
    raise ArgumentError(f"dtype must be one of {names}, got {dtype!r}")


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16, or float32 on a CPU that is not clearly faster with bfloat16.

    Measured once per process: the instructions that decide it (AMX, AVX-512 BF16, SVE) have no
    stable public name in PyTorch.
    """
    if device.type != "cpu":
        return torch.bfloat16
    margin = 1.5  # far from a tie, so that the result is the same each time on one machine
    is_faster = margin * _matmul_seconds(torch.bfloat16) < _matmul_seconds(torch.float32)
    return torch.bfloat16 if is_faster else torch.float32


def _matmul_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    fastest = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest
