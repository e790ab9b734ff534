"""Set up the answers to conversations, by the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from langchain_sift.config import GenerationConfig, ReasoningMarkers
from langchain_sift.language_models.chat_templates.turns import Turn
from langchain_sift.ttft.model.reasoning_markers import markers_after
from langchain_sift.ttft.model.turn_ends import turn_ends
from langchain_sift.ttft.reasoning import content_of


def for_conversation(
    config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]
) -> GenerationConfig:
    """Return the settings of the answer to a conversation.

    Reasoning is separated from the answer, and the answer ends where the template's own text
    between turns begins. Without a template, the settings stay as they are.

    Args:
        config: The settings.
        tokenizer: The model's tokenizer.
        prompt: Token ids of the prompt.
    """
    if not tokenizer.chat_template:
        return config
    return replace(
        config,
        stop=(*config.stop, *turn_ends(tokenizer).strings),
        reasoning=markers_after(tokenizer, prompt),
    )


def without_reasoning(turns: Sequence[Turn], markers: ReasoningMarkers) -> list[Turn]:
    """Leave out the reasoning in earlier answers, as a template would if it saw the markers."""
    return [
        {**turn, "content": content_of(turn["content"], markers)}
        if turn["role"] == "assistant"
        else turn
        for turn in turns
    ]
