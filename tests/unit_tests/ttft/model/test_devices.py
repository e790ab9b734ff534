"""The default dtype is the fastest of the device."""

from __future__ import annotations

from pathlib import Path

import torch

from langchain_sift.ttft import fastest_dtype, load_language_model


def test_the_default_dtype_is_the_fastest_of_the_device(tiny_model_path: Path) -> None:
    fastest = fastest_dtype(torch.device("cpu"))
    assert fastest in {torch.bfloat16, torch.float32}
    assert load_language_model(str(tiny_model_path), device="cpu").model.dtype == fastest
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16
