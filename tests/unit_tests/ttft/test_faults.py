"""Whatever goes wrong with a request, wherever, it is that request's alone and leaves nothing."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import SIFTError, TrainingError
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome, ScoringTask, Step
from langchain_sift.ttft.generation import Continuation
from langchain_sift.ttft.training.lora import Slots
from langchain_sift.ttft.training.loss import Targets
from langchain_sift.ttft.training.tasks import TrainingTask
from langchain_sift.ttft.training.trainer import Trainer
from langchain_sift.ttft.worker import Worker
from tests.conftest import make_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]
TARGET = [7, 8, 100, 21]


@pytest.fixture
def engine(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, recipe: FineTuneConfig
) -> Engine:
    """An engine that makes one batch of what is admitted together, however slow the machine."""
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    return Engine(language_model, recipe, Limits(gather_seconds=10.0))


@dataclass(frozen=True)
class Reply:
    """What a request told, and what came of it."""

    text: str
    steps: tuple[int, ...]
    outcome: Outcome


def collect(ticket: Any) -> Reply:
    *events, outcome = ticket
    return Reply(
        "".join(event for event in events if isinstance(event, str)),
        tuple(event.number for event in events if isinstance(event, Step)),
        outcome,
    )


def answering(max_tokens: int = 4, **generation: object) -> GenerationTask:
    config = {"max_tokens": max_tokens, "keep_special_tokens": True, **generation}
    return GenerationTask(PROMPT, GenerationConfig(**config))


def answer(engine: Engine, texts: Sequence[str], **recipe: object) -> Reply:
    config = replace(engine.config, **recipe)
    return collect(engine.submit(engine.request(texts, answering(), config=config)))


def answer_together(
    engine: Engine, lessons: Sequence[Sequence[str]], **recipe: object
) -> list[Reply | BaseException]:
    """Return what came of the requests of one batch, whether replies or errors."""
    config = replace(engine.config, **recipe)
    reservations = [engine.admission.admit(1) for _ in lessons]
    tickets = [
        engine.submit(engine.request(texts, answering(), config=config), reservation=reservation)
        for texts, reservation in zip(lessons, reservations, strict=True)
    ]
    found: list[Reply | BaseException] = []
    for ticket in tickets:
        try:
            found.append(collect(ticket))
        except BaseException as error:  # noqa: BLE001 - that is what is asked
            found.append(error)
    return found


def same(reply: Reply | BaseException, expected: Reply) -> bool:
    """Return whether a request of a batch was answered as alone: one text, losses to rounding."""
    assert isinstance(reply, Reply), repr(reply)
    losses, others = reply.outcome.training.losses, expected.outcome.training.losses
    return (
        (reply.text, reply.steps, reply.outcome.tokens)
        == (expected.text, expected.steps, expected.outcome.tokens)
        and reply.outcome.training.fallback == expected.outcome.training.fallback
        and losses == pytest.approx(others, abs=1e-5)
    )


def identical(reply: Reply, expected: Reply) -> bool:
    """Return whether two requests that were alone have the same outcome, to the bit."""
    one, other = (replace(r.outcome.training, seconds=0.0) for r in (reply, expected))
    return (reply.text, reply.steps, one) == (expected.text, expected.steps, other)


def counters(engine: Engine) -> tuple[int, ...]:
    """Return the counters once they are at rest, or as they are after ten seconds."""
    until = time.monotonic() + 10
    while True:
        status = engine.status()
        found = (status.admitted, status.admitted_tokens, status.waiting, status.at_work)
        if not any(found) or time.monotonic() > until:
            return found
        time.sleep(0.001)


def state_of(model: torch.nn.Module) -> list[tuple[object, ...]]:
    """Return names, flags, modes and numbers of hooks of all modules and parameters."""
    modules = [
        (name, type(module), module.training, *(len(v) for k, v in attributes if "hooks" in k))
        for name, module in model.named_modules()
        for attributes in [[(k, v) for k, v in vars(module).items() if isinstance(v, dict)]]
    ]
    return [*modules, *((n, p.requires_grad, p.grad) for n, p in model.named_parameters())]


@pytest.fixture
def frozen_heap() -> Iterator[None]:
    """Have the collector, which each lack of memory calls, look at new objects only: faster."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# --- a thousand requests, every other with a fault ------------------------------------------

