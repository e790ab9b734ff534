"""Requests never see each other, and the base model never changes."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from likelihood import negative_log_likelihood
from transformers import GPT2Config, GPT2LMHeadModel

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError, RequestCancelled
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, ScoringTask, shared_engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]
ANSWER = GenerationTask(PROMPT, GenerationConfig(max_tokens=8))


def answer(engine: Engine, texts: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """Return the text and the losses of one request."""
    *pieces, outcome = engine.submit(engine.request(texts, ANSWER))
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return text, outcome.training.losses


def at_rest(engine: Engine) -> bool:
    """Wait until the engine is idle; return whether all slots are at rest."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        status = engine.status()
        if not (status.admitted or status.waiting or status.at_work or status.admitted_tokens):
            return all(
                engine._worker.slots.is_at_rest(s) for s in range(engine._worker.slots.count)
            )
        time.sleep(0.001)
    return False


@pytest.mark.slow
def test_many_requests_leave_the_base_model_unchanged(
    engine: Engine,
    tiny_model: PreTrainedModel,
    texts: list[str],
    fingerprint: Callable[[torch.nn.Module], str],
) -> None:
    before = fingerprint(tiny_model)
    flags = [(p.requires_grad, p.grad) for p in tiny_model.parameters()]
    for start in range(20):
        answer(engine, texts[start : start + 3])
        pieces = iter(engine.submit(engine.request(texts[:2], ANSWER)))
        next(pieces)
        pieces.close()
    assert at_rest(engine)
    assert fingerprint(tiny_model) == before
    assert [(p.requires_grad, p.grad) for p in tiny_model.parameters()] == flags
    assert not tiny_model.training


def test_without_documents_exactly_the_base_model_answers(
    engine: Engine, tiny_model: PreTrainedModel, texts: list[str]
) -> None:
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        log_p = tiny_model(input_ids=ids).logits[0].log_softmax(-1)
    expected = -float(log_p[:-1].gather(1, ids[0, 1:, None]).sum())
    answer(engine, texts[:3])
    outcome = engine.outcome(engine.request([], ScoringTask([(PROMPT[:1], PROMPT[1:])])))
    assert outcome.nats[0] == pytest.approx(expected, rel=1e-6)
    assert outcome.training.fallback == "no document to train on"
    assert negative_log_likelihood(engine, PROMPT[:1], PROMPT[1:]) == outcome.nats[0]


@pytest.mark.slow
@pytest.mark.parametrize("limits", [Limits(max_batch_size=1), Limits(max_batch_size=5)])
def test_concurrent_requests_answer_as_alone(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
    limits: Limits,
) -> None:
    engine = Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), finetune_config, limits)
    chosen = [texts[start : start + 1 + start % 4] for start in range(24)]
    alone = [answer(engine, documents) for documents in chosen]
    assert len({text for text, _ in alone}) > 1
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda documents: answer(engine, documents), chosen))
    assert [text for text, _ in together] == [text for text, _ in alone]
    for (_, losses), (_, expected) in zip(together, alone, strict=True):
        assert losses == pytest.approx(expected, abs=0 if limits.max_batch_size == 1 else 1e-5)
    assert at_rest(engine)


