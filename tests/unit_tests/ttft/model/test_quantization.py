"""Quantized weights never change, and adapters train on top of the values that they encode.

The oracle is the same model with float32 weights, decoded here from the stored bytes.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TOKENS = torch.arange(3, 43)[None, :]
RECIPE = FineTuneConfig(lora_rank=4, lora_alpha=8.0)
BOTH = pytest.mark.parametrize("quantization", ["4bit", "8bit"])
# QLoRA (arXiv 2305.14314), appendix E.
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
SIZES = {
    "llama": {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4},
}


@pytest.fixture(scope="module", params=SIZES)
def plain(request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    """Make a model of two architectures; GPT-2's layers store their weights transposed."""
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tiny_tokenizer), **SIZES[request.param]
    )
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folder(
    plain: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("plain")
    plain.save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


def load_with_transformers(folder: Path, quantization: str) -> PreTrainedModel:
    """Load a quantized model as a user does who passes the loaded model."""
    how = {"load_in_4bit": True} if quantization == "4bit" else {"load_in_8bit": True}
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            **how,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
        device_map={"": "cpu"},
    ).eval()


def quantized_layers(model: torch.nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}
    }


def scales_of(layer: Any) -> torch.Tensor:
    return layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB


def dequantize(layer: Any) -> torch.Tensor:
    if layer.weight.dtype == torch.int8:
        return layer.weight.data.float() * scales_of(layer).float()[:, None] / 127
    state = layer.weight.quant_state
    packed = layer.weight.data.flatten().long()
    values = torch.tensor(NF4)[torch.stack((packed >> 4, packed & 15), dim=1).flatten()]
    # The largest value of each block is quantized as well, in blocks of 256.
    largest = state.state2.code[state.absmax.long()]
    largest = largest * state.state2.absmax.repeat_interleave(256)[: len(largest)] + state.offset
    blocks = values.view(-1, state.blocksize) * largest[:, None]
    return blocks.view(layer.out_features, layer.in_features)


def without_quantization(quantized: PreTrainedModel, plain: PreTrainedModel) -> PreTrainedModel:
    twin = AutoModelForCausalLM.from_config(plain.config, dtype=torch.float32).eval()
    twin.load_state_dict(plain.state_dict())
    for name, layer in quantized_layers(quantized).items():
        target = twin.get_submodule(name)
        weights = dequantize(layer)
        target.weight.data.copy_(weights.T if isinstance(target, Conv1D) else weights)
    return twin


def fingerprint(model: PreTrainedModel) -> str:
    """Return the SHA-256 of all weights and buffers, and of the constants of quantized layers."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, layer in quantized_layers(model).items():
        if layer.weight.dtype == torch.int8:
            tensors[f"{name}.scales"] = scales_of(layer)
        else:
            constants = layer.weight.quant_state.as_dict(packed=True)
            tensors |= {f"{name}.{key}": value for key, value in constants.items()}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def gradients(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and the gradients of an adapter with random weights."""
    clone = share_weights(model)
    slots, _ = add_slots(clone, RECIPE)
    generator = torch.Generator().manual_seed(0)
    slots.reserve(1)
    slots.begin_training()
    slots.load(0, torch.randn(slots.size, generator=generator) * 0.02)
    slots.use(0, 1)
    with torch.enable_grad():
        logits = clone(input_ids=TOKENS, use_cache=False).logits.float()
        logits.log_softmax(-1)[0, :-1].gather(1, TOKENS[0, 1:, None]).mean().backward()
    gradients = [part[0].flatten() for part in slots._matrices(slots.gradients)]
    return logits.detach(), torch.cat(gradients)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits.float()


def similarity(first: torch.Tensor, second: torch.Tensor) -> float:
    return torch.cosine_similarity(first.flatten(), second.flatten(), dim=0).item()


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_near_those_of_the_plain_weights(
    quantization: str, dtype: torch.dtype, folder: Path, plain: PreTrainedModel
) -> None:
    model = load_language_model(folder, dtype=dtype, quantization=quantization).model
    layers = quantized_layers(model)
    linear = {n for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    assert layers.keys() == linear - {"lm_head"}
    others = [p for p in model.parameters() if p.is_floating_point()]
    assert {p.dtype for p in others} == {dtype}
    if quantization == "4bit":
        assert {layer.compute_dtype for layer in layers.values()} == {dtype}
    bits = {len(layer.weight.data.flatten()) / layer.in_features / layer.out_features * 8
            for layer in layers.values()}  # fmt: skip
    assert bits == {4.0 if quantization == "4bit" else 8.0}
    assert similarity(logits_of(model), logits_of(plain)) > (
        0.98 if quantization == "4bit" else 0.999
    )


@pytest.mark.slow
@BOTH
def test_logits_and_gradients_equal_those_of_the_decoded_weights(
    quantization: str, folder: Path, plain: PreTrainedModel
) -> None:
    model = load_language_model(folder, dtype="float32", quantization=quantization).model
    twin = without_quantization(model, plain)
    logits, gradient = gradients(model)
    expected, expected_gradient = gradients(twin)
    assert gradient.abs().sum() > 0
    if quantization == "4bit":
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-6)
    else:  # LLM.int8() rounds the inputs of a layer as well
        torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.02)
        assert similarity(gradient, expected_gradient) > 0.999
        assert gradient.norm() == pytest.approx(expected_gradient.norm().item(), rel=0.02)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_never_change(quantization: str, dtype: str, folder: Path) -> None:
    model = load_language_model(folder, dtype=dtype, quantization=quantization).model
    before, logits = fingerprint(model), logits_of(model)
    for _ in range(2):
        gradients(model)
        assert fingerprint(model) == before
    assert torch.equal(logits_of(model), logits)
    assert fingerprint(model) == before
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@BOTH
def test_the_same_name_and_quantization_share_the_weights(
    quantization: str, folder: Path, weight_loads: list[str]
) -> None:
    before = len(weight_loads)
    first = load_language_model(folder, dtype="float32", quantization=quantization)
    assert load_language_model(folder, dtype="float32", quantization=quantization).model is (
        first.model
    )
    plain = load_language_model(folder, dtype="float32")
    assert plain.model is not first.model
    assert len(weight_loads) == before + 2
    assert first.device == torch.device("cpu")


