"""A model whose layers pass no gradient is refused before it is trained; others are tried once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from langchain_core.documents import Document
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from langchain_sift import FineTuneConfig, TestTimeFineTunedLLM
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.training.gradient_check import check_gradients

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

DOCUMENTS = [Document("A baker measures warm bread in winter, 12 times.")]


class _Product(torch.autograd.Function):
    """A product as kernels for inference compute it: with no gradient, or a wrong one."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, factor: float | None) -> Any:
        ctx.save_for_backward(weight)
        ctx.factor = factor
        return inputs @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return (None if ctx.factor is None else ctx.factor * gradient @ weight), None, None


class InferenceLinear(nn.Linear):
    factor: float | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return _Product.apply(inputs, self.weight, self.factor)


class DetachedLinear(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.detach())


class AscendingLinear(InferenceLinear):
    factor = -30.0


def replaced(model: Any, kind: type[nn.Linear], *names: str) -> Any:
    """Return a copy with the layers of these names replaced."""
    changed = copy.deepcopy(model)
    for name, module in list(changed.named_modules()):
        if name.rpartition(".")[2] in names:
            layer = kind(module.in_features, module.out_features, bias=False)
            layer.weight = module.weight
            changed.set_submodule(name, layer)
    return changed


def small_mixture() -> MixtralForCausalLM:
    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(
        **sizes, vocab_size=400, intermediate_size=64, num_local_experts=4, num_key_value_heads=2
    )
    return MixtralForCausalLM(config).eval()


@pytest.mark.parametrize("kind", [InferenceLinear, DetachedLinear])
@pytest.mark.parametrize(
    "names", [("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"), ("o_proj",)]
)
def test_layers_without_a_gradient_are_named_before_an_answer(
    kind: type[nn.Linear],
    names: tuple[str, ...],
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = replaced(tiny_model, kind, *names)
    llm = TestTimeFineTunedLLM(model=model, tokenizer=tiny_tokenizer, max_tokens=2)
    assert isinstance(llm.invoke("A river", documents=[]), str)
    with pytest.raises(ArgumentError, match=f"layers of the type {kind.__name__}"):
        llm.invoke("A river", documents=DOCUMENTS)


def test_an_output_layer_without_a_gradient_is_named(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = replaced(tiny_model, DetachedLinear, "lm_head")
    with pytest.raises(ArgumentError, match="the type DetachedLinear"):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), "all-linear")


def test_a_wrong_gradient_is_noticed(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = replaced(tiny_model, AscendingLinear, "lm_head")
    with pytest.raises(ArgumentError, match="does not fall with a step against its gradient"):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), "all-linear")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("targets", ["all-linear", "mlp", ("q_proj",), ("down_proj",)])
def test_ordinary_models_pass_unchanged(
    dtype: torch.dtype,
    targets: str | tuple[str, ...],
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = copy.deepcopy(tiny_model).to(dtype)
    language_model = LanguageModel("x", model, tiny_tokenizer)
    before = language_model.fingerprint
    hooks = [len(module._forward_hooks) for module in model.modules()]  # of other engines
    with torch.inference_mode():
        check_gradients(language_model, targets)
    assert LanguageModel("x", model, tiny_tokenizer).fingerprint == before
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("targets", ["all-linear", "mlp"])
def test_experts_and_transposed_layers_pass(
    targets: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    gpt2 = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4)
    for model in (small_mixture(), GPT2LMHeadModel(gpt2)):
        check_gradients(LanguageModel("x", model.eval(), tiny_tokenizer), targets)


def test_a_model_is_tried_once(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    passes: list[None] = []
    model.register_forward_pre_hook(lambda *_: passes.append(None))
    for _ in range(3):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), FineTuneConfig().target_modules)
    assert 1 < len(passes) <= 5


def test_layers_above_the_first_that_pass_no_gradient_are_refused(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    model.model.layers[1] = replaced(model.model.layers[1], InferenceLinear, "o_proj")
    with pytest.raises(ArgumentError, match="layers of the type InferenceLinear"):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), "all-linear")


@pytest.mark.parametrize("targets", ["all-linear", ("experts",)])
def test_experts_without_a_gradient_are_refused(
    targets: str | tuple[str, ...], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = small_mixture()
    experts = model.model.layers[1].mlp.experts
    experts.forward = torch.no_grad()(experts.forward)
    with pytest.raises(ArgumentError, match="layers of the type MixtralExperts"):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), targets)


def test_a_missing_gradient_below_experts_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = small_mixture()
    model.model.layers[1] = replaced(model.model.layers[1], InferenceLinear, "o_proj")
    with pytest.raises(ArgumentError, match="no gradient passes its layers"):
        check_gradients(LanguageModel("x", model, tiny_tokenizer), ("q_proj", "experts"))


def test_a_layer_that_the_text_does_not_reach_is_not_refused(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    mlp = model.model.layers[1].mlp
    mlp.register_module("unused", nn.Linear(model.config.hidden_size, 4))
    mlp.register_forward_pre_hook(lambda module, inputs: (module.unused(*inputs), None)[1])
    check_gradients(LanguageModel("x", model, tiny_tokenizer), "all-linear")
