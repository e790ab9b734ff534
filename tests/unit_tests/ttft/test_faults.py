"""A failure of one request, at any stage, reaches no other request and leaves nothing behind."""

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
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.training.loss import Targets
from langchain_sift.ttft.training.slots import Slots
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
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
) -> Engine:
    """An engine that batches all admitted requests, however slow the machine."""
    language_model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    return Engine(language_model, finetune_config, Limits(gather_seconds=10.0))


@dataclass(frozen=True)
class Reply:
    """The events and the outcome of a request."""

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


def answer(engine: Engine, texts: Sequence[str], **settings: object) -> Reply:
    config = replace(engine.config, **settings)
    return collect(engine.submit(engine.request(texts, answering(), config=config)))


def answer_together(
    engine: Engine, document_lists: Sequence[Sequence[str]], **settings: object
) -> list[Reply | BaseException]:
    """Return the replies or errors of the requests of one batch."""
    config = replace(engine.config, **settings)
    reservations = [engine.admission.admit(1) for _ in document_lists]
    tickets = [
        engine.submit(engine.request(texts, answering(), config=config), reservation=reservation)
        for texts, reservation in zip(document_lists, reservations, strict=True)
    ]
    results: list[Reply | BaseException] = []
    for ticket in tickets:
        try:
            results.append(collect(ticket))
        except BaseException as error:  # noqa: BLE001 - the result of a failed request
            results.append(error)
    return results


def same(reply: Reply | BaseException, expected: Reply) -> bool:
    """Return whether a request of a batch has the reply that it has alone, losses to rounding."""
    assert isinstance(reply, Reply), repr(reply)
    losses, others = reply.outcome.training.losses, expected.outcome.training.losses
    return (
        (reply.text, reply.steps, reply.outcome.tokens)
        == (expected.text, expected.steps, expected.outcome.tokens)
        and reply.outcome.training.fallback == expected.outcome.training.fallback
        and losses == pytest.approx(others, abs=1e-5)
    )


def identical(reply: Reply, expected: Reply) -> bool:
    """Return whether two requests have the same outcome, bit for bit."""
    one, other = (replace(r.outcome.training, seconds=0.0) for r in (reply, expected))
    return (reply.text, reply.steps, one) == (expected.text, expected.steps, other)


def counters(engine: Engine) -> tuple[int, ...]:
    """Return the counters when all are zero, or after a minute."""
    until = time.monotonic() + 60
    while True:
        status = engine.status()
        load = (status.admitted, status.admitted_tokens, status.waiting, status.at_work)
        if not any(load) or time.monotonic() > until:
            return load
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
    """Make garbage collection, which runs after each lack of memory, skip older objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# --- hundreds of requests, every other with a fault -----------------------------------------

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
# Stages whose numbers can become NaN: losses, gradients, weights, and a slot after its reset.
CAN_BE_NAN = {"forward", "backward", "step", "reset"}
FAULTS = [
    (stage, kind)
    for stage, kind in itertools.product(STAGES, KINDS)
    if kind != "nan" or stage in CAN_BE_NAN
]


@dataclass(eq=False)
class Fault:
    """A failure of one request, each time that it reaches a stage."""

    stage: str
    kind: str
    errors: list[BaseException] = field(default_factory=list)

    def strike(self) -> bool:
        """Raise an error, or return True if a number is to become NaN."""
        make = KINDS[self.kind]
        if make is None:
            return True
        self.errors.append(make())
        raise self.errors[-1]


class Faults:
    """Injects registered failures between the engine's parts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.of_beginning: dict[tuple[int, ...], Fault] = {}
        """Failures by the first five tokens of the first document, which its half has as well."""
        self.of_pairs: dict[int, Fault] = {}
        self.struck_at_rest = 0
        self._slots: list[Fault | None] = []
        """Failures of the current batch, by slot."""
        self._first = 0
        for owner, name in (
            ("langchain_sift.ttft.documents", "tokenize_documents"),
            (Trainer, "train"),
            (Trainer, "_gradients"),
            ("langchain_sift.ttft.training.loss", "row_losses"),
            (Slots, "step"),
            ("langchain_sift.ttft.task_runner", "generate"),
            ("langchain_sift.ttft.task_runner", "negative_log_likelihoods"),
            (Slots, "reset"),
            (Slots, "is_at_rest"),
            (Worker, "_bring_to_rest"),
        ):
            target = sys.modules[owner] if isinstance(owner, str) else owner
            usual, ours = getattr(target, name), getattr(self, name)
            patch.setattr(target, name, lambda *args, _u=usual, _o=ours, **kw: _o(_u, *args, **kw))

    def register(self, fault: Fault, engine: Engine, texts: Sequence[str]) -> Fault:
        """Make the request with these texts fail."""
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
        self, usual: Any, model: Any, tokenizer: Any, asked: Sequence[Continuation], route: Any
    ) -> None:
        continuations = []
        for slot, continuation in enumerate(asked):
            if fault := self.of("generate", slot):
                fault.strike()
            late = self.of("middle of an answer", slot)
            continuations.append(
                continuation if late is None else self._ends_badly(continuation, late)
            )
        usual(model, tokenizer, continuations, route)

    @staticmethod
    def _ends_badly(continuation: Continuation, fault: Fault) -> Continuation:
        pieces: list[str] = []

        def on_text(text: str) -> bool:
            stops = continuation.on_text(text)
            pieces.append(text)
            if len(pieces) == 2:
                fault.strike()
            return stops

        return replace(continuation, on_text=on_text)

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
class Case:
    """One request of hundreds."""

    texts: list[str]
    task: GenerationTask | ScoringTask
    on_failure: str
    fault: Fault | None


