"""Admission never exceeds its limits, and every request releases its reservation at its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import linecache
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_sift import ChatTestTimeFineTuned
from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import (
    ArgumentError,
    EngineOverloaded,
    RequestCancelled,
    RequestTimeout,
)
from langchain_sift.ttft import Engine, GenerationTask, Reservation, Ticket
from langchain_sift.ttft.admission import Admission
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.training.trainer import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# --- counting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7])
def test_one_request_more_than_max_requests_is_refused(most: int) -> None:
    admission = Admission(Limits(max_requests=most))
    reservations = [admission.admit(1) for _ in range(most)]
    with pytest.raises(EngineOverloaded, match=rf"{most} requests.*max_requests"):
        admission.admit(1)
    assert (len(admission.reserved), admission.tokens) == (most, most)
    reservations.pop().release()
    assert (len(admission.reserved), admission.tokens) == (most - 1, most - 1)
    reservations.append(admission.admit(1))
    with pytest.raises(EngineOverloaded):
        admission.admit(1)


def test_one_token_more_than_max_tokens_is_refused() -> None:
    admission = Admission(Limits(max_tokens=100))
    reservations = [admission.admit(60)]
    with pytest.raises(EngineOverloaded, match=r"60 training tokens.*41.*max_tokens \(100\)"):
        admission.admit(41)
    assert (len(admission.reserved), admission.tokens) == (1, 60)
    reservations.append(admission.admit(40))
    with pytest.raises(EngineOverloaded):
        admission.admit(1)
    reservations.append(admission.admit(0))
    assert (len(admission.reserved), admission.tokens) == (3, 100)
    del reservations[1]  # a reservation without references is released
    assert (len(admission.reserved), admission.tokens) == (2, 60)


def test_a_request_larger_than_the_limit_is_admitted_alone() -> None:
    admission = Admission(Limits(max_tokens=100))
    small = admission.admit(1)
    with pytest.raises(EngineOverloaded):
        admission.admit(101)
    small.release()
    large = admission.admit(1000)
    with pytest.raises(EngineOverloaded):
        admission.admit(1)
    assert (len(admission.reserved), admission.tokens) == (1, 1000)
    large.release()
    assert (len(admission.reserved), admission.tokens) == (0, 0)


def test_a_reservation_can_grow_and_shrink() -> None:
    admission = Admission(Limits(max_tokens=100))
    first, second = admission.admit(50), admission.admit(10)
    first.resize(90)
    assert admission.tokens == 100
    with pytest.raises(EngineOverloaded):
        second.resize(11)
    assert admission.tokens == 100
    first.resize(20)
    second.resize(80)
    assert (len(admission.reserved), admission.tokens) == (2, 100)
    second.release()
    first.resize(5000)  # the only one now
    assert admission.tokens == 5000
    first.release()
    first.resize(3)  # released before: nothing happens
    assert (len(admission.reserved), admission.tokens) == (0, 0)


def test_releasing_twice_does_no_harm() -> None:
    admission = Admission(Limits(max_tokens=100))
    reservation, other = admission.admit(10), admission.admit(20)
    for _ in range(3):
        reservation.release()
    assert (len(admission.reserved), admission.tokens) == (1, 20)
    with contextlib.suppress(LookupError), other:
        raise LookupError
    assert (len(admission.reserved), admission.tokens) == (0, 0)


def test_parts_of_a_request_leave_half_of_the_places_to_others() -> None:
    admission = Admission(Limits(max_requests=4))
    whole = admission.admit(0)
    first, second = (admission.admit(0, part_of=whole) for _ in range(2))
    assert admission.requests == 2  # the first has the place of the whole
    with pytest.raises(EngineOverloaded):
        admission.admit(0, part_of=whole)
    others = [admission.admit(0) for _ in range(2)]
    with pytest.raises(EngineOverloaded):
        admission.admit(0)
    first.release()
    second.release()
    assert admission.requests == 3
    third = admission.admit(0, part_of=whole)  # always has the place of the whole
    whole.release()
    assert admission.requests == 1 + len(others)
    third.release()
    assert admission.requests == len(others)


def test_a_step_within_a_request_takes_no_place() -> None:
    admission = Admission(Limits(max_requests=1, max_tokens=10))
    whole = admission.admit(10)
    step = admission.within()
    step.resize(5)
    assert (admission.requests, admission.tokens) == (1, 10)
    step.release()
    whole.release()
    assert (admission.requests, admission.tokens) == (0, 0)


@dataclass
class SlowLimits:
    """Limits that let other threads run whenever they are read."""

    requests: int = 100
    tokens: int = 1000

    @property
    def max_requests(self) -> int:
        time.sleep(1e-4)
        return self.requests

    @property
    def max_tokens(self) -> int:
        time.sleep(1e-4)
        return self.tokens


@pytest.mark.slow
@pytest.mark.parametrize("limits", [SlowLimits(requests=3), SlowLimits(tokens=30)], ids=repr)
def test_threads_never_get_the_same_room(limits: Any) -> None:
    threads, rounds = 8, 100
    admission = Admission(limits)
    barrier = threading.Barrier(threads)

    def send() -> list[bool]:
        admitted = []
        for _ in range(rounds):
            barrier.wait()
            try:
                reservation = admission.admit(10)
            except EngineOverloaded:
                reservation = None
            barrier.wait()
            admitted.append(reservation is not None)
            if reservation is not None:
                reservation.release()
        return admitted

    with ThreadPoolExecutor(threads) as pool:
        answers = [future.result() for future in [pool.submit(send) for _ in range(threads)]]
    assert {sum(each) for each in zip(*answers, strict=True)} == {3}
    assert (len(admission.reserved), admission.tokens) == (0, 0)


# --- many at once -----------------------------------------------------------------------------


@dataclass
class Crowd:
    """A chat model with its own engine, and counts of what the engine did."""

    chat: ChatTestTimeFineTuned
    most: int
    asked: list[str] = field(default_factory=list)
    trainings: int = 0
    inside: int = 0
    most_inside: int = 0
    most_admitted: int = 0
    refusals: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refused(self, of: int) -> None:
        """Count a refusal. At the last one, let the admitted requests go on."""
        with self.lock:
            self.refusals += 1
            is_last = self.refusals == of
        if is_last:
            self.open.set()


@pytest.fixture
def crowd(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Crowd:
    """Return a crowd of which no request trains before `open` is set."""
    most = 12

    def documents(query: str) -> list[Document]:
        with crowd.lock:
            crowd.asked.append(query)
            crowd.inside += 1
            crowd.most_inside = max(crowd.most_inside, crowd.inside)
            crowd.most_admitted = max(crowd.most_admitted, crowd.chat.engine.status().admitted)
        return [Document(text) for text in texts[:2]]

    def finish(ticket: Ticket, last: Any) -> None:
        with crowd.lock:
            crowd.inside -= not ticket.done.is_set()
        real_finish(ticket, last)

    def train(trainer: Trainer, trainings: Any) -> Any:
        assert crowd.open.wait(60), "a refusal waits for admitted requests"
        # Some of the admitted requests may still be on their way to the retriever.
        assert comes_true(lambda: len(crowd.asked) == crowd.most)
        crowd.trainings += len(trainings)
        return real_train(trainer, trainings)

    chat = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=RunnableLambda(documents),
        finetune=finetune_config,
        limits=Limits(max_requests=most, max_batch_size=5),
        max_tokens=3,
    )
    chat.invoke("The river", documents=[])  # warm up
    crowd = Crowd(chat, most)
    real_finish, real_train = Ticket.finish, Trainer.train
    monkeypatch.setattr(Ticket, "finish", finish)
    monkeypatch.setattr(Trainer, "train", train)
    return crowd


def check(crowd: Crowd, answers: list[object]) -> None:
    """Check that as many requests as allowed were answered, and all others refused.

    No refusal waited for another request: nothing trains before the last refusal.

    Args:
        crowd: The crowd with its counts.
        answers: Messages or errors.
    """
    refused = [answer for answer in answers if isinstance(answer, EngineOverloaded)]
    assert crowd.open.is_set()
    assert len(refused) == len(answers) - crowd.most
    assert len({str(answer.content) for answer in answers if hasattr(answer, "content")}) == 1
    assert len(crowd.asked) == crowd.trainings == crowd.most
    assert crowd.most_inside == crowd.most_admitted == crowd.most
    assert at_rest(crowd.chat.engine)


def comes_true(condition: Callable[[], object], *, within: float = 60.0) -> bool:
    """Wait until a condition is true; return False if it is not in time."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.001)
    return False