@pytest.mark.slow
def test_requests_admitted_together_train_together(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(gather_seconds=60.0)
    engine = Engine(engine.language_model, engine.config, limits)
    sizes = []
    train = engine._worker._trainer.train
    monkeypatch.setattr(
        engine._worker._trainer,
        "train",
        lambda tasks: sizes.append(len(tasks)) or train(tasks),
    )
    reservations = [engine.admission.admit(1) for _ in range(6)]
    tickets = [
        engine.submit(engine.request(texts[i : i + 2], ANSWER), reservation=reservations[i])
        for i in range(6)
    ]
    for ticket in tickets:
        list(ticket)
    assert sizes == [6]
    began = time.perf_counter()
    answer(engine, texts[:1])
    assert time.perf_counter() - began < limits.gather_seconds / 2
    assert sizes == [6, 1]


def test_two_engines_on_one_model_are_independent(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    one = Engine(language_model, FineTuneConfig(lora_rank=4, learning_rate=1e-2))
    other = Engine(language_model, FineTuneConfig(lora_rank=2, learning_rate=1e-2))
    expected = negative_log_likelihood(other, PROMPT[:1], PROMPT[1:])
    events = iter(one.submit(one.request(texts[:3], ANSWER)))
    next(events)
    assert negative_log_likelihood(other, PROMPT[:1], PROMPT[1:]) == expected
    events.close()


def test_the_same_weights_and_adapter_share_an_engine(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def engine_of(limits: Limits | None = None, **settings: object) -> Engine:
        language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
        return shared_engine(language_model, FineTuneConfig(**settings), limits)

    first = engine_of(lora_rank=3)
    assert engine_of(lora_rank=3) is first
    assert engine_of(lora_rank=3, learning_rate=1.0, seed=4) is first
    assert engine_of(lora_rank=5) is not first
    assert engine_of(Limits(max_batch_size=2), lora_rank=3) is not first


@pytest.mark.slow
def test_a_request_may_change_the_config_but_not_the_adapter_shape(
    engine: Engine, texts: list[str], finetune_config: FineTuneConfig
) -> None:
    faster = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=3e-2, max_length=64)
    other_engine = Engine(engine.language_model, faster)
    request = engine.request(texts[:3], ANSWER, config=faster)
    assert engine.outcome(request).training.losses == answer(other_engine, texts[:3])[1]
    assert answer(engine, texts[:3])[1] != answer(other_engine, texts[:3])[1]
    with pytest.raises(ArgumentError, match="adapters of one shape"):
        engine.request(texts[:3], ANSWER, config=FineTuneConfig(lora_rank=5))
    assert finetune_config.lora_rank == 4


@pytest.mark.parametrize("length", [0, 256, 1000])
def test_a_prompt_must_leave_room_for_an_answer(engine: Engine, length: int) -> None:
    with pytest.raises(ArgumentError, match=f"got {length}"):
        engine.request([], GenerationTask([1] * length, GenerationConfig()))


def test_a_long_prompt_and_a_long_answer_of_one_batch_stay_within_the_context(
    tiny_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig, texts: list[str]
) -> None:
    """GPT-2 has no position beyond its context: a longer row would fail the batch."""
    config = GPT2Config(vocab_size=400, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    language_model = LanguageModel("gpt2", GPT2LMHeadModel(config).eval(), tiny_tokenizer)
    engine = Engine(language_model, finetune_config)
    tasks = [
        GenerationTask([7] * 60, GenerationConfig(max_tokens=100)),
        GenerationTask([5, 9], GenerationConfig(max_tokens=40)),
    ]
    alone = [list(engine.submit(engine.request(texts[:2], task)))[-1].tokens for task in tasks]
    reservations = [engine.admission.admit(1) for _ in tasks]
    requests = [engine.request(texts[:2], task) for task in tasks]
    tickets = [
        engine.submit(r, reservation=reservation)
        for r, reservation in zip(requests, reservations, strict=True)
    ]
    assert [list(ticket)[-1].tokens for ticket in tickets] == alone
    assert alone[0] <= 4


@pytest.mark.parametrize("token", [-1, 10_000])
def test_a_token_outside_the_vocabulary_never_reaches_the_model(engine: Engine, token: int) -> None:
    with pytest.raises(ArgumentError, match=str(token)):
        engine.request([], GenerationTask([1, token, 2], GenerationConfig()))
    with pytest.raises(ArgumentError, match=str(token)):
        engine.request([], ScoringTask([([1], [token])]))


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1] * 200, [1] * 57)])
def test_pairs_must_fit_the_context(engine: Engine, pair: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ArgumentError, match="context and target"):
        engine.request([], ScoringTask([pair]))


def test_a_closed_engine_refuses_requests(engine: Engine, texts: list[str]) -> None:
    answer(engine, texts[:1])
    engine.close()
    with pytest.raises(RequestCancelled, match="closed"):
        engine.submit(engine.request(texts[:1], ANSWER))
    assert engine.status().admitted == 0


@pytest.mark.slow
def test_an_unused_engine_is_freed_with_its_thread(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_sift.ttft.batching._IDLE_SECONDS", 0.05)
    engine = Engine(LanguageModel("tiny", tiny_model, tiny_tokenizer), FineTuneConfig(lora_rank=2))
    answer(engine, texts[:1])
    until = time.monotonic() + 60
    while engine._batcher._thread is not None:
        assert time.monotonic() < until
        time.sleep(0.001)
    answer(engine, texts[:1])
    worker = weakref.ref(engine._worker)
    del engine
    while worker() is not None:
        assert time.monotonic() < until + 60
        time.sleep(0.01)
        gc.collect()


@pytest.mark.parametrize("texts", ["abc", [b"abc"], ["abc", None]])
def test_documents_must_be_a_sequence_of_texts(engine: Engine, texts: Any) -> None:
    with pytest.raises(ArgumentError, match="texts must be a sequence of texts, got"):
        engine.finetune(texts)
