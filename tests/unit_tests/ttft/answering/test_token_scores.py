"""The scores of tokens equal the log-softmax of the model's logits, for prompts and answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft import Engine, GenerationTask, PromptScores, TokenScore
from langchain_sift.ttft import generation as generation_module
from langchain_sift.ttft.model.token_bytes import offsets
from langchain_sift.ttft.training.output_layer import OutputLayer, linear_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]


def log_softmax(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)


def events_of(engine: Engine, task: GenerationTask, texts: tuple[str, ...] = ()) -> list[object]:
    return list(engine.submit(engine.request(texts, task)))


@pytest.mark.parametrize("reader", ["cached", "with transformers"])
def test_the_scores_of_prompt_and_answer_are_the_model_s(
    engine: Engine, tiny_model: PreTrainedModel, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader != "cached":
        monkeypatch.setattr(generation_module, "reader_of", lambda _: None)
    config = GenerationConfig(max_tokens=6, temperature=0.7, seed=3)
    task = GenerationTask(PROMPT, config, top_scores=3, score_prompt=True)
    events = events_of(engine, task)
    (prompt,) = [event for event in events if isinstance(event, PromptScores)]
    scores = [event for event in events if isinstance(event, TokenScore)]
    answer = [score.token_id for score in scores]
    expected = log_softmax(tiny_model, [*PROMPT, *answer])
    assert [score.token_id for score in prompt.scores] == PROMPT[1:]
    for place, score in enumerate([*prompt.scores, *scores]):
        row = expected[place]
        assert score.log_p == pytest.approx(float(row[score.token_id]), abs=1e-5)
        values, ids = row.topk(3)
        assert [token for token, _ in score.top] == ids.tolist()
        assert [value for _, value in score.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_model_without_a_reader_is_probed_for_scores_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probed(model: PreTrainedModel) -> OutputLayer | None:
        probes.append(model)
        return linear_head(model)

    probes: list[PreTrainedModel] = []
    monkeypatch.setattr(generation_module, "reader_of", lambda _: None)
    monkeypatch.setattr(generation_module, "linear_head", probed)
    config = GenerationConfig(max_tokens=1)
    events_of(engine, GenerationTask(PROMPT, config, top_scores=1))
    assert len(probes) == 0
    pairs = [(PROMPT, [3]), (PROMPT, [4])]
    events_of(engine, GenerationTask(PROMPT, config, pairs, score_prompt=True))
    assert len(probes) == 1


def test_an_empty_answer_has_scores_of_the_prompt_alone(engine: Engine) -> None:
    task = GenerationTask(PROMPT, GenerationConfig(max_tokens=0), top_scores=0, score_prompt=True)
    prompt, outcome = events_of(engine, task)
    assert isinstance(prompt, PromptScores)
    assert (outcome.tokens, outcome.finish_reason) == (0, "length")


def test_scores_follow_the_trained_adapter(
    engine: Engine, finetune_config: FineTuneConfig, tiny_model: PreTrainedModel
) -> None:
    task = GenerationTask(PROMPT, GenerationConfig(max_tokens=2), top_scores=1, score_prompt=True)
    engine_config = replace(finetune_config, learning_rate=0.05)
    request = engine.request(["the river flows to the sea"] * 3, task, config=engine_config)
    (trained,) = [e for e in engine.submit(request) if isinstance(e, PromptScores)]
    (base,) = [e for e in events_of(engine, task) if isinstance(e, PromptScores)]
    assert [s.log_p for s in trained.scores] != pytest.approx([s.log_p for s in base.scores])
    expected = log_softmax(tiny_model, PROMPT)
    found = [float(expected[i, token]) for i, token in enumerate(PROMPT[1:])]
    assert [s.log_p for s in base.scores] == pytest.approx(found, abs=1e-5)


def test_tokens_behind_a_stop_string_have_no_scores(
    engine: Engine, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    task = GenerationTask(PROMPT, GenerationConfig(max_tokens=12), top_scores=0)
    events = events_of(engine, task)
    text = "".join(event for event in events if isinstance(event, str))
    stop = text[4:6]
    cut = GenerationTask(PROMPT, GenerationConfig(max_tokens=12, stop=(stop,)), top_scores=0)
    found = events_of(engine, cut)
    kept = [event.token_id for event in found if isinstance(event, TokenScore)]
    shown = "".join(event for event in found if isinstance(event, str))
    assert shown == text[: text.index(stop)]
    whole = [event.token_id for event in events if isinstance(event, TokenScore)]
    assert kept == whole[: len(kept)]
    lengths = [len(tiny_tokenizer.decode(kept[:n])) for n in range(len(kept) + 1)]
    assert lengths[-2] < max(len(shown), 1) <= lengths[-1] + 1


@given(st.lists(st.binary(max_size=4) | st.text(max_size=2).map(str.encode), max_size=8))
def test_offsets_are_those_of_the_decoded_text(parts: list[bytes]) -> None:
    before = [b"".join(parts[:number]) for number in range(len(parts))]
    assert offsets(parts, 5) == [5 + len(data.decode(errors="replace")) for data in before]


def test_offsets_count_characters_of_several_bytes_once() -> None:
    text = "Aé☃"
    parts = [bytes([byte]) for byte in text.encode()]
    assert offsets(parts, 5) == [5, 6, 7, 7, 8, 8]


def test_a_prompt_of_one_token_has_no_scores(engine: Engine) -> None:
    task = GenerationTask([7], GenerationConfig(max_tokens=1), top_scores=2, score_prompt=True)
    (prompt,) = [e for e in events_of(engine, task) if isinstance(e, PromptScores)]
    assert prompt.scores == ()
