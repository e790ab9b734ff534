"""Samplers keep the tokens that transformers keeps, row by row."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langchain_sift import ChatTestTimeFineTuned
from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.generation import generate
from langchain_sift.ttft.sampling import Sampler, sampler_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPTS = [[5, 9, 40, 41], [7], [100, 21, 8, 9, 10, 11, 12, 13, 14], [50, 51]]
SETTINGS: list[dict[str, Any]] = [
    {"top_p": 0.3},
    {"top_p": 0.0},
    {"top_k": 5},
    {"top_k": 10_000},
    {"min_p": 0.9},
    {"min_p": 1.0},
    {"repetition_penalty": 3.0},
    {"temperature": 0.2, "top_k": 40, "top_p": 0.8, "min_p": 0.5, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_tokens_that_may_come_are_those_of_transformers(
    tiny_model: PreTrainedModel, settings: dict[str, Any]
) -> None:
    """Compare with the scores from which transformers samples each prompt alone."""
    settings = {"temperature": 1.0, **settings}
    scores, expected = [], []
    for prompt in PROMPTS:
        tokens = torch.tensor([prompt])
        found = tiny_model.generate(
            tokens,
            max_new_tokens=1,
            do_sample=True,
            output_scores=True,
            return_dict_in_generate=True,
            **{"top_k": 0, **settings},
        )
        expected.append(found.scores[0])
        scores.append(tiny_model(tokens).logits[:, -1].detach())
    configs = [GenerationConfig(**settings)] * len(PROMPTS)
    chosen = torch.cat(
        [
            Sampler(config, len(prompt), torch.device("cpu")).process(prompt, row)
            for config, prompt, row in zip(configs, PROMPTS, scores, strict=True)
        ]
    )
    assert torch.equal(chosen.isfinite(), torch.cat(expected).isfinite())


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: list[dict[str, Any]]
) -> list[str]:
    texts: list[list[str]] = [[] for _ in settings]
    continuations = [
        Continuation(
            PROMPTS[number % len(PROMPTS)],
            GenerationConfig(max_tokens=16, **chosen),
            lambda text, number=number: texts[number].append(text),
            lambda *_, **__: None,
        )
        for number, chosen in enumerate(settings)
    ]
    generate(model, tokenizer, continuations)
    return ["".join(pieces) for pieces in texts]


def test_a_row_does_not_depend_on_the_other_rows(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    seeded = [{"temperature": 1.0, "seed": 3, **chosen} for chosen in SETTINGS]
    mixed = [
        {},
        *seeded,
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 1.5},
        {"presence_penalty": -1},
    ]
    together = answers(tiny_model, tiny_tokenizer, mixed)
    for number, chosen in enumerate(mixed):
        before = [{}] * (number % len(PROMPTS))  # for the same prompt
        alone = answers(tiny_model, tiny_tokenizer, [*before, chosen])
        assert alone[-1] == together[number], chosen


def test_a_repetition_penalty_is_that_of_transformers(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    chosen = [{"repetition_penalty": 1.5}] * len(PROMPTS)
    for prompt, text in zip(PROMPTS, answers(tiny_model, tiny_tokenizer, chosen), strict=True):
        tokens = tiny_model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, repetition_penalty=1.5
        )
        assert text == tiny_tokenizer.decode(tokens[0, len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize(("frequency", "presence"), [(1.5, 0.0), (0.0, 2.0), (-1.0, 0.5)])
def test_frequency_and_presence_penalties_follow_the_formula_of_openai(
    frequency: float, presence: float
) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 20)
    answered = [[3, 3, 7, 3], [1, 2, 3, 3]]
    prompts = [[4, 5], [3, 7, 7]]
    config = GenerationConfig(frequency_penalty=frequency, presence_penalty=presence)
    for row, tokens in enumerate(answered):
        sampler = Sampler(config, len(prompts[row]), torch.device("cpu"))
        (penalized,) = sampler.process([*prompts[row], *tokens], scores[row : row + 1])
        for token in range(20):
            count = Counter(tokens)[token]
            expected = scores[row, token] - count * frequency - (count > 0) * presence
            assert penalized[token] == pytest.approx(float(expected), abs=1e-6)


def test_greedy_rows_without_penalties_are_not_processed() -> None:
    config = GenerationConfig(top_p=0.5, top_k=3, min_p=0.5, repetition_penalty=1.0)
    for greedy in (config, GenerationConfig()):
        assert sampler_of(greedy, 2, torch.device("cpu")) is None


RECOMMENDED = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1}


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        ({}, {"temperature": None}, (0.0, None, None, None)),
        (RECOMMENDED, {"temperature": None}, (0.0, None, None, None)),
        ({"do_sample": True, **RECOMMENDED}, {"temperature": None}, (0.7, 20, 0.8, 0.1)),
        ({"do_sample": True, "top_k": -1}, {"temperature": None}, (1.0, 0, None, None)),
        ({"do_sample": True, **RECOMMENDED}, {}, (0.0, 20, 0.8, 0.1)),
        (
            {"do_sample": True, **RECOMMENDED},
            {"temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0},
            (1.5, 0, 1, 0),
        ),
    ],
    ids=str,
)
def test_settings_that_are_not_set_are_those_that_the_checkpoint_recommends(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    stored: dict[str, Any],
    asked: dict[str, Any],
    expected: tuple[float | None, ...],
) -> None:
    model = copy.deepcopy(tiny_model)
    model.generation_config.update(repetition_penalty=1.1, **stored)
    engine = Engine(LanguageModel("x", model, tiny_tokenizer), FineTuneConfig(lora_rank=2))
    config = engine.request([], GenerationTask(PROMPTS[0], GenerationConfig(**asked))).task.config
    assert (config.temperature, config.top_k, config.top_p, config.min_p) == expected
    assert config.repetition_penalty == 1.1


def test_a_model_samples_as_its_checkpoint_recommends(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    model.generation_config.update(do_sample=True, temperature=1.5)
    chat, greedy = (
        ChatTestTimeFineTuned(model=which, tokenizer=tiny_tokenizer, max_tokens=12)
        for which in (model, tiny_model)
    )
    question = "Who repairs the clock?"
    expected = greedy.invoke(question).text
    assert chat.invoke(question, temperature=0).text == expected
    assert chat.bind(temperature=0).invoke(question).text == expected
    assert len({chat.invoke(question).text for _ in range(4)}) > 1
    assert chat.invoke(question, seed=4).text == chat.invoke(question, seed=4).text != expected
