"""A prompt that is read once gives the scores and answers of a full pass over each text."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import LONG_ROPE, SIZES, make_model, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from langchain_sift.config import GenerationConfig
from langchain_sift.ttft.answering import reading
from langchain_sift.ttft.answering.reading import Reader, read_prompts, reader_of
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.answering.scoring import (
    Following,
    is_worth_sharing,
    nats_after,
    nats_of_pairs,
)
from langchain_sift.ttft.generation import generate
from langchain_sift.ttft.training.loss import negative_log_likelihoods

MAMBA = {"mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_heads": 4, "mamba_d_ssm": 32}
STATES: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "falcon_h1": SIZES | MAMBA,
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
    "rwkv": {
        "vocab_size": 64,
        "context_length": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
    },
    "minimax": SIZES
    | {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "block_size": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "phi3": SIZES | LONG_ROPE,
}
# Their answers are left to `generate`: it knows their cache.
WITHOUT_READER = {"mamba", "rwkv", "minimax"}


@pytest.fixture(
    scope="module",
    params=["llama", "gemma3_text", "gpt2", "qwen3_moe", "deepseek_v3", "bloom", "falcon_h1"],
)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return small_model(request.param)


def small_model(name: str) -> PreTrainedModel:
    if name == "bloom":
        sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    elif name not in STATES:
        return make_model(name)
    else:
        sizes = STATES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **sizes)
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return made.eval()


def prompts_of(*lengths: int, common: int = 0) -> list[list[int]]:
    rng = random.Random(len(lengths))
    beginning = [rng.randrange(4, 60) for _ in range(common)]
    return [[*beginning, *(rng.randrange(4, 60) for _ in range(n))] for n in sorted(lengths)]


def scores_of(model: PreTrainedModel, token_ids: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits
    return logits[0, -1]


def reader_for(model: PreTrainedModel) -> Reader:
    reader = reader_of(model)
    assert reader is not None
    return reader


@contextmanager
def counted_tokens(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count the tokens of each pass, padding included."""
    counts: list[int] = []

    def count(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        counts.append(kwargs["input_ids"].numel())

    handle = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: count(
            module, args, {"input_ids": args[0]} if args else kwargs
        ),
        with_kwargs=True,
    )
    yield counts
    handle.remove()


def test_prompts_read_together_are_as_each_alone(model: PreTrainedModel) -> None:
    reader = reader_for(model)
    prompts = prompts_of(3, 9, 9, 17, 30)
    batches = [prompts] if reader.can_join else [[prompt] for prompt in prompts]
    with torch.inference_mode():
        for batch in batches:
            state = read_prompts(model, reader, batch)
            expected = torch.stack([scores_of(model, prompt) for prompt in batch])
            torch.testing.assert_close(state.logits, expected, rtol=1e-4, atol=1e-4)
            following = torch.tensor([5 + row for row in range(len(batch))])
            state.make_room(2)
            reader.step(model, following, state)
            more = zip(batch, following.tolist(), strict=True)
            expected = torch.stack([scores_of(model, [*prompt, token]) for prompt, token in more])
            torch.testing.assert_close(state.logits, expected, rtol=1e-4, atol=1e-4)


def test_scores_after_a_prompt_are_those_of_a_full_pass(model: PreTrainedModel) -> None:
    reader = reader_for(model)
    prompts = prompts_of(12, 20) if reader.can_join else prompts_of(20)
    last = len(prompts) - 1
    texts = [
        Following(0, [7], 0),
        Following(0, [7, 8, 9], 0),
        Following(last, [40, 41, 42, 43, 44, 45], 2),
        Following(last, [9], 0),
        Following(0, [11, 12], 1),
    ]
    pairs = [
        ([*prompts[text.row], *text.tokens[: text.first]], text.tokens[text.first :])
        for text in texts
    ]
    with torch.inference_mode():
        state = read_prompts(model, reader, prompts)
        found = nats_after(model, reader, state, texts)
        alone = [negative_log_likelihoods(model, None, [pair])[0] for pair in pairs]
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-5)
        assert found == nats_after(model, reader, state, texts)  # the state stays as it is


