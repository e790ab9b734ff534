"""A model that sees later tokens is refused; every causal one passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
    RobertaConfig,
    RwkvConfig,
    XLNetConfig,
)

from langchain_sift import ChatTestTimeFineTuned, HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError, ModelLoadError
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.model.causality import is_causal

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2}
HEADS: dict[str, Any] = SIZES | {"num_attention_heads": 4, "intermediate_size": 64}
ENCODERS = {
    "bert": BertConfig(**HEADS),
    "roberta": RobertaConfig(**HEADS),
    "xlnet": XLNetConfig(vocab_size=400, d_model=32, n_layer=2, n_head=4, d_inner=64),
    "gemma": Gemma3TextConfig(**HEADS, head_dim=8, use_bidirectional_attention=True),
}
DECODERS = {
    "bert": BertConfig(**HEADS, is_decoder=True),
    "roberta": RobertaConfig(**HEADS, is_decoder=True),
    "gpt2": GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4),
    "gemma2": Gemma2Config(**HEADS, head_dim=8, num_key_value_heads=2),
    "falcon": FalconConfig(**HEADS),
    "bloom": BloomConfig(**SIZES, n_head=4),
    "opt": OPTConfig(**HEADS, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64),
    "mixtral": MixtralConfig(**HEADS, num_local_experts=4, num_key_value_heads=2),
    "mamba": MambaConfig(**SIZES),
    "rwkv": RwkvConfig(**SIZES, context_length=64),
}


def make(config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model.eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_is_not_causal(name: str, dtype: torch.dtype) -> None:
    assert not is_causal(make(ENCODERS[name]).to(dtype))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_is_causal(name: str, dtype: torch.dtype) -> None:
    assert is_causal(make(DECODERS[name]).to(dtype))


@pytest.mark.parametrize("size", [1, 3, 17, 18, 40])
def test_a_small_vocabulary_suffices(size: int) -> None:
    sizes = HEADS | {"vocab_size": size}
    assert is_causal(make(LlamaConfig(**sizes, pad_token_id=0)))
    if size > 10:
        assert not is_causal(make(BertConfig(**sizes, pad_token_id=3)))


def test_a_model_in_training_is_tried_without_dropout() -> None:
    model = make(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4)).train()
    assert is_causal(model)
    assert model.training
    assert not is_causal(make(ENCODERS["bert"]).train())


def test_an_encoder_is_refused_wherever_a_model_is_taken(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bert = make(ENCODERS["bert"])
    bert.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    reason = "BertLMHeadModel is no causal language model here"
    with pytest.raises(ModelLoadError, match=f"cannot load the model '{tmp_path}': {reason}"):
        load_language_model(tmp_path)
    with pytest.raises(ArgumentError, match=reason):
        load_language_model(bert, tiny_tokenizer)
    with pytest.raises(ModelLoadError, match=reason):
        HiddenStateEmbeddings(str(tmp_path))
    with pytest.raises(ArgumentError, match=reason):
        ChatTestTimeFineTuned(model=bert, tokenizer=tiny_tokenizer).invoke("A river")


def test_an_encoder_without_a_head_is_refused_as_an_encoder(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make(ENCODERS["bert"]).base_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"no causal language model .*an encoder can embed"):
        load_language_model(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = make(LlamaConfig(**HEADS))
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = value
    with pytest.raises(ModelLoadError, match=r"'model\.layers\.0\.mlp\.up_proj\.weight'"):
        is_causal(model)


def test_a_model_is_tried_once(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    load_language_model(tiny_model, tiny_tokenizer)
    passes: list[None] = []
    hook = tiny_model.register_forward_pre_hook(lambda *_: passes.append(None))
    load_language_model(tiny_model, tiny_tokenizer)
    hook.remove()
    assert passes == []
