"""Load quantized layers of bitsandbytes, and share their weights between modules."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from langchain_sift.errors import ArgumentError, require
from langchain_sift.ttft.model.load_settings import check_quantization


def check_can_quantize(quantization: str | None) -> None:
    """Check the setting, and that the packages it needs are installed.

    Raises:
        ArgumentError: If it is not None, "4bit" or "8bit".
        MissingExtraError: If a package is missing.
    """
    if quantization is None:
        return
    check_quantization(quantization)
    require("quantized", "bitsandbytes", "accelerate")


def is_stored_quantized(name: str, config: PreTrainedConfig, quantization: str | None) -> bool:
    """Return whether the stored weights of a model are quantized.

    Raises:
        ArgumentError: If they are, and `quantization` asks for it again.
        MissingExtraError: If accelerate is missing, which loads them to their device.
    """
    if getattr(config, "quantization_config", None) is None:
        return False
    if quantization is not None:
        raise ArgumentError(f"{name!r} is quantized already: leave quantization out")
    require("quantized", "accelerate")
    return True


def quantization_config(quantization: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the settings of transformers that quantize weights while they are loaded.

    Args:
        quantization: "4bit" is NF4 with quantized constants, as in QLoRA (arXiv 2305.14314);
            "8bit" is LLM.int8() (arXiv 2208.07339). None means no quantization.
        dtype: The dtype that 4-bit layers compute in.
    """
    if quantization == "4bit":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return None


def settle_layers(model: PreTrainedModel) -> None:
    """Make quantized layers such that their first use changes nothing in them."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Otherwise a 4-bit layer repacks its weights for the CPU at its first use, into a
            # coarser form without gradient.
            module.support_avx512bf16_for_cpu = False
            # Otherwise layer and weights reference each other, and only the garbage collector
            # frees them.
            module.weight.module = None
        if hasattr(module, "init_8bit_state"):
            # Otherwise an 8-bit layer takes the scales away from its weights at its first use,
            # and a second layer over the same weights has none.
            module.init_8bit_state()
            logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_not_cast_notice)


def _is_not_cast_notice(record: logging.LogRecord) -> bool:
    """Drop the notice, at each product of an 8-bit layer, that it computes in float16."""
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def quantized_copies(module: Any) -> dict[int, object]:
    """Return copies of a quantized layer's weights over the same storage, by id of the original.

    Layers of bitsandbytes write to their parameter and its state when they are used, so each
    layer needs its own copy of both. The result is a memo for `copy.deepcopy`, empty for other
    layers.

    Raises:
        ArgumentError: If 4-bit weights are packed into a form without gradient.
    """
    weight: Any = getattr(module, "weight", None)
    if getattr(weight, "quant_state", None) is not None:  # 4-bit
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            raise ArgumentError(
                "the model's 4-bit weights were packed for inference on this CPU at the first "
                "use: pass the model's name, or the model before its first use"
            )
        shared, state = copy.copy(weight), copy.copy(weight.quant_state)
        shared.quant_state, shared.module = state, None
        return {id(weight): shared, id(weight.quant_state): state}
    if hasattr(module, "init_8bit_state") and weight.dtype == torch.int8:
        scales = module.state.SCB if weight.SCB is None else weight.SCB
        shared = type(weight)(weight.data, requires_grad=False, CB=weight.data, SCB=scales)
        state = copy.copy(module.state)
        state.CB = state.SCB = None  # the layer takes them from the parameter at its first use
        return {id(weight): shared, id(module.state): state}
    return {}
