"""Make a small model that answers every prompt with a given text, whatever its weights say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase


def scripted_model(tokenizer: PreTrainedTokenizerBase, answer: str) -> LlamaForCausalLM:
    """Return a model whose likeliest tokens are those of the answer, control tokens included."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.float32).eval()
    script = tokenizer(answer, add_special_tokens=False)["input_ids"]
    rest: Iterator[int] = iter(())

    def begin(_module: object, inputs: tuple[Any, ...]) -> None:
        nonlocal rest
        if inputs[0].shape[-1] > 1:  # a prompt
            rest = itertools.chain(script, itertools.repeat(tokenizer.eos_token_id))

    def say(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        likeliest = torch.tensor(next(rest)).expand(logits.shape[:-1])
        return torch.nn.functional.one_hot(likeliest, logits.shape[-1]).float()

    model.model.embed_tokens.register_forward_pre_hook(begin)
    model.lm_head.register_forward_hook(say)
    return model