@pytest.mark.parametrize("common", [0, 40])
def test_a_long_prompt_is_read_in_chunks(common: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TOKENS_AT_ONCE", 10)
    monkeypatch.setattr(reading, "_SHORTEST_CHUNK", 4)
    for name in ("llama", "gemma3_text"):
        model = small_model(name)
        prompts = prompts_of(3, 8, 20, common=common)
        with torch.inference_mode(), counted_tokens(model) as counts:
            state = read_prompts(model, reader_for(model), prompts)
            assert max(counts[-3:]) <= 12  # at least four tokens of each of three rows
            expected = torch.stack([scores_of(model, prompt) for prompt in prompts])
        torch.testing.assert_close(state.logits, expected, rtol=1e-4, atol=1e-4)


def test_what_prompts_have_in_common_is_read_once() -> None:
    model = small_model("llama")
    reader = reader_for(model)
    prompts = prompts_of(3, 3, 4, common=40)
    with torch.inference_mode():
        expected = torch.stack([scores_of(model, prompt) for prompt in prompts])
        with counted_tokens(model) as counts:
            state = read_prompts(model, reader, prompts)
        assert sum(counts) <= 40 + 3 * 4
        torch.testing.assert_close(state.logits, expected, rtol=1e-4, atol=1e-4)
        with counted_tokens(model) as counts:
            state = read_prompts(model, reader, [prompts[0]] * 5)
        assert counts == [43]
        torch.testing.assert_close(state.logits, expected[:1].expand(5, -1), rtol=1e-4, atol=1e-4)


def test_a_batch_of_very_different_lengths_is_split() -> None:
    model = small_model("llama")
    prompts = prompts_of(2, 2, 60, 60)
    reader = reader_for(model)
    with torch.inference_mode(), counted_tokens(model) as counts:
        read_prompts(model, reader, prompts)
    assert counts == [4, 120]


def answers(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> tuple[list[list[str]], list[tuple[float, ...]]]:
    words: list[list[str]] = [[] for _ in prompts]
    nats: list[tuple[float, ...]] = [() for _ in prompts]

    def keep(row: int) -> Callable[[tuple[float, ...]], None]:
        return lambda scores: nats.__setitem__(row, scores)

    continuations = [
        Continuation(
            prompt,
            GenerationConfig(max_tokens=length, keep_special_tokens=True),
            lambda text, row=row: words[row].extend(text.split()),
            lambda *_, **__: None,
            pairs=[(prompt, [9, 10]), ([*prompt, 8], [9]), ([5], [6])],
            on_scores=keep(row),
        )
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    generate(model, make_tokenizer(), continuations)
    return words, nats


def test_the_cache_has_the_name_that_the_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.24 names it "cache", and earlier versions "past_key_values"."""
    names = ("cache", "past_key_values")
    model = small_model("llama")
    own = next(name for name in names if name in inspect.signature(model.forward).parameters)
    (other,) = {*names} - {own}
    for module in (model, model.base_model):
        forward = module.forward
        parameters = [
            parameter.replace(name=other if name == own else name)
            for name, parameter in inspect.signature(forward).parameters.items()
        ]

        def renamed(*, forward: Callable[..., Any] = forward, **arguments: Any) -> Any:
            if other in arguments:
                arguments[own] = arguments.pop(other)
            return forward(**arguments)

        renamed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "forward", renamed)
    assert other in inspect.signature(model.forward).parameters
    assert reader_of(model) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "qwen3_moe", "bloom", *STATES])
def test_answers_and_scores_equal_those_of_transformers_while_rows_leave(name: str) -> None:
    model = small_model(name)
    model.generation_config.eos_token_id = 2
    assert (reader_of(model) is None) == (name in WITHOUT_READER)
    prompts, lengths = prompts_of(3, 4, 9, 20, 21, 30), [30, 2, 14, 1, 9, 5]
    words, nats = answers(model, prompts, lengths)
    tokenizer = make_tokenizer()
    for prompt, length, found, scores in zip(prompts, lengths, words, nats, strict=True):
        with torch.inference_mode():
            (tokens,) = model.generate(
                torch.tensor([prompt]), max_new_tokens=length, do_sample=False, pad_token_id=0
            )
        expected = tokens[len(prompt) :].tolist()
        expected = expected[:-1] if expected[-1] == 2 else expected
        assert found == tokenizer.convert_ids_to_tokens(expected)
        pairs = [(prompt, [9, 10]), ([*prompt, 8], [9]), ([5], [6])]
        alone = [negative_log_likelihoods(model, None, [pair])[0] for pair in pairs]
        assert scores == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_pairs_with_one_context_read_it_once() -> None:
    model = small_model("llama")
    (context,) = prompts_of(40)
    pairs = [(context, [7, 8]), (context, [9]), (context, [10, 11, 12])]
    assert is_worth_sharing(pairs)
    assert not is_worth_sharing(pairs[:1])
    assert not is_worth_sharing([*pairs, (context[1:], [7])])
    reader = reader_for(model)
    with counted_tokens(model) as counts:
        found = nats_of_pairs(model, reader, pairs)
    assert counts == [40, 2 * 3]
    assert found == pytest.approx(negative_log_likelihoods(model, None, pairs), rel=1e-5)