KINDS: dict[str, Callable[[], BaseException] | None] = {
    "value": lambda: ValueError("injected"),
    "runtime": lambda: RuntimeError("injected"),
    "memory": lambda: torch.OutOfMemoryError("injected"),
    "interrupt": lambda: KeyboardInterrupt("injected"),
    "nan": None,
}
STAGES = (
    "tokenize",
    "forward",
    "backward",
    "step",
    "generate",
    "middle of an answer",
    "scoring",
    "reset",
    "verification",
)
# What can be not a number: losses, gradients, weights, and what is left in a slot.
CAN_BE_NAN = {"forward", "backward", "step", "reset"}
FAULTS = [
    (stage, kind)
    for stage, kind in itertools.product(STAGES, KINDS)
    if kind != "nan" or stage in CAN_BE_NAN
]


@dataclass(eq=False)
class Fault:
    """What goes wrong with one request, each time that it comes to a stage."""

    stage: str
    kind: str
    errors: list[BaseException] = field(default_factory=list)

    def strike(self) -> bool:
        """Raise; or return True where not a number is wanted."""
        make = KINDS[self.kind]
        if make is None:
            return True
        self.errors.append(make())
        raise self.errors[-1]


class Faults:
    """Makes what is registered go wrong, at the seams between the engine's parts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.of_beginning: dict[tuple[int, ...], Fault] = {}
        """By the first five tokens of a request's first document; halves have them, too."""
        self.of_pairs: dict[int, Fault] = {}
        self.struck_at_rest = 0
        self._slots: list[Fault | None] = []
        """The batch that is being done."""
        self._first = 0
        for owner, name in (
            ("langchain_sift.ttft.engine", "tokenize_documents"),
            (Trainer, "train"),
            (Trainer, "_gradients"),
            ("langchain_sift.ttft.training.loss", "row_losses"),
            (Slots, "step"),
            ("langchain_sift.ttft.worker", "generate"),
            ("langchain_sift.ttft.worker", "negative_log_likelihoods"),
            (Slots, "reset"),
            (Slots, "is_at_rest"),
            (Worker, "_bring_to_rest"),
        ):
            target = sys.modules[owner] if isinstance(owner, str) else owner
            usual, ours = getattr(target, name), getattr(self, name)
            patch.setattr(target, name, lambda *args, _u=usual, _o=ours, **kw: _o(_u, *args, **kw))

    def register(self, fault: Fault, engine: Engine, texts: Sequence[str]) -> Fault:
        """Have the request that learns from these texts go wrong."""
        beginning = tuple(engine.language_model.tokenizer(texts[0])["input_ids"][:5])
        assert beginning not in self.of_beginning
        self.of_beginning[beginning] = fault
        return fault

    def of(self, stage: str, slot: int) -> Fault | None:
        fault = self._slots[slot] if slot < len(self._slots) else None
        return fault if fault is not None and fault.stage == stage else None

    def tokenize_documents(self, usual: Any, tokenizer: Any, texts: Any, **settings: Any) -> Any:
        documents = usual(tokenizer, texts, **settings)
        fault = self.of_beginning.get(documents[0].token_ids[:5]) if documents else None
        if fault is not None and fault.stage == "tokenize":
            fault.strike()
        return documents

    def train(self, usual: Any, trainer: Trainer, tasks: Sequence[TrainingTask]) -> Any:
        beginnings = [t.documents[0].token_ids[:5] if t.documents else () for t in tasks]
        self._slots = [self.of_beginning.get(beginning) for beginning in beginnings]
        return usual(trainer, tasks)

    def _gradients(self, usual: Any, trainer: Trainer, first: int, rows: Any) -> Any:
        self._first = first
        return usual(trainer, first, rows)

    def row_losses(self, usual: Any, model: Any, head: Any, targets: Targets) -> Any:
        losses = usual(model, head, targets)
        for row in range(len(losses)):
            if (fault := self.of("forward", self._first + row)) and fault.strike():
                losses = losses * torch.where(torch.arange(len(losses)) == row, torch.nan, 1.0)
            if fault := self.of("backward", self._first + row):
                losses.register_hook(lambda g, f=fault, r=row: self._spoil(g, f, r))
        return losses

    @staticmethod
    def _spoil(gradient: torch.Tensor, fault: Fault, row: int) -> torch.Tensor:
        spoilt = gradient.clone()
        if fault.strike():
            spoilt[row] = torch.nan
        return spoilt

    def step(self, usual: Any, slots: Slots, limits: Any) -> None:
        usual(slots, limits)
        for slot in limits:
            if (fault := self.of("step", slot)) and fault.strike():
                slots.weights[slot] = torch.nan

    def generate(
        self, usual: Any, model: Any, tokenizer: Any, asked: Sequence[Continuation]
    ) -> None:
        continuations = []
        for slot, continuation in enumerate(asked):
            if fault := self.of("generate", slot):
                fault.strike()
            late = self.of("middle of an answer", slot)
            continuations.append(
                continuation if late is None else self._ends_badly(continuation, late)
            )
        usual(model, tokenizer, continuations)

    @staticmethod
    def _ends_badly(continuation: Continuation, fault: Fault) -> Continuation:
        told: list[str] = []

        def tell(text: str) -> bool:
            stops = continuation.on_text(text)
            told.append(text)
            if len(told) == 2:
                fault.strike()
            return stops

        return replace(continuation, on_text=tell)

    def negative_log_likelihoods(self, usual: Any, model: Any, head: Any, pairs: Any) -> Any:
        if fault := self.of_pairs.get(id(pairs)):
            fault.strike()
        return usual(model, head, pairs)

    def reset(self, usual: Any, slots: Slots, slot: int) -> None:
        if (fault := self.of("reset", slot)) and fault.strike():
            slots.weights[slot] = torch.nan
            return
        usual(slots, slot)

    def is_at_rest(self, usual: Any, slots: Slots, slot: int) -> bool:
        if fault := self.of("verification", slot):
            fault.strike()
        return bool(usual(slots, slot))

    def _bring_to_rest(self, usual: Any, worker: Worker, count: int) -> None:
        at_rest = ("reset", "verification")
        slots = range(len(self._slots))
        self.struck_at_rest += any(self.of(stage, slot) for stage in at_rest for slot in slots)
        usual(worker, count)
        self._slots = []