@pytest.mark.slow
@BOTH
def test_the_weights_are_freed_with_their_last_user(quantization: str, folder: Path) -> None:
    loaded = load_language_model(folder, dtype="float16", quantization=quantization)
    logits_of(loaded.model)
    gone = [weakref.ref(weights) for weights in loaded.model.parameters()]
    gc.collect()
    gc.disable()  # the weights must be freed without the garbage collector
    try:
        del loaded
        assert all(weights() is None for weights in gone)
    finally:
        gc.enable()


@pytest.mark.slow
@BOTH
def test_all_copies_compute_the_same_logits(quantization: str, folder: Path) -> None:
    model = load_language_model(folder, dtype="float32", quantization=quantization).model
    first, second = share_weights(model), share_weights(model)
    logits = logits_of(first)
    assert torch.equal(logits_of(second), logits)
    assert torch.equal(logits_of(model), logits)
    assert torch.equal(logits_of(share_weights(model)), logits)


@BOTH
def test_a_loaded_quantized_model_is_used_unchanged(
    quantization: str, folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_with_transformers(folder, quantization)
    before, flags = fingerprint(model), [vars(m).keys() for m in model.modules()]
    loaded = load_language_model(model, tiny_tokenizer)
    assert loaded.model is model
    assert loaded.device == torch.device("cpu")
    assert fingerprint(model) == before
    assert flags == [vars(m).keys() for m in model.modules()]


@pytest.mark.slow
@BOTH
def test_a_quantized_folder_is_loaded_unchanged(
    quantization: str, folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = load_language_model(folder, dtype="float32", quantization=quantization).model
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    again = load_language_model(tmp_path, dtype="float32").model
    assert fingerprint(again) == fingerprint(model)
    assert torch.equal(logits_of(again), logits_of(model))
    torch.testing.assert_close(gradients(again), gradients(model), rtol=0, atol=0)
    with pytest.raises(ArgumentError, match="quantized already"):
        load_language_model(tmp_path, quantization=quantization)


@pytest.mark.slow
def test_the_notice_of_each_8_bit_product_is_not_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_language_model(folder, dtype="float32", quantization="8bit").model
    with caplog.at_level(logging.INFO):
        logits_of(model)
        logging.getLogger("bitsandbytes.autograd._functions").warning("another thing")
    assert [record.getMessage() for record in caplog.records] == ["another thing"]


@pytest.mark.slow
@BOTH
def test_copies_of_a_loaded_model_do_not_change_it(quantization: str, folder: Path) -> None:
    model = load_with_transformers(folder, quantization)
    expected = load_language_model(folder, dtype="float32", quantization=quantization).model
    before = fingerprint(model)
    first, second = share_weights(model), share_weights(model)
    logits = logits_of(expected)
    assert torch.equal(logits_of(first), logits)
    assert torch.equal(logits_of(second), logits)
    assert fingerprint(model) == before
    _, gradient = gradients(model)
    assert torch.equal(gradient, gradients(expected)[1])


@pytest.mark.slow
@BOTH
def test_later_use_of_the_loaded_model_does_not_change_its_copies(
    quantization: str, folder: Path
) -> None:
    model = load_with_transformers(folder, quantization)
    expected = load_language_model(folder, dtype="float32", quantization=quantization).model
    clone = share_weights(model)
    with torch.inference_mode():
        model.requires_grad_(requires_grad=False)
        model(input_ids=TOKENS)
    assert torch.equal(logits_of(clone), logits_of(expected))


def test_copies_share_the_storage_of_8_bit_weights(folder: Path) -> None:
    model = load_language_model(folder, dtype="float32", quantization="8bit").model
    clone = share_weights(model)
    logits_of(clone)
    for name, layer in quantized_layers(clone).items():
        original = model.get_submodule(name)
        assert layer.state.CB.data_ptr() == original.state.CB.data_ptr()
        assert layer.weight.data_ptr() == original.weight.data_ptr()


def test_packed_weights_are_refused(folder: Path) -> None:
    model = load_with_transformers(folder, "4bit")
    for layer in quantized_layers(model).values():  # as on a CPU with AVX-512 BF16 after use
        layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ArgumentError, match="4-bit"):
        share_weights(model)