AT_ONCE = 600
"""Number of requests that come in batches."""
ALONE = 4 * len(FAULTS)
"""Number of requests that come one by one: every second has a fault, under both `on_failure`."""


def make_cases(faults: Faults, engine: Engine, texts: list[str]) -> list[Case]:
    """Return some hundred requests; each odd one has a fault."""
    rng = random.Random(4)
    turns = itertools.cycle(itertools.product(FAULTS, ["base", "raise"]))
    cases = []
    for number in range(AT_ONCE + ALONE):
        scoring = ScoringTask([(PROMPT, TARGET)])
        if number % 2 == 0:
            task = scoring if number % 8 == 0 else answering()
            cases.append(Case(texts[number % 20 : number % 20 + 2], task, "base", None))
            continue
        (stage, kind), on_failure = next(turns)
        fault = Fault(stage, kind)
        first = f"{number:03d} {rng.choice('aeiou')}{make_sentence(rng)}"
        faults.register(fault, engine, [first])
        if stage == "scoring":
            faults.of_pairs[id(scoring.pairs)] = fault
        task = scoring if stage == "scoring" else answering()
        cases.append(Case([first], task, on_failure, fault))
    return cases


def check(case: Case, result: Reply | BaseException, base: Reply) -> None:
    """Compare the result of a request that has a fault with the documented one."""
    fault = case.fault
    assert fault is not None
    if fault.stage in {"reset", "verification"}:
        # The fault comes after the answer, and concerns later requests only.
        assert isinstance(result, Reply)
        assert result.outcome.training.fallback is None
        return
    # Without training, no stage of the training can fail, nor here the generation.
    helped = fault.kind == "nan" or (
        fault.kind == "memory" and fault.stage in {"forward", "backward", "step", "generate"}
    )
    if helped and case.on_failure == "base":
        assert isinstance(result, Reply)
        assert result.text == base.text
        reason = "not finite" if fault.kind == "nan" else "memory did not suffice"
        assert reason in str(result.outcome.training.fallback)
    elif fault.kind == "nan" or (
        fault.kind == "memory"
        and case.on_failure == "raise"
        and fault.stage not in {"tokenize", "middle of an answer"}
    ):
        assert isinstance(result, TrainingError)
    else:
        assert any(result is error for error in fault.errors), (fault, result)


