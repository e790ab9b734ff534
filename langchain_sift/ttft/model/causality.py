"""Check that a model predicts each token from the tokens before it alone."""

from __future__ import annotations

import copy
import weakref
from contextlib import suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from langchain_sift.errors import ArgumentError, ModelLoadError
from langchain_sift.ttft.model.quantization import quantized_copies

_LENGTH = 4
# In an encoder, later tokens change about as much as earlier ones.
_SHARE = 0.25
# In a causal model they change nothing but the rounding, as a row's place in the batch does.
_ROUNDINGS = 4.0

_causal: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()


def is_causal(model: PreTrainedModel) -> bool:
    """Return False if the logits at a position depend on later tokens.

    One forward pass of four sequences of four tokens: the second differs from the first in its
    later half, the third in its earlier half, the fourth not at all. The effect of the later half
    on the logits of the earlier one is compared with the effect of the earlier half on those of
    the later one, and with the rounding. All are in one batch, so quantized layers round them
    alike. A model is tried once.

    Raises:
        ModelLoadError: If the logits are not numbers, as those of damaged weights.
    """
    if model in _causal:
        return True
    probed = _unused_copy(model)
    first, second = _token_ids(probed)
    half = _LENGTH // 2
    later = torch.cat([first[:half], second[half:]])
    earlier = torch.cat([second[:half], first[half:]])
    with torch.inference_mode():
        logits: torch.Tensor = probed(
            input_ids=torch.stack([first, later, earlier, first]), use_cache=False
        ).logits.float()
    _check_finite(model, logits)
    from_later = (logits[0, :half] - logits[1, :half]).norm()
    from_earlier = (logits[0, half:] - logits[2, half:]).norm()
    rounding = (logits[0, :half] - logits[3, :half]).norm()
    if from_later > _SHARE * from_earlier and from_later > _ROUNDINGS * rounding:
        return False
    _causal.add(model)
    return True


def is_encoder(model: PreTrainedModel) -> bool:
    """Return True if a model, of which some weights may be random, is not causal."""
    with suppress(ModelLoadError):  # random weights need not give numbers
        return not is_causal(model)
    return False


def _check_finite(model: PreTrainedModel, logits: torch.Tensor) -> None:
    if torch.isfinite(logits).all():
        return
    for name, weights in model.named_parameters():
        if not (weights.is_meta or torch.isfinite(weights.float()).all()):
            raise ModelLoadError(f"the weights {name!r} are not all finite numbers: load them anew")
    if torch.isnan(logits).any():  # some models give tokens that they never write -inf
        raise ModelLoadError(
            f"its logits are not numbers in {model.dtype}: use another dtype, such as float32"
        )


def not_causal(model: PreTrainedModel) -> str:
    """Return the reason not to use a model that is not causal."""
    return (
        f"{type(model).__name__} is no causal language model here: its logits at a token depend on "
        "later tokens, as those of encoders such as BERT do, so it would see the tokens that it is "
        "scored on; use a decoder, such as Llama, Qwen or GPT-2 (an encoder can embed the "
        "documents, as a sentence-transformer)"
    )


def _token_ids(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two sequences without a token in common, spread over the vocabulary."""
    embeddings: Any = model.get_input_embeddings()
    count, size = 2 * _LENGTH, int(embeddings.num_embeddings)
    ids = torch.arange(1, count + 1) * size // (count + 2)
    # Padding may be masked, and does not count as a position in some models.
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    if padding is not None:
        ids[ids == padding] = (padding + 1) % size
    ids = ids.to(embeddings.weight.device)
    return ids[:_LENGTH], ids[_LENGTH:]


def _unused_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, or a copy over the same weights if a forward pass would change it.

    Dropout makes the logits of a model in training random. Layers of bitsandbytes change their
    state when they are first used.
    """
    memo: dict[int, object] = {}
    try:
        for module in model.modules():
            memo |= quantized_copies(module)
    except ArgumentError:  # packed for inference: it has been used already
        return model
    if not memo and not model.training:
        return model
    memo |= {id(weights): weights for weights in model.parameters() if id(weights) not in memo}
    clone = copy.deepcopy(model, memo=memo)
    for module in clone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - unknown to PyTorch
    clone.eval()  # type: ignore[no-untyped-call]
    return clone