@dataclass(frozen=True)
class Asked:
    """One of the thousand."""

    texts: list[str]
    task: GenerationTask | ScoringTask
    on_failure: str
    fault: Fault | None


def make_requests(faults: Faults, engine: Engine, texts: list[str]) -> list[Asked]:
    """Return a thousand, each odd one with a fault of its own."""
    rng = random.Random(4)
    turns = itertools.cycle(itertools.product(FAULTS, ["base", "raise"]))
    asked = []
    for number in range(1000):
        scoring = ScoringTask([(PROMPT, TARGET)])
        if number % 2 == 0:
            task = scoring if number % 8 == 0 else answering()
            asked.append(Asked(texts[number % 20 : number % 20 + 2], task, "base", None))
            continue
        (stage, kind), on_failure = next(turns)
        fault = Fault(stage, kind)
        first = f"{number:03d} {rng.choice('aeiou')}{make_sentence(rng)}"
        faults.register(fault, engine, [first])
        if stage == "scoring":
            faults.of_pairs[id(scoring.pairs)] = fault
        task = scoring if stage == "scoring" else answering()
        asked.append(Asked([first], task, on_failure, fault))
    return asked


def check(asked: Asked, found: Reply | BaseException, base: Reply) -> None:
    """Compare what came of a request with a fault with what is promised."""
    fault = asked.fault
    assert fault is not None
    if fault.stage in {"reset", "verification"}:
        # It has its answer: what was injected was about those to come.
        assert isinstance(found, Reply)
        assert found.outcome.training.fallback is None
        return
    # Done without learning, a request has no training to go wrong, here no answer either.
    helped = fault.kind == "nan" or (
        fault.kind == "memory" and fault.stage in {"forward", "backward", "step", "generate"}
    )
    if helped and asked.on_failure == "base":
        assert isinstance(found, Reply)
        assert found.text == base.text
        reason = "not finite" if fault.kind == "nan" else "memory did not suffice"
        assert reason in str(found.outcome.training.fallback)
    elif fault.kind == "nan" or (
        fault.kind == "memory"
        and asked.on_failure == "raise"
        and fault.stage not in {"tokenize", "middle of an answer"}
    ):
        assert isinstance(found, TrainingError)
    else:
        assert any(found is error for error in fault.errors), (fault, found)


