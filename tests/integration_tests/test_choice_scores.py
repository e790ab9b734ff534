"""Score choices as lm-evaluation-harness does, on 200 items of `multiple_choice.jsonl`.

The items are facts: symbols of chemical elements and capitals.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from langchain_sift import FineTuneConfig
from langchain_sift.comparison.prompts import read_prompts
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import question_task
from langchain_sift.ttft import Engine, ScoringTask, load_language_model

if TYPE_CHECKING:
    from langchain_sift.comparison import Prompt

ITEMS = Path(__file__).parent / "multiple_choice.jsonl"
MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model"


def requests_of(prompts: list[Prompt]) -> list[Instance]:
    """Return the requests of a multiple-choice task with the prompt "Question: ...\\nAnswer:"."""
    return [
        Instance("loglikelihood", {}, (f"Question: {prompt.text}\nAnswer:", f" {choice}"), 0)
        for prompt in prompts
        for choice in prompt.choices
    ]


def test_choices_score_as_in_lm_evaluation_harness() -> None:
    prompts = read_prompts(ITEMS, lines=True)
    assert len(prompts) == 200
    language_model = load_language_model(str(MODEL), dtype="float32")
    tokenizer, window = language_model.tokenizer, language_model.context_length
    assert tokenizer.chat_template is None
    engine = Engine(language_model, FineTuneConfig(lora_rank=2))
    ours = []
    for prompt in prompts:
        scored = ScoredText.of(question_task(prompt), tokenizer, window, answer=1)
        task = ScoringTask(scored.pairs(scored.without_documents())[-len(prompt.choices) :])
        ours.append(engine.outcome(engine.request((), task)).nats)
    engine.close()
    harness = HFLM(pretrained=language_model.model, tokenizer=tokenizer, batch_size=8)
    with torch.inference_mode():
        scores = harness.loglikelihood(requests_of(prompts), disable_tqdm=True)
    theirs = [-nats for nats, _ in scores]
    flat = [nats for each in ours for nats in each]
    assert len(flat) == 800
    assert flat == pytest.approx(theirs, abs=1e-4)
