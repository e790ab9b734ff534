"""Each slot is LoRA as PEFT computes it, and the base weights never change."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from architectures import ARCHITECTURES, DENSE, MIXTURES, MULTIMODAL, make_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.training.adapted_model import add_slots, base_norm, share_weights
from langchain_sift.ttft.training.lora import LowRankLinear
from langchain_sift.ttft.training.slots import Slots
from langchain_sift.ttft.training.target_layers import find_target_layers
from langchain_sift.ttft.training.tasks import TrainingRecord
from langchain_sift.ttft.training.trained_adapter import TrainedAdapter
from langchain_sift.ttft.training.trainer import checkpoint_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = torch.arange(3, 23)[None, :]


# Two flatten the rows of a batch before some layers, and their prompts run one by one.
@pytest.fixture(params=sorted(ARCHITECTURES.keys() - {"opt", "qwen2_moe"}))
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(request.param)


def in_training(model: PreTrainedModel, slots: Slots, token_ids: torch.Tensor) -> torch.Tensor:
    """Return the logits, and compute the gradients of their mean square."""
    slots.use(0, len(token_ids))
    logits = model(input_ids=token_ids).logits
    logits.square().mean(dim=(1, 2)).sum().backward()
    return logits.detach()


def matrices(slots: Slots, flat: torch.Tensor) -> list[torch.Tensor]:
    """Return A and B of each layer from the flat row of one slot, in which B is transposed."""
    sizes = list(map(math.prod, slots.shapes))
    parts = [p.view(s) for p, s in zip(torch.split(flat, sizes), slots.shapes, strict=True)]
    return [part.mT if number % 2 else part for number, part in enumerate(parts)]


def gradients_of(slots: Slots, slot: int) -> torch.Tensor:
    """Return the gradients of a slot, in the order of `Slots.read`."""
    return torch.cat([part[slot].flatten() for part in slots._matrices(slots.gradients)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
def test_each_row_has_pefts_logits_and_gradients(base: PreTrainedModel, tmp_path: Path) -> None:
    """Compare three prompts in one pass, each with the model that PEFT loads its adapter into."""
    config = FineTuneConfig(lora_rank=4, lora_alpha=12.0)
    ours = share_weights(base)
    slots, targets = add_slots(ours, config)
    slots.reserve(3)
    slots.begin_training()
    token_ids = torch.stack([torch.arange(start, start + 20) for start in (3, 20, 40)])
    generator = torch.Generator().manual_seed(0)
    for slot in range(3):
        slots.load(slot, torch.randn(slots.size, generator=generator) * 0.1)
    logits = in_training(ours, slots, token_ids)
    has_conv = base.config.model_type == "gpt2"

    def exported(weights: torch.Tensor) -> TrainedAdapter:
        record = TrainingRecord()
        return TrainedAdapter(
            weights.clone(), targets.names, slots.shapes, config, record, "base", has_conv
        )

    for slot in range(3):
        folder = exported(slots.read(slot)).save(tmp_path / str(slot))
        peers = PeftModel.from_pretrained(copy.deepcopy(base), folder, is_trainable=True)
        expected = peers(input_ids=token_ids[slot][None]).logits
        torch.testing.assert_close(logits[slot][None], expected, rtol=1e-4, atol=1e-4)
        expected.square().mean().backward()
        theirs = {
            name.replace(".default.", "."): parameter.grad
            for name, parameter in peers.named_parameters()
            if ".lora_" in name
        }
        gradients = dict(exported(gradients_of(slots, slot))._tensors())
        assert gradients.keys() == theirs.keys()
        for name, gradient in gradients.items():
            peer = theirs[name] if theirs[name] is not None else torch.zeros_like(gradient)
            torch.testing.assert_close(gradient, peer, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("one_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_row_alone_has_the_logits_that_it_has_among_others(
    architecture: str, dtype: torch.dtype, *, one_token: bool
) -> None:
    """The products of one slot are other calls than those of several."""
    model = share_weights(make_model(architecture).to(dtype))
    slots, _ = add_slots(model, FineTuneConfig(lora_rank=4, lora_alpha=12.0))
    slots.reserve(2)
    for slot in range(2):
        generator = torch.Generator().manual_seed(slot)
        slots.load(slot, torch.randn(slots.size, generator=generator) * 0.1)
    with torch.inference_mode():
        slots.use_rows([0, 1], one_token=one_token)
        expected = model(input_ids=TOKENS.repeat(2, 1)).logits
        slots.use_rows([1], one_token=one_token)
        found = model(input_ids=TOKENS).logits
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found[0], expected[1], rtol=tolerance, atol=tolerance)
    assert not torch.allclose(expected[0], expected[1], atol=tolerance)


@pytest.mark.parametrize("architecture", sorted(DENSE | MULTIMODAL))
def test_all_linear_is_that_of_peft_but_for_layers_that_text_does_not_reach(
    architecture: str,
) -> None:
    base = make_model(architecture)
    names = find_target_layers(base, "all-linear").names
    transposed = architecture == "gpt2"
    peers = get_peft_model(base, LoraConfig(target_modules="all-linear", fan_in_fan_out=transposed))
    theirs = {
        name.removeprefix("base_model.model.")
        for name, module in peers.named_modules()
        if hasattr(module, "lora_A")
    }
    others = re.compile("vision|visual|projector")
    assert set(names) == {name for name in theirs if not others.search(name)}
    assert any(map(others.search, theirs)) == (architecture in MULTIMODAL)


@pytest.mark.slow
def test_a_slot_at_rest_is_the_base_model_whatever_the_other_slots_are(
    base: PreTrainedModel,
) -> None:
    model = share_weights(base)
    slots, _ = add_slots(model, FineTuneConfig(lora_rank=4))
    slots.reserve(2)
    both = TOKENS.repeat(2, 1)
    expected = base(input_ids=both).logits
    assert torch.equal(model(input_ids=both).logits, expected)
    slots.load(0, torch.ones(slots.size))
    slots.use(0, 2)
    logits = model(input_ids=both).logits
    if base.config.model_type in MIXTURES:  # experts take the rows one by one
        torch.testing.assert_close(logits[1], expected[1], rtol=0, atol=1e-5)
    else:
        assert torch.equal(logits[1], expected[1])
    assert not torch.allclose(logits[0], expected[0], rtol=0, atol=1e-3)
    slots.rest()
    assert torch.equal(model(input_ids=both).logits, expected)


@pytest.mark.slow
def test_the_initial_weights_change_nothing_but_rounding(base: PreTrainedModel) -> None:
    model = share_weights(base)
    slots, _ = add_slots(model, FineTuneConfig(lora_rank=4))
    slots.reserve(1)
    slots.begin(0, seed=3, learning_rate=1e-3)
    slots.use(0, 1)
    torch.testing.assert_close(
        model(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits, rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_weights_are_shared_and_flags_of_the_original_are_unchanged(
    base: PreTrainedModel,
) -> None:
    flags = {name: p.requires_grad for name, p in base.named_parameters()}
    modules = [name for name, _ in base.named_modules()]
    model = share_weights(base)
    shared = {p.data_ptr() for p in model.parameters()}
    slots, _ = add_slots(model, FineTuneConfig(lora_rank=4))
    slots.reserve(1)
    slots.begin(0, seed=0, learning_rate=1e-3)
    in_training(model, slots, TOKENS)
    assert shared == {p.data_ptr() for p in base.parameters()}
    assert flags == {name: p.requires_grad for name, p in base.named_parameters()}
    assert all(p.grad is None for p in base.parameters())
    assert modules == [name for name, _ in base.named_modules()]


def test_the_output_layer_never_reads_a_slice_of_all_positions(tiny_model: PreTrainedModel) -> None:
    """For such a slice, PyTorch copies a bfloat16 output layer once for each row of a batch."""
    seen: list[bool] = []
    model = share_weights(tiny_model)
    model.lm_head.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].is_contiguous())
    )
    model(input_ids=TOKENS.repeat(2, 1), logits_to_keep=1)
    assert seen == [True]


def test_steps_equal_adamw_with_clipping(tiny_model: PreTrainedModel) -> None:
    slots, _ = add_slots(share_weights(tiny_model), FineTuneConfig(lora_rank=2))
    slots.reserve(3)
    generator = torch.Generator().manual_seed(0)
    peers = []
    for slot, rate in ((0, 1e-2), (2, 3e-3)):
        slots.begin(slot, seed=slot, learning_rate=rate)
        weights = torch.nn.Parameter(slots.weights[slot].clone())
        peers.append((slot, weights, torch.optim.AdamW([weights], lr=rate, weight_decay=0.0)))
    for scale in (1e-3, 10.0, 0.1):
        for slot, weights, optimizer in peers:
            gradient = scale * torch.randn(slots.size, generator=generator)
            slots.gradients[slot].copy_(gradient)
            weights.grad = gradient
            torch.nn.utils.clip_grad_norm_([weights], 5.0)
            optimizer.step()
        slots.step({0: 5.0, 2: 5.0})
        for slot, weights, _ in peers:
            torch.testing.assert_close(slots.weights[slot], weights.data, rtol=1e-5, atol=1e-7)
    assert slots.is_at_rest(1)


def test_reset_leaves_nothing_of_a_request(tiny_model: PreTrainedModel) -> None:
    slots, _ = add_slots(share_weights(tiny_model), FineTuneConfig(lora_rank=4))
    slots.reserve(1)
    assert slots.is_at_rest(0)
    gradient = torch.randn(slots.size)
    slots.begin(0, seed=0, learning_rate=1e-2)
    slots.gradients[0].copy_(gradient)
    slots.step({0: None})
    assert not slots.is_at_rest(0)
    first = slots.weights[0].clone()
    slots.reset(0)
    assert slots.is_at_rest(0)
    slots.begin(0, seed=0, learning_rate=1e-2)
    slots.gradients[0].copy_(gradient)
    slots.step({0: None})
    assert torch.equal(slots.weights[0], first)


@pytest.mark.parametrize("part", ["weights", "gradients", "_rounded", "_moments", "steps"])
def test_a_slot_with_any_nonzero_part_is_not_at_rest(
    tiny_model: PreTrainedModel, part: str
) -> None:
    slots, _ = add_slots(share_weights(tiny_model).bfloat16(), FineTuneConfig(lora_rank=4))
    slots.reserve(1)
    slots.begin_training()
    if part == "steps":
        slots._steps(0).add_(1)
    else:
        getattr(slots, part).flatten()[7] = -0.0
        assert not slots.is_at_rest(0)
        getattr(slots, part).flatten()[7] = 1e-30
    assert not slots.is_at_rest(0)


def test_the_initial_weights_depend_on_the_seed_alone(
    tiny_model: PreTrainedModel,
) -> None:
    def initial(seed: int) -> torch.Tensor:
        slots, _ = add_slots(share_weights(tiny_model), FineTuneConfig(lora_rank=4))
        slots.reserve(1)
        slots.begin(0, seed=seed, learning_rate=1e-3)
        return slots.weights[0]

    torch.manual_seed(1)
    first = initial(5)
    state = torch.random.get_rng_state()
    second = initial(5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, initial(6))


def base_name(model: PreTrainedModel, name: str) -> str:
    """Return the name of the frozen weights of an adapted layer."""
    place, _, projection = name.rpartition(".")
    is_linear = any(name == other for other, _ in model.named_modules())
    return f"{name}.base.weight" if is_linear else f"{place}.base.{projection}"


def test_the_norms_equal_those_of_the_products(base: PreTrainedModel) -> None:
    model = share_weights(base)
    slots, targets = add_slots(model, FineTuneConfig(lora_rank=4, lora_alpha=6.0))
    slots.reserve(1)
    slots.load(0, torch.randn(slots.size, generator=torch.Generator().manual_seed(0)))
    pairs = iter(matrices(slots, slots.read(0)))
    products = [6.0 / down.shape[-2] * up @ down for down, up in zip(pairs, pairs, strict=True)]
    expected = torch.stack([product.norm() for product in products]).norm().item()
    assert slots.update_norm(0) == pytest.approx(expected, rel=1e-5)
    weights = [model.get_parameter(base_name(model, name)) for name in targets.names]
    expected_base = torch.stack([weight.norm() for weight in weights]).norm().item()
    assert base_norm(model) == pytest.approx(expected_base, rel=1e-5)
    slots.scale_update(0, 0.25)
    assert slots.update_norm(0) == pytest.approx(expected / 4, rel=1e-5)


def test_only_named_layers_are_wrapped(tiny_model: PreTrainedModel) -> None:
    model = share_weights(tiny_model)
    _, targets = add_slots(model, FineTuneConfig(lora_rank=4, target_modules=("q_proj", "v_proj")))
    wrapped = [n for n, m in model.named_modules() if isinstance(m, LowRankLinear)]
    assert wrapped == list(targets.names)
    assert {name.rpartition(".")[2] for name in wrapped} == {"q_proj", "v_proj"}
    with pytest.raises(ArgumentError, match="no_such_layer"):
        add_slots(share_weights(tiny_model), FineTuneConfig(target_modules=("no_such_layer",)))


def test_a_rank_that_no_matrix_has_a_use_for_is_refused() -> None:
    """It would take more memory than the weights themselves, or more than there is."""
    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=200, num_hidden_layers=1, **sizes))
    layers = [part for part in model.model.modules() if isinstance(part, torch.nn.Linear)]
    full = max(min(layer.weight.shape) for layer in layers)
    add_slots(share_weights(model), FineTuneConfig(lora_rank=full))
    for rank in (full + 1, 100_000):
        message = f"lora_rank is {rank}.* lower it to at most {full};"
        with pytest.raises(ArgumentError, match=message):
            add_slots(share_weights(model), FineTuneConfig(lora_rank=rank))


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_a_rank_is_divided_among_the_experts_of_a_token_before_it_is_refused(name: str) -> None:
    model = share_weights(make_model(name))
    with pytest.raises(ArgumentError, match=r"lora_rank is 100000.* at most \d+;"):
        add_slots(model, FineTuneConfig(lora_rank=100_000))
    add_slots(share_weights(make_model(name)), FineTuneConfig(lora_rank=64))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_backward_pass_ends_at_the_first_adapted_layer(
    tiny_model: PreTrainedModel, *, checkpointing: bool
) -> None:
    """Lower layers run without a record of their activations."""
    model = share_weights(tiny_model)
    slots, _ = add_slots(model, FineTuneConfig(lora_rank=4, target_modules="last-1"))
    if checkpointing:
        checkpoint_layers(model)
    slots.reserve(1)
    slots.begin(0, seed=0, learning_rate=1e-3)
    slots.use(0, 1)
    recorded: list[bool] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *call: recorded.append(call[-1].requires_grad))
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    count = tiny_model.config.num_hidden_layers
    assert recorded[:count] == [False] * (count - 1) + [True]
    assert slots.gradients.any()