def at_rest(engine: Engine, *, within: float = 60.0) -> bool:
    """Wait until no request is admitted, queued or running."""

    def rests() -> bool:
        status = engine.status()
        return not (status.admitted or status.admitted_tokens or status.waiting or status.at_work)

    return comes_true(rests, within=within)


@pytest.mark.slow
def test_of_200_threads_only_as_many_as_allowed_are_admitted(crowd: Crowd) -> None:
    count = 200
    barrier = threading.Barrier(count)

    def send(_: int) -> object:
        barrier.wait()
        try:
            return crowd.chat.invoke("The river")
        except EngineOverloaded as error:
            crowd.refused(count - crowd.most)
            return error

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(send, range(count)))
    check(crowd, answers)


@pytest.mark.slow
async def test_of_200_coroutines_only_as_many_as_allowed_are_admitted(crowd: Crowd) -> None:
    count = 200

    async def send() -> object:
        try:
            return await crowd.chat.ainvoke("The river")
        except EngineOverloaded as error:
            crowd.refused(count - crowd.most)
            return error

    answers = await asyncio.gather(*(send() for _ in range(count)))
    check(crowd, list(answers))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_engine_refuses_at_once(crowd: Crowd, *, asynchronous: bool) -> None:
    reservations = [crowd.chat.engine.admission.admit(1) for _ in range(crowd.most)]
    seconds = []

    async def send() -> None:
        for _ in range(50):
            began = time.perf_counter()
            with pytest.raises(EngineOverloaded):
                await crowd.chat.ainvoke("The river") if asynchronous else crowd.chat.invoke("A")
            seconds.append(time.perf_counter() - began)

    asyncio.run(send())
    # The fastest of fifty: other work of the machine delays the others.
    assert min(seconds) < 0.05
    assert not crowd.asked
    for reservation in reservations:
        reservation.release()