@pytest.mark.slow
@pytest.mark.usefixtures("frozen_heap")
def test_of_hundreds_of_requests_half_fail_at_every_stage(
    *,
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
    fingerprint: Callable[[torch.nn.Module], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, weights = state_of(one_layer_model), fingerprint(one_layer_model)
    language_model = LanguageModel("tiny", one_layer_model, tiny_tokenizer)
    engine = Engine(language_model, finetune_config, Limits(max_batch_size=4))
    tasks = [answering(), ScoringTask([(PROMPT, TARGET)])]
    expected = {
        (start, type(task)): collect(engine.submit(engine.request(texts[start : start + 2], task)))
        for start in range(0, 20, 2)
        for task in tasks
    }
    base = collect(engine.submit(engine.request([], tasks[0])))
    faults = Faults(monkeypatch)
    cases = make_cases(faults, engine, texts)
    process = psutil.Process()
    grown: list[int] = []

    def send(number: int) -> Reply | BaseException:
        case = cases[number]
        config = replace(finetune_config, on_failure=case.on_failure)
        try:
            return collect(engine.submit(engine.request(case.texts, case.task, config=config)))
        except BaseException as error:  # noqa: BLE001 - the result of a failed request
            return error.with_traceback(None)

    results: list[Reply | BaseException] = []
    with ThreadPoolExecutor(8) as pool:
        for part in range(0, AT_ONCE, 200):
            results += pool.map(send, range(part, part + 200))
            gc.collect()
            grown.append(process.memory_info().rss)
    # The first fault at the end of a batch hides those of its other slots.
    results += map(send, range(AT_ONCE, AT_ONCE + ALONE))
    for number, (case, result) in enumerate(zip(cases, results, strict=True)):
        if case.fault is not None:
            check(case, result, base)
            continue
        alone = expected[number % 20, type(case.task)]
        assert same(result, alone), number
        assert result.outcome.nats == pytest.approx(alone.outcome.nats, rel=1e-5)
    raised = {(c.fault.stage, c.fault.kind) for c in cases if c.fault and c.fault.errors}
    assert raised == {(stage, kind) for stage, kind in FAULTS if kind != "nan"}
    assert counters(engine) == (0, 0, 0, 0)
    assert engine.status().quarantined == faults.struck_at_rest > 10
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
    """The replies to four requests, each alone."""
    return [answer(engine, documents) for documents in documents_of(texts)]


def documents_of(texts: list[str]) -> list[list[str]]:
    """Return the documents of four requests, longest first, as the engine sorts them."""
    return [texts[10:14], texts[20:23], texts[30:32], texts[40:41]]


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    "stage", ["forward", "backward", "step", "generate", "middle of an answer"]
)
def test_a_bad_request_of_a_batch_fails_alone(
    *,
    stage: str,
    bad: int,
    engine: Engine,
    texts: list[str],
    expected: list[Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the others had sent part of their answers."""
    faults = Faults(monkeypatch)
    fault = faults.register(Fault(stage, "value"), engine, documents_of(texts)[bad])
    results = answer_together(engine, documents_of(texts))
    assert results[bad] is fault.errors[-1]
    assert len(fault.errors) == 2  # once in the batch, once alone
    assert all(same(results[n], expected[n]) for n in range(4) if n != bad)
    assert counters(engine) == (0, 0, 0, 0)


@pytest.mark.slow
def test_a_retried_sample_goes_on_with_its_seed(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = answering(16, temperature=1.0, seed=3)
    document_lists = documents_of(texts)[:3]
    alone = [
        collect(engine.submit(engine.request(documents, sample))) for documents in document_lists
    ]
    faults = Faults(monkeypatch)
    fault = faults.register(Fault("middle of an answer", "value"), engine, document_lists[2])
    reservations = [engine.admission.admit(1) for _ in document_lists]
    tickets = [
        engine.submit(engine.request(documents, sample), reservation=reservation)
        for documents, reservation in zip(document_lists, reservations, strict=True)
    ]
    assert same(collect(tickets[0]), alone[0])
    assert same(collect(tickets[1]), alone[1])
    with pytest.raises(ValueError, match="injected") as raised:
        collect(tickets[2])
    assert raised.value in fault.errors
    assert len(fault.errors) == 2
    assert counters(engine) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("retried", "sent"),
    [("some text", "some text"), ("some text, and more", "some text, and more")]
    + [(text, None) for text in ("some", "", "another text", "some other")],
)
def test_a_retried_answer_must_begin_with_the_text_that_was_sent(
    retried: str, sent: str | None, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = itertools.count()
    failure = ValueError("injected")

    def say(
        _model: object, _tokenizer: object, continuations: Sequence[Continuation], _route: object
    ) -> None:
        first = next(attempts) == 0
        for continuation in continuations:
            text = "some text" if first else retried
            for start in range(0, len(text), 4):
                continuation.on_text(text[start : start + 4])
        if first:
            raise failure
        for continuation in continuations:
            continuation.on_end(3, "stop")

    monkeypatch.setattr("langchain_sift.ttft.task_runner.generate", say)
    for result in answer_together(engine, [[], []]):
        if sent is None:
            assert result is failure
        else:
            assert isinstance(result, Reply)
            assert result.text == sent
    assert next(attempts) == 3


def test_only_the_request_with_a_loss_that_is_not_finite_raises(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    faults.register(Fault("forward", "nan"), engine, documents_of(texts)[1])
    results = answer_together(engine, documents_of(texts), on_failure="raise")
    assert isinstance(results[1], TrainingError)
    assert "not finite in step 1" in str(results[1])
    assert all(same(results[n], expected[n]) for n in (0, 2, 3))
    others = answer_together(engine, documents_of(texts), on_failure="base")
    assert isinstance(others[1], Reply)
    assert others[1].text == answer(engine, []).text
    assert all(same(others[n], expected[n]) for n in (0, 2, 3))


# --- lack of memory -----------------------------------------------------------


class Memory:
    """Raises in a forward pass of the training if `lacks` returns True for its rows and tokens."""

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


@pytest.mark.slow
def test_a_batch_that_runs_out_of_memory_once_runs_in_halves(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(lambda *_: len(memory.passes) == 2, monkeypatch)
    sizes: list[int] = []
    train = engine._worker._trainer.train
    monkeypatch.setattr(
        engine._worker._trainer, "train", lambda ls: sizes.append(len(ls)) or train(ls)
    )
    results = answer_together(engine, documents_of(texts))
    assert sizes == [4, 2, 2]
    assert all(map(same, results, expected))
    assert answer_together(engine, documents_of(texts)[:1])
    assert sizes == [4, 2, 2, 1]


@pytest.mark.slow
def test_a_batch_that_always_runs_out_of_memory_runs_one_by_one(
    engine: Engine, texts: list[str], expected: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(lambda rows, _: rows > 1, monkeypatch)
    results = answer_together(engine, [texts[10:14]] * 4)
    assert max(memory.passes)[0] == 4
    assert all(same(reply, expected[0]) for reply in results)


@pytest.mark.slow
def test_documents_too_long_for_the_memory_are_halved_once(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [texts[0], " ".join(texts[:40]), texts[1]]
    lengths = [len(d.token_ids) for d in engine.request(documents).documents]
    assert lengths[1] == 64 > max(lengths[0], lengths[2]) > 32
    half = answer(engine, documents, max_length=32)
    assert half.outcome.training.truncated == (0, 1, 2)
    before = answer(engine, documents)
    with monkeypatch.context() as patch:
        Memory(lambda _, tokens: tokens > 32, patch)
        assert identical(answer(engine, documents), half)
    with monkeypatch.context() as patch:
        Memory(lambda _, tokens: tokens > 31, patch)
        base = answer(engine, documents)
    assert base.outcome.training.fallback == "memory did not suffice"
    assert identical(answer(engine, documents), before)


@pytest.mark.slow
def test_without_memory_the_base_model_answers_or_an_error_is_raised(
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ValueError, torch.OutOfMemoryError])
def test_no_tensor_of_a_failed_step_outlives_the_step(
    kind: type[Exception], engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the client keeps the error: neither it nor its causes have frames."""
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

    layers = [model.get_submodule(name) for name in engine._worker.targets.names]
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


def raise_error(*_: object) -> None:
    raise RuntimeError


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("leave", [leave_weights, raise_error, interrupt])
def test_slots_that_are_not_at_rest_are_replaced(
    leave: Callable[[Slots, int], None],
    engine: Engine,
    texts: list[str],
    expected: list[Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer_together(engine, documents_of(texts))
    slots, usual = engine._worker.slots, Slots.reset
    before = (slots.weights, slots._rounded)
    assert slots.count == 4
    assert counters(engine) == (0, 0, 0, 0)

    def reset(slots: Slots, slot: int) -> None:
        usual(slots, slot)
        if slot == 1:
            leave(slots, slot)

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "reset", reset)
        results = answer_together(engine, documents_of(texts))
        assert counters(engine) == (0, 0, 0, 0)
    # The answers came before the reset.
    assert all(map(same, results, expected))
    assert engine.status().quarantined == 1
    assert slots.count == 0
    for documents, alone in zip(documents_of(texts), expected, strict=True):
        assert identical(answer(engine, documents), alone)
    assert all(map(same, answer_together(engine, documents_of(texts)), expected))
    assert slots.weights is not before[0]
    assert slots._rounded is not before[1]
    assert engine.status().quarantined == 1


# --- processes ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_answers_or_raises_and_never_hangs(
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
        result = ours.recv()
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert isinstance(result, SIFTError) or identical(result, before)
    assert identical(answer(engine, texts[:3]), before)
