"""The adapter is LoRA as PEFT computes it, beside weights that nobody writes to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.adapter import LowRankLinear, add_adapter, share_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = torch.arange(3, 23)[None, :]


SIZES = {
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The architectures that people run; GPT-2 has its own layers and its own names for sizes.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi", "phi3")
GPT2 = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}


def make_model(architecture: str) -> PreTrainedModel:
    sizes = GPT2 if architecture == "gpt2" else SIZES
    config = AutoConfig.for_model(architecture, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(params=[*ARCHITECTURES, "gpt2"])
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(request.param)


def test_a_step_has_pefts_logits_and_gradients(base: PreTrainedModel) -> None:
    ours = share_weights(base)
    adapter = add_adapter(ours, FineTuneConfig(lora_rank=4, lora_alpha=12.0, seed=3))
    peers = get_peft_model(
        copy.deepcopy(base),
        LoraConfig(
            r=4,
            lora_alpha=12.0,
            target_modules="all-linear",
            fan_in_fan_out=base.config.model_type == "gpt2",
        ),
    )
    wrapped = {n: m for n, m in ours.named_modules() if isinstance(m, LowRankLinear)}
    theirs = {
        n.removeprefix("base_model.model."): m
        for n, m in peers.named_modules()
        if hasattr(m, "lora_A")
    }
    assert wrapped.keys() == theirs.keys()
    generator = torch.Generator().manual_seed(0)
    for name, layer in wrapped.items():
        layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)
        theirs[name].lora_A["default"].weight.data.copy_(layer.down.data)
        theirs[name].lora_B["default"].weight.data.copy_(layer.up.data)
    adapter.enable(enabled=True)

    logits = ours(input_ids=TOKENS).logits
    expected = peers(input_ids=TOKENS).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)

    (logits**2).mean().backward()
    (expected**2).mean().backward()
    for name, layer in wrapped.items():
        peer = theirs[name]
        torch.testing.assert_close(layer.down.grad, peer.lora_A["default"].weight.grad)
        torch.testing.assert_close(layer.up.grad, peer.lora_B["default"].weight.grad)


def test_gradients_arrive_in_the_flat_buffer(base: PreTrainedModel) -> None:
    model = share_weights(base)
    adapter = add_adapter(model, FineTuneConfig(lora_rank=2))
    adapter.enable(enabled=True)
    model(input_ids=TOKENS).logits.square().mean().backward()
    ups = [m.up.grad.flatten() for m in model.modules() if isinstance(m, LowRankLinear)]
    assert all(gradient.abs().sum() > 0 for gradient in ups)
    assert adapter.weights.grad.norm() == pytest.approx(torch.cat(ups).norm().item(), rel=1e-5)


def test_switched_off_it_is_the_base_model_bit_for_bit(base: PreTrainedModel) -> None:
    model = share_weights(base)
    adapter = add_adapter(model, FineTuneConfig(lora_rank=4))
    adapter.weights.data.normal_()
    assert torch.equal(model(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)
    adapter.enable(enabled=True)
    assert not torch.equal(model(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)


def test_fresh_it_changes_nothing_but_rounding(base: PreTrainedModel) -> None:
    model = share_weights(base)
    add_adapter(model, FineTuneConfig(lora_rank=4)).enable(enabled=True)
    torch.testing.assert_close(
        model(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits, rtol=0, atol=1e-6
    )


def test_weights_are_shared_and_flags_of_the_original_are_not_touched(
    base: PreTrainedModel,
) -> None:
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    modules = [name for name, _ in base.named_modules()]
    model = share_weights(base)
    shared = {p.data_ptr() for p in model.parameters()}
    add_adapter(model, FineTuneConfig(lora_rank=4)).enable(enabled=True)
    model(input_ids=TOKENS).logits.sum().backward()
    assert shared == {p.data_ptr() for p in base.parameters()}
    assert flags == {name: p.requires_grad for name, p in base.named_parameters()}
    assert all(p.grad is None for p in base.parameters())
    assert modules == [name for name, _ in base.named_modules()]


def test_reset_is_bit_for_bit(tiny_model: PreTrainedModel) -> None:
    adapter = add_adapter(share_weights(tiny_model), FineTuneConfig(lora_rank=4))
    initial = adapter.weights.detach().clone()
    adapter.weights.data.normal_()
    adapter.weights.grad.normal_()
    assert not adapter.is_pristine()
    adapter.reset()
    assert adapter.is_pristine()
    assert torch.equal(adapter.weights, initial)
    assert not adapter.weights.grad.any()


def test_the_seed_decides_the_initial_weights_and_nothing_else_does(
    tiny_model: PreTrainedModel,
) -> None:
    def initial(seed: int) -> torch.Tensor:
        adapter = add_adapter(share_weights(tiny_model), FineTuneConfig(lora_rank=4, seed=seed))
        return adapter.weights.detach()

    torch.manual_seed(1)
    first = initial(5)
    state = torch.random.get_rng_state()
    second = initial(5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, initial(6))


def test_only_named_layers_are_wrapped(tiny_model: PreTrainedModel) -> None:
    model = share_weights(tiny_model)
    add_adapter(model, FineTuneConfig(lora_rank=4, target_modules=("q_proj", "v_proj")))
    names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, LowRankLinear)}
    assert names == {"q_proj", "v_proj"}
    with pytest.raises(ArgumentError, match="no_such_layer"):
        add_adapter(share_weights(tiny_model), FineTuneConfig(target_modules=("no_such_layer",)))
