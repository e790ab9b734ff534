"""Training takes one AdamW step per document, in order, and a broken adapter never answers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from architectures import make_model, make_tokenizer, random_words
from hypothesis import given
from hypothesis import strategies as st
from likelihood import negative_log_likelihood
from peft import LoraConfig, get_peft_model

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError, TrainingError
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome, ScoringTask
from langchain_sift.ttft.training.adapted_model import base_norm
from langchain_sift.ttft.training.passes import split_into_passes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TARGET = [5, 9, 40, 41, 7, 8, 100, 21]


def train(engine: Engine, texts: Sequence[str], **settings: object) -> Outcome:
    """Return the outcome of training on the texts and of scoring the target."""
    config = replace(engine.config, **settings)
    request = engine.request(texts, ScoringTask([(TARGET[:1], TARGET[1:])]), config=config)
    return engine.outcome(request)


def engine_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **settings: object
) -> Engine:
    config = FineTuneConfig(**{"lora_rank": 4, "learning_rate": 1e-2, **settings})
    return Engine(LanguageModel("tiny", model, tokenizer), config)


@pytest.mark.slow
@pytest.mark.parametrize("num_others", [0, 3])
def test_losses_equal_those_of_peft_and_adamw(
    engine: Engine,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    num_others: int,
) -> None:
    """Train alone, or with others in the same batch."""
    config = engine.config
    chosen = [texts[3], texts[10], texts[3], texts[20]]
    peft_model = get_peft_model(
        copy.deepcopy(tiny_model),
        LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear"),
    )
    slots = engine._worker.slots
    sizes = [rows * columns for rows, columns in slots.shapes]
    initial = iter(torch.split(slots._initial(config.seed), sizes))
    for name in engine._worker.targets.names:
        peft_layer = peft_model.base_model.model.get_submodule(name)
        peft_layer.lora_A["default"].weight.data.copy_(
            next(initial).view_as(peft_layer.lora_A["default"].weight)
        )
        next(initial)
    trainable = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, eps=1e-8, weight_decay=0.0)
    expected = []
    for text in chosen:
        ids = torch.tensor([tiny_tokenizer(text)["input_ids"][: config.max_length]])
        loss = peft_model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        expected.append(loss.item())
    peft_model.eval()
    tokens = torch.tensor([TARGET])
    with torch.no_grad():
        after = peft_model(input_ids=tokens, labels=tokens).loss.item()

    scoring = ScoringTask([(TARGET[:1], TARGET[1:])])
    reservations = [engine.admission.admit(1) for _ in range(1 + num_others)]
    others = [
        engine.submit(
            engine.request(texts[30 + n : 33 + 2 * n], scoring), reservation=reservations.pop()
        )
        for n in range(num_others)
    ]
    *_, outcome = engine.submit(engine.request(chosen, scoring), reservation=reservations.pop())
    for ticket in others:
        list(ticket)
    assert outcome.training.losses == pytest.approx(expected, abs=1e-4)
    assert outcome.training.trained == (0, 1, 2, 3)
    assert outcome.training.fallback is None
    assert outcome.nats[0] / (len(TARGET) - 1) == pytest.approx(after, abs=1e-3)


def test_training_on_a_text_makes_it_more_likely(
    engine: Engine, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    ids = tiny_tokenizer(texts[0])["input_ids"][:64]
    before = negative_log_likelihood(engine, ids[:1], ids[1:])
    adapter = engine.finetune([texts[0]] * 15, config=replace(engine.config, max_update=None))
    assert negative_log_likelihood(engine, ids[:1], ids[1:], texts=adapter) < 0.95 * before
    losses = adapter.training.losses
    assert max(losses[-5:]) < min(losses[:5])
    assert adapter.training.update_norm > 0


def test_steps_per_document_repeat_each_document_before_the_next(
    engine: Engine, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    expected = train(engine, [texts[0], texts[0], texts[1], texts[1]]).training
    twice = train(engine, [texts[0], texts[1]], steps_per_document=2).training
    assert twice.losses == expected.losses
    assert twice.trained == (0, 1)
    assert twice.tokens == 2 * sum(len(tiny_tokenizer(text)["input_ids"]) for text in texts[:2])


def test_short_documents_are_skipped_and_long_ones_cut_and_both_are_recorded(
    engine: Engine, texts: list[str]
) -> None:
    training = train(engine, ["", "a", texts[0], " ".join(texts[:40])]).training
    assert training.skipped == (0, 1)
    assert training.trained == (2, 3)
    assert training.truncated == (3,)
    assert training.tokens <= 2 * 64
    assert training.steps == 2


def test_documents_that_are_too_short_do_not_count_for_the_budget(
    engine: Engine, texts: list[str]
) -> None:
    expected = train(engine, texts[:2]).training
    limited = train(engine, ["", texts[0], "a", *texts[1:4], ""], max_documents=2).training
    assert (limited.trained, limited.skipped) == ((1, 3), (0, 2))
    assert limited.losses == expected.losses
    assert "budget" in str(limited.ended)
    enough = train(engine, ["", *texts[:2], "a"], max_documents=3).training
    assert (enough.trained, enough.skipped, enough.ended) == ((1, 2), (0, 3), None)


def test_a_document_with_at_least_one_step_is_recorded_as_trained(
    engine: Engine, texts: list[str]
) -> None:
    lengths = [len(document.token_ids) for document in engine.request(texts[:3]).documents]
    most = 3 * lengths[0] + 2 * lengths[1]
    part = train(engine, texts[:3], steps_per_document=3, max_train_tokens=most).training
    assert (part.steps, part.trained, part.skipped) == (5, (0, 1), ())


def lack_device_memory() -> None:
    raise torch.OutOfMemoryError


@pytest.mark.slow
@pytest.mark.parametrize("allocate", [lack_device_memory, lambda: torch.empty(1 << 60)])
def test_documents_of_a_skipped_training_are_not_recorded_as_too_short(
    engine: Engine,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    allocate: Callable[[], object],
) -> None:
    record = engine.outcome(engine.request(["", *texts[:2]], skip_reason="no time")).training
    assert (record.fallback, record.skipped, record.ended) == ("no time", (), None)

    monkeypatch.setattr(engine._worker._trainer, "_gradients", lambda *_: allocate())
    lacking = train(engine, ["", *texts[:2]]).training
    assert "memory" in str(lacking.fallback)
    assert (lacking.trained, lacking.skipped) == ((), (0,))


def test_the_base_model_answers_if_all_documents_are_too_short(engine: Engine) -> None:
    outcome = train(engine, ["", "a"])
    assert outcome.training.fallback == "no document to train on"
    assert outcome.training.skipped == (0, 1)
    assert outcome.nats == train(engine, []).nats


def test_the_base_model_answers_if_training_diverges(engine: Engine, texts: list[str]) -> None:
    outcome = train(engine, texts[:6], learning_rate=1e30)
    assert "finite" in str(outcome.training.fallback)
    assert outcome.training.update_norm == 0
    assert outcome.nats == train(engine, []).nats


def test_a_training_that_diverges_raises_if_on_failure_says_so(
    engine: Engine, texts: list[str]
) -> None:
    with pytest.raises(TrainingError, match="finite"):
        train(engine, texts[:6], learning_rate=1e30, on_failure="raise")
    with pytest.raises(TrainingError, match="finite"):
        engine.finetune(texts[:6], config=replace(engine.config, learning_rate=1e30))


def test_a_training_that_diverges_does_not_change_the_others_of_its_batch(
    engine: Engine, texts: list[str]
) -> None:
    expected = train(engine, texts[:3])
    scoring = ScoringTask([(TARGET[:1], TARGET[1:])])
    reservations = [engine.admission.admit(1) for _ in range(3)]
    tickets = [
        engine.submit(
            engine.request(texts[:3], scoring, config=replace(engine.config, learning_rate=rate)),
            reservation=reservation,
        )
        for rate, reservation in zip(
            [1e30, engine.config.learning_rate, 1e30], reservations, strict=True
        )
    ]
    broken, fine, _ = ([*ticket][-1] for ticket in tickets)
    assert broken.training.fallback is not None
    assert fine.training.losses == pytest.approx(expected.training.losses, abs=1e-6)
    assert fine.nats == pytest.approx(expected.nats, rel=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_inside_a_callers_no_grad(
    mode: type, engine: Engine, texts: list[str]
) -> None:
    expected = train(engine, texts[:3]).training.losses
    with mode():
        assert train(engine, texts[:3]).training.losses == expected
        fresh = Engine(engine.language_model, engine.config)
        assert train(fresh, texts[:3]).training.losses == expected


def test_the_optimizers_moments_do_not_outlive_the_request(
    engine: Engine, texts: list[str]
) -> None:
    first = train(engine, texts[:4]).training.losses
    train(engine, texts[30:40])
    assert train(engine, texts[:4]).training.losses == first


def test_gradient_reuse_computes_the_gradient_of_a_repeat_every_r_th_time(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    gradients = engine._worker._trainer._gradients
    monkeypatch.setattr(
        engine._worker._trainer,
        "_gradients",
        lambda first, rows: computed.append(len(rows)) or gradients(first, rows),
    )
    repeats = [texts[0]] * 5 + [texts[1]] * 2 + [texts[0]]
    whole = train(engine, repeats).training
    assert len(computed) == 8
    computed.clear()
    reused = train(engine, repeats, gradient_reuse=2).training
    assert len(computed) == 3 + 1 + 1
    assert reused.steps == whole.steps == 8
    assert reused.losses[0] == reused.losses[1] == whole.losses[0]
    assert reused.losses[2] != reused.losses[1]
    assert reused.losses[2] == pytest.approx(whole.losses[2], rel=0.05)


def test_a_budget_ends_training_after_a_prefix_of_the_steps(
    engine: Engine, texts: list[str]
) -> None:
    whole = train(engine, texts[:6]).training
    three = train(engine, texts[:6], max_documents=3).training
    assert three.losses == whole.losses[:3]
    assert three.trained == (0, 1, 2)
    assert "budget" in str(three.ended)
    assert whole.ended is None
    lengths = [len(ids) for ids in engine.language_model.tokenizer(texts[:6])["input_ids"]]
    two = train(engine, texts[:6], max_train_tokens=sum(lengths[:3]) - 1).training
    assert two.losses == whole.losses[:2]
    assert two.tokens == sum(lengths[:2])
    assert "budget" in str(two.ended)
    none = train(engine, texts[:6], max_train_tokens=1).training
    assert none.steps == 0
    assert none.fallback is not None
    one = train(engine, texts[:6], max_train_seconds=1e-9).training
    assert one.losses == whole.losses[:1]
    assert "1e-09 s" in str(one.ended)


def test_an_update_above_max_update_is_scaled_down_to_it(engine: Engine, texts: list[str]) -> None:
    free = train(engine, texts[:6], max_update=None).training.update_norm
    capped = train(engine, texts[:6], max_update=free / 3)
    assert capped.training.update_norm == pytest.approx(free / 3)
    request = engine.request(
        texts[:6], config=replace(engine.config, max_update=free / 3), keep_adapter=True
    )
    weights = engine.outcome(request).adapter.weights
    engine.close()  # its thread no longer uses the slots
    slots = engine._worker.slots
    slots.reserve(1)
    slots.load(0, weights)
    assert slots.update_norm(0) / base_norm(engine._worker._model) == pytest.approx(
        free / 3, rel=1e-5
    )
    slots.reset(0)


@pytest.mark.slow
def test_the_base_model_answers_if_the_drift_is_above_its_limit(
    engine: Engine, texts: list[str]
) -> None:
    drift_texts = tuple(texts[50:53])
    documents = ["zebra zebra zebra zebra"] * 10
    base = train(engine, [])
    free = train(engine, documents, drift_texts=drift_texts, max_drift=100.0)
    assert free.training.drift > 0
    assert free.training.fallback is None
    stopped = train(engine, documents, drift_texts=drift_texts, max_drift=free.training.drift / 2)
    assert "drift_texts" in str(stopped.training.fallback)
    assert stopped.nats == base.nats
    tokenizer = engine.language_model.tokenizer
    adapter = engine.finetune(documents)
    shift, count = 0.0, 0
    for text in drift_texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        shift += negative_log_likelihood(engine, ids[:1], ids[1:], texts=adapter)
        shift -= negative_log_likelihood(engine, ids[:1], ids[1:])
        count += len(ids) - 1
    assert free.training.drift == pytest.approx(shift / count, abs=1e-6)


def test_checkpointing_changes_only_the_memory(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    plain = train(engine_for(tiny_model, tiny_tokenizer), texts[:3])
    checkpointed = engine_for(tiny_model, tiny_tokenizer, gradient_checkpointing=True)
    outcome = train(checkpointed, texts[:3])
    assert outcome.training.losses == pytest.approx(plain.training.losses, abs=1e-6)
    assert outcome.nats == pytest.approx(plain.nats, rel=1e-6)
    checkpointed.close()  # its thread no longer uses the model
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        model = checkpointed._worker._model
        checkpointed._worker.slots.reserve(1)
        checkpointed._worker.slots.begin_training()
        checkpointed._worker.slots.use(0, 1)
        model(input_ids=torch.tensor([TARGET])).logits.sum().backward()
        fewer = sum(kept)
        kept.clear()
        other = engine_for(tiny_model, tiny_tokenizer)
        other._worker.slots.reserve(1)
        other._worker.slots.begin_training()
        other._worker.slots.use(0, 1)
        other._worker._model(input_ids=torch.tensor([TARGET])).logits.sum().backward()
    assert fewer < sum(kept) * 2 / 3


def lowest_cost(lengths: Sequence[int], overhead: int, switch: int) -> int:
    """Return the lowest cost of all splits."""
    if not any(lengths):
        return 0
    if not lengths[0]:
        return lowest_cost(lengths[1:], overhead, switch)
    costs = []
    for last in range(1, len(lengths) + 1):
        if not all(lengths[:last]) or max(lengths[:last]) > switch >= min(lengths[:last]):
            break
        rest = lowest_cost(lengths[last:], overhead, switch)
        costs.append(overhead + max(lengths[:last]) * last + rest)
    return min(costs)


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 64), st.integers(0, 40))
def test_the_passes_have_the_lowest_cost_of_all_splits(
    lengths: list[int], overhead: int, switch: int
) -> None:
    passes = split_into_passes(lengths, overhead=overhead, switch=switch)
    covered = [slot for first, last in passes for slot in range(first, last)]
    assert covered == [slot for slot, length in enumerate(lengths) if length]
    cost = sum(overhead + max(lengths[a:b]) * (b - a) for a, b in passes)
    assert cost == lowest_cost(lengths, overhead, switch)
    assert not any(max(lengths[a:b]) > switch >= min(lengths[a:b]) for a, b in passes)


class Replays:
    """Stands in for a `Recorder`: runs the first work of a key again, as a CUDA graph would."""

    def __init__(self) -> None:
        self.works: dict[object, Callable[[], torch.Tensor | None]] = {}
        self.runs = 0

    def run(self, key: object, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        self.runs += 1
        return self.works.setdefault(key, work)()

    def forget(self) -> None:
        self.works.clear()


@pytest.mark.slow
def test_replayed_steps_train_on_the_documents_of_each_step(
    engine: Engine, texts: list[str]
) -> None:
    plain = train(engine, texts[:8])
    replays = Replays()
    engine._worker._trainer._recorder = replays
    replayed = train(engine, texts[:8])
    assert replayed.training.losses == pytest.approx(plain.training.losses, abs=1e-5)
    assert replayed.nats == pytest.approx(plain.nats, rel=1e-5)
    assert replays.runs == 16  # the gradients and the optimizer of each step
    assert len(replays.works) < 4


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"max_update": 0.002}, {"steps_per_document": 2}])
def test_a_milestone_equals_a_training_on_fewer_documents(
    engine: Engine, texts: list[str], settings: dict[str, object]
) -> None:
    config = replace(engine.config, **settings)
    pairs = [(TARGET[:1], TARGET[1:])]
    documents = [*texts[:2], "", *texts[2:5]]
    request = engine.request(documents, ScoringTask(pairs, after=(1, 3, 4)), config=config)
    outcome = engine.outcome(request)
    assert [milestone.documents for milestone in outcome.milestones] == [1, 3, 4]
    for milestone in outcome.milestones:
        assert milestone.nats == train(engine, documents[: milestone.documents], **settings).nats
    assert outcome.nats == train(engine, documents, **settings).nats
    seconds = [milestone.seconds for milestone in outcome.milestones]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= outcome.training.seconds


def test_a_generation_task_with_pairs_is_scored_as_well(engine: Engine, texts: list[str]) -> None:
    pairs = [(TARGET[:1], TARGET[1:]), (TARGET[:2], TARGET[2:])]
    config = GenerationConfig(max_tokens=4)
    both = engine.outcome(engine.request(texts[:3], GenerationTask(TARGET[:3], config, pairs)))
    assert both.batch_size == 1
    alone = engine.outcome(engine.request(texts[:3], ScoringTask(pairs)))
    assert both.nats == alone.nats
    assert both.tokens


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_float64_model_trains_as_in_float32(architecture: str) -> None:
    model, rng = make_model(architecture), random.Random(0)
    texts = [random_words(rng, length) for length in (20, 30, 9)]
    single, double = (
        engine_for(one, make_tokenizer()).finetune(texts)
        for one in (model, copy.deepcopy(model).double())
    )
    assert double.training.losses == pytest.approx(single.training.losses, rel=1e-3)
    assert double.training.update_norm == pytest.approx(single.training.update_norm, rel=1e-3)
    assert double.training.steps == len(texts)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1)])
def test_a_drift_text_without_a_token_to_predict_is_refused_by_its_position(
    engine: Engine, texts: list[str], text: str, count: int
) -> None:
    adapter = engine.finetune(texts[:1])
    for material in (texts[:2], [], adapter):
        config = replace(engine.config, drift_texts=(texts[0], text), max_drift=0.01)
        with pytest.raises(ArgumentError, match=rf"drift_texts\[1\] .* 2 tokens, got {count}: .*"):
            Engine(engine.language_model, config)
        with pytest.raises(ArgumentError, match=rf"drift_texts\[1\] .* 2 tokens, got {count}: .*"):
            engine.request(material, config=config)
    config = replace(engine.config, drift_texts=("ab",), max_drift=100.0)
    assert engine.outcome(engine.request(texts[:2], config=config)).training.drift != 0.0
