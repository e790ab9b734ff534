"""Fine-tune as one would without this package, for the benchmarks to compare with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig
from langchain_sift.ttft.training.adapted_model import share_weights


def peft_loop(
    model: PreTrainedModel, documents: torch.Tensor, config: FineTuneConfig, *, answer: int = 0
) -> None:
    """Attach a PEFT adapter for each prompt, train it, generate an answer, and remove it.

    Args:
        model: The model.
        documents: Token ids, shape (prompts, documents, tokens). The first 16 of a prompt's first
            document are its question.
        config: Settings of the training.
        answer: Number of tokens of an answer. 0 means none.
    """
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear")
    for rows in documents:
        adapted = get_peft_model(model, lora)
        trainable = [p for p in adapted.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=0.0)
        for ids in rows:
            optimizer.zero_grad()
            adapted(input_ids=ids[None], labels=ids[None]).loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
        if answer:
            prompt = rows[0][None, :16]
            adapted.eval()
            adapted.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=answer,
                min_new_tokens=answer,
                do_sample=False,
            )
        adapted.unload()


class LowRankProducts(nn.Module):
    """W x + B A x, without any bookkeeping."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        dtype = base.weight.dtype
        self.down = nn.Parameter(torch.randn(rank, base.in_features).to(dtype) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, dtype=dtype))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + F.linear(F.linear(inputs, self.down), self.up)


def with_low_rank_products(model: PreTrainedModel, rank: int) -> tuple[Any, list[nn.Parameter]]:
    """Return the model with these products over the same weights, and the weights to train."""
    shared: Any = share_weights(model)
    output = shared.get_output_embeddings()
    for name, layer in list(shared.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not output:
            shared.set_submodule(name, LowRankProducts(layer, rank))
    return shared, [p for p in shared.parameters() if p.requires_grad]
