"""Layers that read the same tensor are found whatever the architecture, and share a product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import make_model
from torch import nn

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights
from langchain_sift.ttft.training.lora import LowRankLinear
from langchain_sift.ttft.training.shared_inputs import group_by_inputs, watch
from langchain_sift.ttft.training.target_layers import find_target_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QKV, GATED = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("llama", {QKV, ("o_proj",), GATED, ("down_proj",)}),
        ("phi", {QKV, ("dense",), ("fc1",), ("fc2",)}),
        ("gpt2", {("c_attn",), ("c_proj",), ("c_fc",)}),
    ],
)
def test_neighbours_that_read_the_same_tensor_are_a_group(
    architecture: str, expected: set[tuple[str, ...]]
) -> None:
    model = make_model(architecture)
    places = find_target_layers(model, "all-linear").places
    modules = dict(model.named_modules())
    groups = group_by_inputs(places, watch(model, places))
    assert [layer for group in groups for layer in group] == list(places)
    found = {tuple(layer[0].rpartition(".")[2] for layer in group) for group in groups}
    assert found == expected
    assert dict(model.named_modules()) == modules


class Attention(nn.Module):
    """Three layers called with one tensor, of which one changes, and one layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.embed = nn.Embedding(8, 4)
        for name in ("first", "second", "third", "twice", "last"):
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        layers: Any = self._modules
        states = self.embed(input_ids)
        total = layers["first"](states) + layers["second"](states)
        states += 1.0
        total += layers["third"](states) + layers["twice"](states) + layers["twice"](states)
        return total + layers["last"](states)


def test_a_tensor_that_changes_and_a_layer_that_is_called_twice_make_no_group() -> None:
    layers = [("first",), ("second",), ("third",), ("twice",), ("last",)]
    model: Any = Attention()
    groups = group_by_inputs(layers, watch(model, layers))
    assert groups == [[("first",), ("second",)], [("third",)], [("twice",)], [("last",)]]


def test_layers_of_a_group_that_are_called_otherwise_compute_the_same(
    tiny_model: PreTrainedModel,
) -> None:
    model = share_weights(tiny_model)
    slots, targets = add_slots(model, FineTuneConfig(lora_rank=4))
    slots.reserve(1)
    slots.load(0, torch.randn(slots.size, generator=torch.Generator().manual_seed(0)))
    slots.use(0, 1)
    layers = [model.get_submodule(name) for name in targets.names[:3]]
    inputs = torch.randn(1, 5, model.config.hidden_size)
    others = inputs + 1.0
    weights = iter(slots._matrices(slots.weights))
    for layer, down, up in zip(layers, weights, weights, strict=False):
        assert isinstance(layer, LowRankLinear)
        for x in (inputs, inputs, others, inputs):
            expected = layer.base(x) + layer.update.scale * (x @ down[0].mT) @ up[0]
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-4)
    slots.rest()
    assert torch.equal(layers[1](inputs), layers[1].base(inputs))


class Reads(Attention):
    """Reads the weights of one layer, and calls the others."""

    def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        states = self.embed(input_ids)
        return self.second(self.first(states)) @ self.third.weight + self.last(states)


def test_a_layer_whose_weights_are_read_is_noted_and_no_layer_stays_wrapped() -> None:
    model: Any = Reads()
    modules = dict(model.named_modules())
    watched = watch(model, [("first",), ("second",), ("third",), ("last",)])
    assert [name for name, layer in watched.items() if layer.is_read] == ["third"]
    assert dict(model.named_modules()) == modules
    model.embed = None  # the pass fails
    with pytest.raises(TypeError):
        watch(model, [("first",)])
    assert model.first is modules["first"]