def test_a_refusal_does_not_wait_for_the_tokenization_of_others(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads that prepare requests are busy."""
    tokenizing = threading.Event()
    tokenized = []

    def tokenize(*_: object, **__: object) -> list[object]:
        tokenizing.set()
        tokenized.append(crowd.open.wait(60))
        return []

    monkeypatch.setattr("langchain_sift.ttft.documents.tokenize_documents", tokenize)

    async def send() -> None:
        busy = [asyncio.create_task(crowd.chat.ainvoke("The river")) for _ in range(crowd.most)]
        await asyncio.to_thread(tokenizing.wait)
        while crowd.chat.engine.status().admitted < crowd.most:
            await asyncio.sleep(0.001)
        with pytest.raises(EngineOverloaded):
            await crowd.chat.ainvoke("The river")
        assert not tokenized
        crowd.open.set()
        await asyncio.gather(*busy)

    asyncio.run(send())
    assert tokenized == [True] * crowd.most
    assert at_rest(crowd.chat.engine)


# --- how many tokens are reserved -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, 30),
        ({"steps_per_document": 3}, 90),
        ({"max_documents": 2}, 20),
        ({"max_documents": 2, "steps_per_document": 3}, 60),
        ({"max_train_tokens": 17}, 17),
        ({"max_train_tokens": 17, "steps_per_document": 3}, 17),
        ({"max_train_tokens": 1000, "steps_per_document": 3}, 90),
    ],
)
def test_the_maximum_of_training_tokens_is_reserved_before_all_else(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    tokens: int,
) -> None:
    chat = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=FineTuneConfig(max_length=10)
    )
    reserved = []

    def admit(admission: Admission, wanted: int) -> None:
        del admission
        reserved.append(wanted)
        raise EngineOverloaded

    monkeypatch.setattr(Admission, "admit", admit)
    documents = [Document("The river carries seven maps near the border.")] * 3
    with pytest.raises(EngineOverloaded):
        chat.invoke("The river", documents=documents, **settings)
    assert reserved == [tokens]


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_the_first_reservation_suffices_whichever_documents_are_too_short(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    most: int | None,
) -> None:
    chat = ChatTestTimeFineTuned(model=tiny_model, tokenizer=tiny_tokenizer, max_tokens=1)
    needed: list[int] = []
    monkeypatch.setattr(Reservation, "resize", lambda _, tokens: needed.append(tokens))
    long = "The river carries seven maps near the border. "
    documents = [Document(text) for text in ("", "x", long, "The river", long * 3, "")]
    message = chat.invoke("The river", documents=documents, max_documents=most)
    *reserved, trained = needed
    assert min(reserved) >= trained == message.response_metadata["ttft"]["tokens"]


# --- every end of a request --------------------------------------------------------------------

DOCUMENTS = [Document(f"The river carries cold iron, {number} times.") for number in range(12)]
QUESTION = "The river carries"
PROMPT = [5, 9, 40, 41]


@dataclass
class Scene:
    """A chat model whose gradient steps and tokens can be paused."""

    chat: ChatTestTimeFineTuned
    step_begun: threading.Event = field(default_factory=threading.Event)
    token_begun: threading.Event = field(default_factory=threading.Event)
    steps_wait: bool = False
    tokens_wait: bool = False
    failing: bool = False

    def step(self) -> None:
        if self.failing:
            raise RuntimeError("the forward pass failed")
        self.step_begun.set()
        comes_true(lambda: not self.steps_wait)

    def token(self) -> None:
        self.token_begun.set()
        comes_true(lambda: not self.tokens_wait)

    def one_waits(self) -> bool:
        return self.chat.engine.status().waiting == 1

    def go_on(self) -> None:
        self.steps_wait = self.tokens_wait = False

    @contextlib.contextmanager
    def another_at_work(self) -> Iterator[None]:
        """Keep the engine busy with another request until the block ends."""
        self.steps_wait = True
        self.step_begun.clear()
        request = self.chat.engine.request(
            [document.page_content for document in DOCUMENTS[:2]],
            GenerationTask(PROMPT, GenerationConfig(max_tokens=2)),
        )
        ticket = self.chat.engine.submit(request)
        assert self.step_begun.wait(30)
        try:
            yield
        finally:
            self.go_on()
            list(ticket)

    def submit(self) -> Ticket:
        request = self.chat.engine.request(
            [document.page_content for document in DOCUMENTS],
            GenerationTask(PROMPT, GenerationConfig(max_tokens=20)),
        )
        return self.chat.engine.submit(request)


@pytest.fixture
def scene(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    chat = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=finetune_config,
        limits=Limits(max_requests=9),
        max_tokens=20,
    )
    scene = Scene(chat)
    gradients, add = Trainer._gradients, AnswerDecoder.add

    def step(trainer: Trainer, first: int, rows: Any) -> Any:
        scene.step()
        return gradients(trainer, first, rows)

    def token(decoder: AnswerDecoder, token_id: int) -> str:
        scene.token()
        return add(decoder, token_id)

    monkeypatch.setattr(Trainer, "_gradients", step)
    monkeypatch.setattr(AnswerDecoder, "add", token)
    yield scene
    scene.go_on()


def invoke(scene: Scene, **settings: Any) -> str:
    return str(scene.chat.invoke(QUESTION, **{"documents": DOCUMENTS, **settings}).content)


def it_is_answered(scene: Scene) -> None:
    invoke(scene)


def it_is_streamed(scene: Scene) -> None:
    list(scene.chat.stream(QUESTION, documents=DOCUMENTS))


def the_retriever_fails(scene: Scene) -> None:
    def fail(query: str) -> list[Document]:
        raise LookupError(query)

    with pytest.raises(LookupError):
        invoke(scene, documents=None, retriever=RunnableLambda(fail))


def the_retriever_returns_no_documents(scene: Scene) -> None:
    with pytest.raises(ArgumentError, match="int at index 1"):
        invoke(scene, documents=None, retriever=RunnableLambda(lambda _: [DOCUMENTS[0], 3]))


def a_document_is_none(scene: Scene) -> None:
    with pytest.raises(ArgumentError, match="int at index 0"):
        invoke(scene, documents=[3])


def the_tokenizer_fails(scene: Scene) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langchain_sift.ttft.documents.tokenize_documents", None)
        with pytest.raises(TypeError):
            invoke(scene)


def the_prompt_is_too_long(scene: Scene) -> None:
    with pytest.raises(ArgumentError, match="from 1 to 255 tokens"):
        scene.chat.invoke("river " * 400, documents=DOCUMENTS)


def the_forward_pass_fails(scene: Scene) -> None:
    scene.failing = True
    with pytest.raises(RuntimeError):
        invoke(scene)
    scene.failing = False


def time_is_up_in_the_queue(scene: Scene) -> None:
    with scene.another_at_work(), pytest.raises(RequestTimeout):
        invoke(scene, timeout=0.05)


def time_is_up_in_training(scene: Scene) -> None:
    scene.steps_wait = True
    with pytest.raises(RequestTimeout):
        invoke(scene, timeout=0.05)
    scene.go_on()


def time_is_up_in_generation(scene: Scene) -> None:
    scene.tokens_wait = True
    for timeout in (2.0, 30.0):  # a busy machine may not begin the answer so soon
        with pytest.raises(RequestTimeout):
            invoke(scene, documents=DOCUMENTS[:1], timeout=timeout)
        if scene.token_begun.is_set():
            break
    assert scene.token_begun.is_set()
    scene.go_on()


def it_is_cancelled_in_the_queue(scene: Scene) -> None:
    with scene.another_at_work():
        ticket = scene.submit()
        ticket.cancel()
        with pytest.raises(RequestCancelled):
            list(ticket)
        status = scene.chat.engine.status()  # its room is free at once
        assert (status.admitted, status.waiting, status.at_work) == (1, 0, 1)


def it_is_cancelled_in_training(scene: Scene) -> None:
    scene.steps_wait = True
    ticket = scene.submit()
    assert scene.step_begun.wait(30)
    ticket.cancel()
    scene.go_on()
    with pytest.raises(RequestCancelled):
        list(ticket)


def it_is_cancelled_in_generation(scene: Scene) -> None:
    scene.tokens_wait = True
    ticket = scene.submit()
    assert scene.token_begun.wait(30)
    ticket.cancel()
    scene.go_on()
    with pytest.raises(RequestCancelled):
        list(ticket)


def no_client_listens(scene: Scene) -> None:
    scene.submit()


def its_stream_is_closed_early(scene: Scene) -> None:
    stream = scene.chat.stream(QUESTION, documents=DOCUMENTS)
    next(stream)
    stream.close()


def its_stream_is_left_early(scene: Scene) -> None:
    for _ in scene.chat.stream(QUESTION, documents=DOCUMENTS):
        break


def its_async_stream_is_left_early(scene: Scene) -> None:
    async def leave() -> None:
        async for _ in scene.chat.astream(QUESTION, documents=DOCUMENTS):
            break

    asyncio.run(leave())


def cancelled_task(scene: Scene, begun: Callable[[], object], **settings: Any) -> None:
    async def start_and_cancel() -> None:
        task = asyncio.create_task(
            scene.chat.ainvoke(QUESTION, **{"documents": DOCUMENTS, **settings})
        )
        assert await asyncio.to_thread(comes_true, begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start_and_cancel())


def its_task_is_cancelled_in_retrieval(scene: Scene) -> None:
    asked = threading.Event()

    async def documents(query: str) -> list[Document]:
        del query
        asked.set()
        await asyncio.sleep(30)
        return []

    cancelled_task(
        scene, asked.is_set, documents=None, retriever=RunnableLambda(print, afunc=documents)
    )


def its_task_is_cancelled_in_tokenization(scene: Scene) -> None:
    tokenizing, go_on = threading.Event(), threading.Event()

    def tokenize(*_: object, **__: object) -> list[object]:
        tokenizing.set()
        go_on.wait(30)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langchain_sift.ttft.documents.tokenize_documents", tokenize)
        cancelled_task(scene, tokenizing.is_set)
        assert scene.chat.engine.status().admitted == 0
        go_on.set()


def its_task_is_cancelled_in_the_queue(scene: Scene) -> None:
    with scene.another_at_work():
        cancelled_task(scene, scene.one_waits)
        status = scene.chat.engine.status()
        assert (status.admitted, status.waiting, status.at_work) == (1, 0, 1)


def its_task_is_cancelled_in_training(scene: Scene) -> None:
    scene.steps_wait = True
    cancelled_task(scene, scene.step_begun.is_set)
    scene.go_on()


def its_task_is_cancelled_in_generation(scene: Scene) -> None:
    scene.tokens_wait = True
    cancelled_task(scene, scene.token_begun.is_set)
    scene.go_on()


def interrupted(scene: Scene, begun: Callable[[], object]) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        comes_true(begun)
        time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)

    def start_and_invoke() -> None:
        thread.start()
        invoke(scene)

    with pytest.raises(KeyboardInterrupt):
        start_and_invoke()
    thread.join()


def its_caller_is_interrupted_in_training(scene: Scene) -> None:
    scene.steps_wait = True
    interrupted(scene, scene.step_begun.is_set)
    scene.go_on()


def its_caller_is_interrupted_in_the_queue(scene: Scene) -> None:
    with scene.another_at_work():
        interrupted(scene, scene.one_waits)
        assert scene.chat.engine.status().admitted == 1


def its_caller_is_interrupted_in_generation(scene: Scene) -> None:
    scene.tokens_wait = True
    interrupted(scene, scene.token_begun.is_set)
    scene.go_on()


def its_handler_fails(scene: Scene) -> None:
    pieces = iter(scene.submit())
    next(pieces)
    with pytest.raises(LookupError):
        pieces.throw(LookupError)


LIFECYCLES = [
    it_is_answered,
    it_is_streamed,
    the_retriever_fails,
    the_retriever_returns_no_documents,
    a_document_is_none,
    the_tokenizer_fails,
    the_prompt_is_too_long,
    the_forward_pass_fails,
    time_is_up_in_the_queue,
    time_is_up_in_training,
    time_is_up_in_generation,
    it_is_cancelled_in_the_queue,
    it_is_cancelled_in_training,
    it_is_cancelled_in_generation,
    no_client_listens,
    its_stream_is_closed_early,
    its_stream_is_left_early,
    its_async_stream_is_left_early,
    its_task_is_cancelled_in_retrieval,
    its_task_is_cancelled_in_tokenization,
    its_task_is_cancelled_in_the_queue,
    its_task_is_cancelled_in_training,
    its_task_is_cancelled_in_generation,
    its_caller_is_interrupted_in_the_queue,
    its_caller_is_interrupted_in_training,
    its_caller_is_interrupted_in_generation,
    its_handler_fails,
]


@pytest.mark.slow
@pytest.mark.parametrize("lifecycle", LIFECYCLES, ids=lambda lifecycle: lifecycle.__name__)
def test_after_each_end_all_room_is_free_and_answers_are_the_same(
    scene: Scene, lifecycle: Callable[[Scene], None]
) -> None:
    expected = invoke(scene)
    assert expected != invoke(scene, documents=[])
    for event in (scene.step_begun, scene.token_begun):
        event.clear()
    lifecycle(scene)
    assert at_rest(scene.chat.engine)
    assert invoke(scene) == expected
    assert at_rest(scene.chat.engine)


@contextlib.contextmanager
def interrupt_at(line: int) -> Iterator[list[str]]:
    """Raise KeyboardInterrupt at the n-th line of the package that is reached.

    Lines at which Python cannot be interrupted safely are left out: `with` and `try`.
    """
    reached: set[tuple[str, int]] = set()
    interrupted_at: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        del argument
        path, number = frame.f_code.co_filename, frame.f_lineno
        if "langchain_sift" not in path or interrupted_at:
            return None
        here = linecache.getline(path, number).strip()
        if event != "line" or (path, number) in reached or here.startswith(("with ", "try:")):
            return trace
        reached.add((path, number))
        if len(reached) == line:
            interrupted_at.append(f"{path}:{number}: {here}")
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield interrupted_at
    finally:
        sys.settrace(before)


@pytest.mark.slow
def test_an_interrupt_at_any_line_leaves_no_reservation(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines of the admission, submission and release included."""
    # Otherwise the engine would soon look into its queue without a notification.
    monkeypatch.setattr("langchain_sift.ttft.batching._IDLE_SECONDS", 60.0)
    chat = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=finetune_config,
        limits=Limits(gather_seconds=0.001),
        max_tokens=1,
    )
    expected = chat.invoke(QUESTION, documents=DOCUMENTS[:1]).content
    for line in itertools.count(1):
        with contextlib.suppress(KeyboardInterrupt), interrupt_at(line) as interrupted_at:
            chat.invoke(QUESTION, documents=DOCUMENTS[:1])
        if not interrupted_at:
            break
        assert at_rest(chat.engine, within=30), (interrupted_at, chat.engine.status())
    assert line > 100
    assert chat.invoke(QUESTION, documents=DOCUMENTS[:1]).content == expected
    chat.engine.close()
