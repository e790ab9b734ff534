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


class Sampling(LogitsProcessor):
    """Makes the likeliest token of each row the one that its settings choose."""

    def __init__(
        self,
        configs: Sequence[GenerationConfig],
        prompt_lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        """Prepare the rows of a batch, which is padded on the left to its longest prompt."""
        longest = max(prompt_lengths)
        rows = enumerate(zip(configs, prompt_lengths, strict=True))
        self._rows = {
            number: _Row(config, longest - length, longest, device)
            for number, (config, length) in rows
            if config.temperature or _penalties(config, longest)
        }

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of all rows; those of greedy rows without penalties are unchanged."""
        if not self._rows:
            return scores
        scores = scores.float().clone()
        for number, row in self._rows.items():
            own = slice(number, number + 1)
            scores[own] = row.process(input_ids[own], scores[own])
        return scores


class _Row:
    def __init__(
        self, config: GenerationConfig, padding: int, start: int, device: torch.device
    ) -> None:
        """Prepare a row whose prompt begins at `padding` and whose answer begins at `start`."""
        self._padding = padding
        self._penalties = _penalties(config, start - padding)
        self._warpers = _warpers(config)
        self._generator = torch.Generator(device)
        if config.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(config.seed)

    def process(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores whose maximum is a sample.

        With Gumbel noise added to log p / temperature, the largest is a draw from the softmax
        (Gumbel 1954; Maddison et al., arXiv 1411.0030).
        """
        own_ids = input_ids[:, self._padding :].long()
        scores = self._penalties(own_ids, scores)  # type: ignore[arg-type]
        if not self._warpers:
            return scores
        # With a maximum of 0, the score of the likeliest token cannot overflow.
        scores = self._warpers(own_ids, scores - scores.max())  # type: ignore[arg-type]
        noise = torch.empty_like(scores)
        return scores + noise.exponential_(generator=self._generator).log_().neg_()


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
