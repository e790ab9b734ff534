"""Texts on both sides of a switch of the positions are computed as each alone."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from architectures import ARCHITECTURES, LONG_ROPE, SIZES, make_model, make_tokenizer, random_words
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.ttft import Engine, LanguageModel, Outcome, ScoringTask
from langchain_sift.ttft.model.hidden_states import mean_hidden_states
from langchain_sift.ttft.model.positions import encoding_switch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS = (20, 26, 5, 40, 22)  # the switch is at 24


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    monkeypatch.setitem(ARCHITECTURES, "phi3", SIZES | LONG_ROPE)
    return make_model("phi3")


@pytest.fixture
def texts() -> list[str]:
    rng = random.Random(0)
    return [random_words(rng, length) for length in LENGTHS]


def engine_for(model: PreTrainedModel) -> Engine:
    config = FineTuneConfig(lora_rank=4, learning_rate=0.0)  # the adapter stays without effect
    limits = Limits(max_batch_size=len(LENGTHS), gather_seconds=10.0)
    return Engine(LanguageModel("phi3", model, make_tokenizer()), config, limits)


def nats_of(model: PreTrainedModel, token_ids: Sequence[int], first: int = 1) -> torch.Tensor:
    """Return the loss of each token from `first` on, in a pass over this text alone."""
    ids = torch.tensor(token_ids)
    with torch.inference_mode():
        logits = copy.deepcopy(model)(input_ids=ids[None], use_cache=False).logits[0]
    return cross_entropy(logits[first - 1 : -1], ids[first:], reduction="none")


def test_the_switch_is_that_of_long_rope(model: PreTrainedModel) -> None:
    assert encoding_switch(model) == 24
    both = torch.tensor([[*range(4, 30)], [*range(30, 56)]])[:, :25]
    with torch.inference_mode():
        for length, is_alike in ((24, True), (25, False)):
            whole = model(input_ids=both[:, :length], use_cache=False).logits[:, :20]
            short = model(input_ids=both[:, :20], use_cache=False).logits
            assert torch.allclose(whole, short, atol=1e-4) is is_alike


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, math.inf),
        ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}, math.inf),
        ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}, math.inf),
    ],
)
def test_other_models_encode_all_lengths_in_one_way(
    parameters: dict[str, Any] | None, expected: float
) -> None:
    config = LlamaConfig(**SIZES, **({"rope_parameters": parameters} if parameters else {}))
    made = LlamaForCausalLM(config).eval()
    assert encoding_switch(made) == expected
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        torch.testing.assert_close(made(ids).logits[:, :9], made(ids[:, :9]).logits)


def test_losses_in_a_batch_are_those_of_each_document_alone(
    model: PreTrainedModel, texts: list[str]
) -> None:
    engine = engine_for(model)
    requests = [engine.request([text]) for text in texts]
    rooms = [engine.admission.admit(0) for _ in requests]
    tickets = [engine.submit(r, reservation=room) for r, room in zip(requests, rooms, strict=True)]
    for request, ticket in zip(requests, tickets, strict=True):
        *_, outcome = ticket
        assert isinstance(outcome, Outcome)
        assert outcome.batch_size == len(texts)
        expected = nats_of(model, request.documents[0].token_ids).mean().item()
        assert outcome.training.losses == pytest.approx([expected], rel=1e-5)


class Runs:
    """Stands in for a `Recorder`: runs the work each time."""

    def run(self, _: object, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        return work()

    def forget(self) -> None:
        """Keep nothing, as always."""


def test_the_padding_of_recordings_does_not_cross_the_switch(
    model: PreTrainedModel, texts: list[str]
) -> None:
    engine = engine_for(model)
    engine._worker._trainer._recorder = Runs()  # type: ignore[assignment]
    request = engine.request(texts)
    losses = engine.outcome(request).training.losses
    expected = [nats_of(model, one.token_ids).mean().item() for one in request.documents]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_scores_of_texts_are_those_of_each_alone(model: PreTrainedModel, texts: list[str]) -> None:
    engine = engine_for(model)
    ids = [make_tokenizer()(text)["input_ids"] for text in texts]
    context = ids[0]
    apart = [(text[:2], text[2:]) for text in ids]
    shared = [(context, text[:count]) for text, count in zip(ids, (1, 4, 5, 30, 2), strict=True)]
    for pairs in (apart, shared):
        nats = engine.outcome(engine.request([], ScoringTask(pairs))).nats
        expected = [nats_of(model, [*c, *t], len(c)).sum().item() for c, t in pairs]
        assert nats == pytest.approx(expected, rel=1e-5)


def test_vectors_of_texts_are_those_of_each_alone(model: PreTrainedModel, texts: list[str]) -> None:
    language_model = LanguageModel("phi3", model, make_tokenizer())
    together = mean_hidden_states(language_model, texts, max_length=64)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = mean_hidden_states(language_model, [text], max_length=64)
        assert vector == pytest.approx(alone, rel=1e-4, abs=1e-5)
