"""Change the scores of each row's next token: penalties, temperature, and which tokens may come.

The processors and their order are those of transformers: penalties, temperature, `top_k`, `top_p`,
`min_p`. Each row has processors and a random generator of its own, and sees only its own tokens,
so its answer depends neither on the other rows nor on other threads of the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from langchain_sift.config import GenerationConfig


def with_recommended(config: GenerationConfig, model: PreTrainedModel) -> GenerationConfig:
    """Replace the settings that are None by those of the model's `generation_config`.

    The model's temperature, `top_k`, `top_p` and `min_p` count only where its makers recommend
    sampling (`do_sample`). Its repetition penalty always counts, as in transformers.
    """
    model_config: transformers.GenerationConfig | None = model.generation_config
    recommended: dict[str, float | None] = {"temperature": 0.0}
    if model_config is not None:
        recommended["repetition_penalty"] = model_config.repetition_penalty
    if model_config is not None and model_config.do_sample:
        temperature, top_k = model_config.temperature, model_config.top_k
        recommended |= {
            "temperature": 1.0 if temperature is None else temperature,
            "top_k": max(0, top_k or 0),  # some files have -1 for all
            "top_p": model_config.top_p,
            "min_p": model_config.min_p,
        }
    unset: Any = {name: recommended[name] for name in recommended if getattr(config, name) is None}
    return replace(config, **unset)


class Sampler:
    """Chooses the next token of one row; a greedy row without penalties needs none."""

    def __init__(self, config: GenerationConfig, prompt_length: int, device: torch.device) -> None:
        """Start after the prompt, with the row's seed."""
        self._penalties = _penalties(config, prompt_length)
        self._warpers = _warpers(config)
        self._generator = torch.Generator(device)
        if config.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(config.seed)

    def process(self, token_ids: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """Return scores whose maximum is a sample.

        With Gumbel noise added to log p / temperature, the largest is a draw from the softmax
        (Gumbel 1954; Maddison et al., arXiv 1411.0030).

        Args:
            token_ids: The row's prompt and answer so far.
            scores: Scores of the next token in float32, shape (1, vocabulary).
        """
        own_ids: Any = torch.tensor([token_ids if self._penalties else []], device=scores.device)
        scores = self._penalties(own_ids, scores)
        if not self._warpers:
            return scores
        # With a maximum of 0, the score of the likeliest token cannot overflow.
        scores = self._warpers(own_ids, scores - scores.max())
        noise = torch.empty_like(scores)
        return scores + noise.exponential_(generator=self._generator).log_().neg_()


def sampler_of(
    config: GenerationConfig, prompt_length: int, device: torch.device
) -> Sampler | None:
    """Return the sampler of a row; None if the likeliest token is always the next."""
    if config.temperature or _penalties(config, prompt_length):
        return Sampler(config, prompt_length, device)
    return None


def _penalties(config: GenerationConfig, prompt_length: int) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.frequency_penalty or config.presence_penalty:
        processors.append(_CountPenalty(config, prompt_length))
    return processors


def _warpers(config: GenerationConfig) -> LogitsProcessorList:
    """Return the processors of a sampling row; none for a greedy row."""
    warpers = LogitsProcessorList()
    if config.temperature:
        warpers.append(TemperatureLogitsWarper(_in_float32(config.temperature)))
        if config.top_k:
            warpers.append(TopKLogitsWarper(config.top_k))
        if config.top_p is not None and config.top_p < 1:
            warpers.append(TopPLogitsWarper(config.top_p))
        if config.min_p:
            warpers.append(MinPLogitsWarper(config.min_p))
    return warpers


def _in_float32(temperature: float) -> float:
    """Return the nearest positive and finite temperature that float32 has."""
    range_ = torch.finfo(torch.float32)
    return min(max(float(temperature), range_.tiny), range_.max)


class _CountPenalty(LogitsProcessor):
    """Lowers the scores of tokens that the answer contains; the prompt's tokens do not count.

    OpenAI's formula: score[j] - count[j] · frequency_penalty - (count[j] > 0) · presence_penalty.
    """

    def __init__(self, config: GenerationConfig, prompt_length: int) -> None:
        self._frequency = config.frequency_penalty
        self._presence = config.presence_penalty
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        answer = input_ids[0, self._prompt_length :]  # only generated tokens count
        counts = torch.bincount(answer, minlength=scores.shape[-1])
        return scores - self._frequency * counts - self._presence * (counts > 0)