@pytest.mark.usefixtures("frozen_heap")
def test_a_thousand_requests_of_which_half_fail_at_every_stage(
    *,
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    recipe: FineTuneConfig,
    texts: list[str],
    fingerprint: Callable[[torch.nn.Module], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, weights = state_of(one_layer_model), fingerprint(one_layer_model)
    language_model = LanguageModel("tiny", one_layer_model, tiny_tokenizer)
    engine = Engine(language_model, recipe, Limits(max_batch_size=4))
    tasks = [answering(), ScoringTask([(PROMPT, TARGET)])]
    expected = {
        (start, type(task)): collect(engine.submit(engine.request(texts[start : start + 2], task)))
        for start in range(0, 20, 2)
        for task in tasks
    }
    base = collect(engine.submit(engine.request([], tasks[0])))
    faults = Faults(monkeypatch)
    requests = make_requests(faults, engine, texts)
    process = psutil.Process()
    grown: list[int] = []

    def ask(number: int) -> Reply | BaseException:
        asked = requests[number]
        config = replace(recipe, on_failure=asked.on_failure)
        try:
            return collect(engine.submit(engine.request(asked.texts, asked.task, config=config)))
        except BaseException as error:  # noqa: BLE001 - that is what is asked
            return error.with_traceback(None)

    results: list[Reply | BaseException] = []
    with ThreadPoolExecutor(8) as pool:
        for part in range(0, 1000, 200):
            results += pool.map(ask, range(part, part + 200))
            gc.collect()
            grown.append(process.memory_info().rss)
    for number, (asked, found) in enumerate(zip(requests, results, strict=True)):
        if asked.fault is not None:
            check(asked, found, base)
            continue
        alone = expected[number % 20, type(asked.task)]
        assert same(found, alone), number
        assert found.outcome.nats == pytest.approx(alone.outcome.nats, rel=1e-5)
    struck = {(a.fault.stage, a.fault.kind) for a in requests if a.fault and a.fault.errors}
    assert struck == {(stage, kind) for stage, kind in FAULTS if kind != "nan"}
    assert counters(engine) == (0, 0, 0, 0)
    assert engine.status().quarantined == faults.struck_at_rest > 20
    assert grown[-1] - grown[0] <= 10 * 2**20
    assert fingerprint(one_layer_model) == weights
    assert state_of(one_layer_model) == before
    monkeypatch.undo()
    slots = engine._worker.slots
    assert all(slots.is_at_rest(slot) for slot in range(slots.count))
    for (start, kind), alone in expected.items():
        task = next(task for task in tasks if type(task) is kind)
        reply = collect(engine.submit(engine.request(texts[start : start + 2], task)))
        assert identical(reply, alone)


# --- one of a batch -------------------------------------------------------------------------


@pytest.fixture
def expected(engine: Engine, texts: list[str]) -> list[Reply]:
    """What four requests are answered, each alone."""
    return [answer(engine, lesson) for lesson in lessons_of(texts)]


def lessons_of(texts: list[str]) -> list[list[str]]:
    """Return four requests' documents, the most first, as the engine sorts them."""
    return [texts[10:14], texts[20:23], texts[30:32], texts[40:41]]


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    "stage", ["forward", "backward", "step", "generate", "middle of an answer"]
)
def test_of_a_batch_the_bad_one_fails_alone(
    *,
    stage: str,
    bad: int,
    engine: Engine,
    texts: list[str],
    expected: list[Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the others had been told part of their answers."""
    faults = Faults(monkeypatch)
    fault = faults.register(Fault(stage, "value"), engine, lessons_of(texts)[bad])
    found = answer_together(engine, lessons_of(texts))
    assert found[bad] is fault.errors[-1]
    assert len(fault.errors) == 2  # in the batch, and alone
    assert all(same(found[n], expected[n]) for n in range(4) if n != bad)
    assert counters(engine) == (0, 0, 0, 0)


def test_a_sample_that_was_begun_goes_on_as_its_seed_has_it(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = answering(16, temperature=1.0, seed=3)
    lessons = lessons_of(texts)[:3]
    alone = [collect(engine.submit(engine.request(lesson, sample))) for lesson in lessons]
    faults = Faults(monkeypatch)
    fault = faults.register(Fault("middle of an answer", "value"), engine, lessons[2])
    reservations = [engine.admission.admit(1) for _ in lessons]
    tickets = [
        engine.submit(engine.request(lesson, sample), reservation=reservation)
        for lesson, reservation in zip(lessons, reservations, strict=True)
    ]
    assert same(collect(tickets[0]), alone[0])
    assert same(collect(tickets[1]), alone[1])
    with pytest.raises(ValueError, match="injected") as raised:
        collect(tickets[2])
    assert raised.value in fault.errors
    assert len(fault.errors) == 2
    assert counters(engine) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("again", "told"),
    [("some text", "some text"), ("some text, and more", "some text, and more")]
    + [(text, None) for text in ("some", "", "another text", "some other")],
)
def test_an_answer_done_again_must_begin_with_what_was_told_of_it(
    again: str, told: str | None, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = itertools.count()
    failure = ValueError("injected")

    def say(_model: object, _tokenizer: object, continuations: Sequence[Continuation]) -> None:
        first = next(attempts) == 0
        for continuation in continuations:
            text = "some text" if first else again
            for start in range(0, len(text), 4):
                continuation.on_text(text[start : start + 4])
        if first:
            raise failure
        for continuation in continuations:
            continuation.on_end(3, "stop")

    monkeypatch.setattr("langchain_sift.ttft.worker.generate", say)
    for found in answer_together(engine, [[], []]):
        if told is None:
            assert found is failure
        else:
            assert isinstance(found, Reply)
            assert found.text == told
    assert next(attempts) == 3


def test_only_the_request_whose_loss_is_not_finite_raises(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    faults.register(Fault("forward", "nan"), engine, lessons_of(texts)[1])
    found = answer_together(engine, lessons_of(texts), on_failure="raise")
    assert isinstance(found[1], TrainingError)
    assert "not finite in step 1" in str(found[1])
    assert all(same(found[n], expected[n]) for n in (0, 2, 3))
    beside = answer_together(engine, lessons_of(texts), on_failure="base")
    assert isinstance(beside[1], Reply)
    assert beside[1].text == answer(engine, []).text
    assert all(same(beside[n], expected[n]) for n in (0, 2, 3))


# --- memory that does not suffice -----------------------------------------------------------


class Memory:
    """Lacks in a forward pass for training, where `lacks` says so of its rows and tokens."""

    def __init__(self, lacks: Callable[[int, int], bool], patch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[int, int]] = []
        self._lacks = lacks
        training = sys.modules["langchain_sift.ttft.training.loss"]
        self._usual = training.row_losses  # type: ignore[attr-defined]
        patch.setattr(training, "row_losses", self._row_losses)

    def _row_losses(self, model: Any, head: Any, targets: Targets) -> torch.Tensor:
        losses: torch.Tensor = self._usual(model, head, targets)
        rows, tokens = targets.token_ids.shape
        self.passes.append((rows, tokens))
        if self._lacks(rows, tokens):
            raise torch.OutOfMemoryError
        return losses


def test_a_batch_for_which_memory_lacks_once_is_done_in_halves(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(lambda *_: len(memory.passes) == 2, monkeypatch)
    sizes: list[int] = []
    train = engine._worker._trainer.train
    monkeypatch.setattr(
        engine._worker._trainer, "train", lambda ls: sizes.append(len(ls)) or train(ls)
    )
    found = answer_together(engine, lessons_of(texts))
    assert sizes == [4, 2, 2]
    assert all(map(same, found, expected))
    assert answer_together(engine, lessons_of(texts)[:1])
    assert sizes == [4, 2, 2, 1]


def test_a_batch_for_which_memory_lacks_always_is_done_one_by_one(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(lambda rows, _: rows > 1, monkeypatch)
    found = answer_together(engine, [texts[10:14]] * 4)
    assert max(memory.passes)[0] == 4
    assert all(same(reply, expected[0]) for reply in found)


def test_documents_too_long_for_the_memory_are_cut_to_half_once(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = [texts[0], " ".join(texts[:40]), texts[1]]
    lengths = [len(d.token_ids) for d in engine.request(lesson).documents]
    assert lengths[1] == 64 > max(lengths[0], lengths[2]) > 32
    half = answer(engine, lesson, max_length=32)
    assert half.outcome.training.truncated == (0, 1, 2)
    before = answer(engine, lesson)
    with monkeypatch.context() as patch:
        Memory(lambda _, tokens: tokens > 32, patch)
        assert identical(answer(engine, lesson), half)
    with monkeypatch.context() as patch:
        Memory(lambda _, tokens: tokens > 31, patch)
        base = answer(engine, lesson)
    assert base.outcome.training.fallback == "memory did not suffice"
    assert identical(answer(engine, lesson), before)


def test_without_any_memory_the_base_model_answers_or_it_raises(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, base = answer(engine, texts[:3]), answer(engine, [])
    assert before.text != base.text
    with monkeypatch.context() as patch:
        memory = Memory(lambda *_: True, patch)
        reply = answer(engine, texts[:3])
        assert reply.text == base.text
        assert reply.outcome.training.fallback == "memory did not suffice"
        assert reply.outcome.training.steps == 0
        assert len(memory.passes) == 2
        with pytest.raises(TrainingError, match="did not suffice, even for half"):
            answer(engine, texts[:3], on_failure="raise")
        with pytest.raises(TrainingError, match="did not suffice"):
            engine.finetune(texts[:3])
    assert identical(answer(engine, texts[:3]), before)
    assert engine.status().quarantined == 0
    assert counters(engine) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", [ValueError, torch.OutOfMemoryError])
def test_no_tensor_of_a_failed_step_outlives_it(
    kind: type[Exception], engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though whoever asked holds the error: neither its frames nor its causes' hold them."""
    answer(engine, texts[:1])
    seen: list[weakref.ref[torch.Tensor]] = []
    model = engine._worker._model

    def fail_in_the_second_step(losses: torch.Tensor) -> torch.Tensor:
        seen.append(weakref.ref(losses))
        if len(seen) > len(layers) + 1:
            try:
                raise kind
            except kind as cause:
                raise kind from cause
        return losses

    layers = [model.get_submodule(name) for name in engine._worker.names]
    for layer in layers:
        layer.register_forward_hook(lambda *a: seen.append(weakref.ref(a[-1])))
    usual = sys.modules["langchain_sift.ttft.training.loss"].row_losses  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "langchain_sift.ttft.training.loss.row_losses",
        lambda *args: fail_in_the_second_step(usual(*args)),
    )
    gc.collect()
    gc.disable()
    try:
        with pytest.raises((kind, TrainingError)) as raised:
            engine.finetune(texts[:3])
        error = raised.value
        del raised
        assert counters(engine) == (0, 0, 0, 0)
        assert len(seen) > len(layers) + 1
        assert [ref for ref in seen if ref() is not None] == []
        assert error is not None
    finally:
        gc.enable()


# --- slots in doubt -------------------------------------------------------------------------


def leave_weights(slots: Slots, slot: int) -> None:
    slots.weights[slot, 5] = 1e-30


def leave_moments(slots: Slots, slot: int) -> None:
    slots._moments[1, slot, 5] = 1e-30


def leave_steps(slots: Slots, slot: int) -> None:
    (row,) = slots._optimizer.param_groups[slot]["params"]
    slots._optimizer.state[row]["step"] += 1


def raise_error(*_: object) -> None:
    raise RuntimeError


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "leave", [leave_weights, leave_moments, leave_steps, raise_error, interrupt]
)
def test_slots_that_are_not_at_rest_are_replaced(
    leave: Callable[[Slots, int], None],
    engine: Engine,
    texts: list[str],
    expected: list[Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_together(engine, lessons_of(texts))
    slots, usual = engine._worker.slots, Slots.reset
    before = (slots.weights, slots.gradients, slots._rounded, slots._moments, slots._optimizer)
    assert slots.count == 4
    assert counters(engine) == (0, 0, 0, 0)

    def reset(slots: Slots, slot: int) -> None:
        usual(slots, slot)
        if slot == 1:
            leave(slots, slot)

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "reset", reset)
        found = answer_together(engine, lessons_of(texts))
        assert counters(engine) == (0, 0, 0, 0)
    # They had their answers before.
    assert all(map(same, found, expected))
    assert engine.status().quarantined == 1
    after = (slots.weights, slots.gradients, slots._rounded, slots._moments, slots._optimizer)
    assert not any(one is other for one, other in zip(before, after, strict=True))
    assert slots.weights.data_ptr() != before[0].data_ptr()
    for lesson, alone in zip(lessons_of(texts), expected, strict=True):
        assert identical(answer(engine, lesson), alone)
    assert all(map(same, answer_together(engine, lessons_of(texts)), expected))
    assert engine.status().quarantined == 1


def test_slots_that_cannot_be_replaced_now_are_with_the_next_request(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = engine._worker.slots.weights
    assert counters(engine) == (0, 0, 0, 0)

    def no_memory(slots: Slots, _: int) -> None:
        slots.count = 0
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "is_at_rest", lambda *_: False)
        patch.setattr(Slots, "reserve", no_memory)
        assert identical(answer(engine, lessons_of(texts)[0]), expected[0])
        assert counters(engine) == (0, 0, 0, 0)
    for lesson, alone in zip(lessons_of(texts), expected, strict=True):
        assert identical(answer(engine, lesson), alone)
    assert engine._worker.slots.weights is not old
    assert engine.status().quarantined == 1


# --- processes ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_answers_or_says_why_not_and_never_hangs(
    engine: Engine, texts: list[str]
) -> None:
    before = answer(engine, texts[:3])
    ours, theirs = multiprocessing.Pipe()

    def ask() -> None:
        try:
            theirs.send(answer(engine, texts[:3]))
        except SIFTError as error:
            theirs.send(error)

    child = multiprocessing.get_context("fork").Process(target=ask)
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        found = ours.recv()
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert isinstance(found, SIFTError) or identical(found, before)
    assert identical(answer(engine, texts[:3]), before)
