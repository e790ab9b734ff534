"""A request whose client gives up ends within one gradient step or one token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_sift import ChatTestTimeFineTuned, SIFTRetriever
from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import RequestCancelled, RequestTimeout
from langchain_sift.ttft import Engine, GenerationTask, Ticket
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.training.trainer import Trainer

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

STEP = 0.2
"""Seconds that a slowed gradient step or token takes."""

FAR = 30.0
"""Seconds far beyond every deadline here, even on a busy machine."""

REST = 60.0
"""Seconds within which the engine is idle, even on a busy machine."""

PATIENCE = (1.0, 5.0, 25.0)
"""Seconds to wait for a step or token to begin; the later ones are for a busy machine."""

LONG_STEP = 1.0
"""Seconds of a step in another process: within these it hears of a signal, and begins to end."""

DOCUMENTS = [Document(f"The river carries cold iron, {number} times.") for number in range(20)]
QUESTION = "The river carries"
PROMPT = [5, 9, 40, 41]


@dataclass
class Pace:
    """Slows gradient steps and tokens down or holds them, and counts those that began."""

    step: float = 0.0
    token: float = 0.0
    steps: int = 0
    tokens: int = 0
    step_begun: threading.Event = field(default_factory=threading.Event)
    token_begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def begun(self) -> int:
        """Number of steps and tokens that began."""
        return self.steps + self.tokens

    def hold(self) -> None:
        """Let no slowed step or token that begins from now on end before `go_on` is set."""
        self.go_on.clear()

    def spend(self, seconds: float) -> None:
        """Take the time of a step or token."""
        if seconds:
            time.sleep(seconds)
            self.go_on.wait(REST)


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    pace = Pace()
    pace.go_on.set()
    gradients, add = Trainer._gradients, AnswerDecoder.add

    def step(trainer: Trainer, first: int, rows: Any) -> Any:
        pace.steps += 1
        pace.step_begun.set()
        pace.spend(pace.step)
        return gradients(trainer, first, rows)

    def token(decoder: AnswerDecoder, token_id: int) -> str:
        pace.tokens += 1
        pace.token_begun.set()
        pace.spend(pace.token)
        return add(decoder, token_id)

    monkeypatch.setattr(Trainer, "_gradients", step)
    monkeypatch.setattr(AnswerDecoder, "add", token)
    return pace


@pytest.fixture
def chat(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    pace: Pace,
) -> Iterator[ChatTestTimeFineTuned]:
    chat = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=finetune_config, max_tokens=40
    )
    chat.invoke(QUESTION, documents=DOCUMENTS[:1], max_tokens=1)  # warm up
    pace.steps = pace.tokens = 0
    pace.step_begun.clear()
    pace.token_begun.clear()
    yield chat
    pace.step = pace.token = 0.0
    pace.go_on.set()
    assert at_rest(chat.engine)


def at_rest(engine: Engine) -> bool:
    """Wait until the engine is idle; return False if it is not in time."""
    until = time.monotonic() + REST
    while time.monotonic() < until:
        status = engine.status()
        if not (status.at_work or status.waiting or status.admitted or status.admitted_tokens):
            return True
        time.sleep(0.001)
    return False


def submit(
    chat: ChatTestTimeFineTuned,
    documents: list[Document] = DOCUMENTS,
    timeout: float | None = None,
) -> Ticket:
    request = chat.engine.request(
        [document.page_content for document in documents],
        GenerationTask(PROMPT, GenerationConfig(max_tokens=40)),
    )
    return chat.engine.submit(request, timeout=timeout)


class Watch:
    """Remembers how many steps and tokens had begun when a client gave up.

    Meanwhile they are held, so that it does not matter how long the client takes.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._begun = 0

    def hold(self) -> None:
        self._pace.hold()

    def now(self) -> None:
        self._pace.hold()
        self._begun = self._pace.begun

    def go_on(self) -> None:
        self._pace.go_on.set()

    def check(self, engine: Engine) -> None:
        self.go_on()
        assert at_rest(engine)
        # The next step or token, or the first token after the training.
        assert self._pace.begun - self._begun <= 1
        assert self._begun > 0


# --- ways to give up --------------------------------------------------------------------------

GiveUp = Callable[[ChatTestTimeFineTuned, list[Document], threading.Event, Watch], None]


def cancel_the_ticket(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    ticket = submit(chat, documents)
    assert begun.wait(30)
    watch.now()
    ticket.cancel()
    watch.go_on()
    with pytest.raises(RequestCancelled):
        list(ticket)


def close_the_events(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    events = iter(submit(chat, documents))
    next(events)
    while not begun.is_set():
        next(events)
    watch.now()
    events.close()


def time_out(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    def give_up(seconds: float) -> None:
        with pytest.raises(RequestTimeout):
            chat.invoke(QUESTION, documents=documents, timeout=seconds)
        watch.now()

    give_up_once(begun, give_up, watch)


def give_up_once(begun: threading.Event, give_up: Callable[[float], None], watch: Watch) -> None:
    """Give up after some seconds, and after more if no step or token had begun by then."""
    for seconds in PATIENCE:
        watch.hold()
        give_up(seconds)
        if begun.is_set():
            return
    pytest.fail(f"nothing began within {PATIENCE[-1]} s")


def cancel_the_task(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(chat.ainvoke(QUESTION, documents=documents))
        await asyncio.to_thread(begun.wait, 30)
        watch.now()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())


def wait_only_so_long(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    async def give_up(seconds: float) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(chat.ainvoke(QUESTION, documents=documents), seconds)
        watch.now()

    give_up_once(begun, lambda seconds: asyncio.run(give_up(seconds)), watch)


def stream_only_so_long(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    async def give_up(seconds: float) -> None:
        stream = chat.astream(QUESTION, documents=documents)

        async def listen() -> None:
            async for _ in stream:
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listen(), seconds)
        watch.now()

    give_up_once(begun, lambda seconds: asyncio.run(give_up(seconds)), watch)


def leave_the_loop(
    chat: ChatTestTimeFineTuned, documents: list[Document], _: threading.Event, watch: Watch
) -> None:
    for _chunk in chat.stream(QUESTION, documents=documents):
        watch.now()
        break


def close_the_stream(
    chat: ChatTestTimeFineTuned, documents: list[Document], _: threading.Event, watch: Watch
) -> None:
    stream = chat.stream(QUESTION, documents=documents)
    next(stream)
    watch.now()
    stream.close()


def close_the_async_stream(
    chat: ChatTestTimeFineTuned, documents: list[Document], _: threading.Event, watch: Watch
) -> None:
    async def give_up() -> None:
        stream = chat.astream(QUESTION, documents=documents)
        await anext(stream)
        watch.now()
        await stream.aclose()

    asyncio.run(give_up())


def leave_the_async_loop(
    chat: ChatTestTimeFineTuned, documents: list[Document], _: threading.Event, watch: Watch
) -> None:
    async def give_up() -> None:
        async for _chunk in chat.astream(QUESTION, documents=documents):
            watch.now()
            break
        await asyncio.sleep(STEP)

    asyncio.run(give_up())


def let_a_handler_fail(
    chat: ChatTestTimeFineTuned, documents: list[Document], begun: threading.Event, watch: Watch
) -> None:
    events = iter(submit(chat, documents))
    while not begun.is_set():
        next(events)
    watch.now()
    with pytest.raises(LookupError):
        events.throw(LookupError)


ANYWHERE = [
    cancel_the_ticket,
    close_the_events,
    time_out,
    cancel_the_task,
    wait_only_so_long,
    stream_only_so_long,
    let_a_handler_fail,
]
WITH_TEXT = [leave_the_loop, close_the_stream, close_the_async_stream, leave_the_async_loop]


@pytest.mark.slow
@pytest.mark.parametrize("give_up", ANYWHERE, ids=lambda give_up: give_up.__name__)
def test_training_ends_within_a_step(
    chat: ChatTestTimeFineTuned, pace: Pace, give_up: GiveUp
) -> None:
    pace.step = STEP
    watch = Watch(pace)
    give_up(chat, DOCUMENTS, pace.step_begun, watch)
    watch.check(chat.engine)


@pytest.mark.slow
@pytest.mark.parametrize("give_up", [*ANYWHERE, *WITH_TEXT], ids=lambda give_up: give_up.__name__)
def test_an_answer_ends_within_a_token(
    chat: ChatTestTimeFineTuned, pace: Pace, give_up: GiveUp
) -> None:
    pace.token = STEP
    watch = Watch(pace)
    give_up(chat, DOCUMENTS[:1], pace.token_begun, watch)
    watch.check(chat.engine)


@pytest.mark.slow
def test_a_cancelled_request_leaves_the_batch_and_the_others_go_on(
    chat: ChatTestTimeFineTuned, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat.model_copy(update={"limits": Limits(gather_seconds=REST)})
    chat._engine = None
    sizes: list[int] = []
    gradients = Trainer._gradients

    def step(trainer: Trainer, first: int, rows: Any) -> Any:
        sizes.append(len(rows))
        return gradients(trainer, first, rows)

    monkeypatch.setattr(Trainer, "_gradients", step)
    expected = list(submit(chat))[-1].training.losses
    sizes.clear()
    pace.step_begun.clear()
    pace.step = STEP / 4
    pace.hold()
    reservations = [chat.engine.admission.admit(1) for _ in range(2)]
    texts = [document.page_content for document in DOCUMENTS]
    task = GenerationTask(PROMPT, GenerationConfig(max_tokens=2))
    stays, leaves = (
        chat.engine.submit(chat.engine.request(texts, task), reservation=reservation)
        for reservation in reservations
    )
    assert pace.step_begun.wait(30)
    leaves.cancel()
    pace.go_on.set()
    outcome = list(stays)[-1]
    assert sizes[0] == 2
    assert sizes.count(2) <= 2
    assert sizes[-1] == 1
    assert outcome.training.losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_comes_with_an_event_is_not_lost(
    chat: ChatTestTimeFineTuned, pace: Pace, turns: int
) -> None:
    """`asyncio.wait_for` lost it until Python 3.12, some turns of the loop later."""
    pace.step = STEP
    pace.hold()
    ticket = submit(chat)

    async def listen() -> None:
        async for _ in ticket:
            pass

    task = asyncio.create_task(listen())
    await asyncio.sleep(STEP / 4)
    assert ticket._wake is not None
    ticket._wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=FAR)  # if lost, the task waits for the engine
    assert task.cancelled()


# --- deadlines --------------------------------------------------------------------------------


def invoke(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    chat.invoke(QUESTION, **settings)


def ainvoke(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    asyncio.run(chat.ainvoke(QUESTION, **settings))


def stream(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    list(chat.stream(QUESTION, **settings))


def astream(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    async def listen() -> None:
        async for _ in chat.astream(QUESTION, **settings):
            pass

    asyncio.run(listen())


def batch(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    chat.batch([QUESTION, QUESTION], **settings)


def abatch(chat: ChatTestTimeFineTuned, **settings: Any) -> None:
    asyncio.run(chat.abatch([QUESTION, QUESTION], **settings))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in the queue", "in training", "in generation"])
@pytest.mark.parametrize("call", [invoke, ainvoke, stream, astream, batch, abatch])
def test_a_deadline_ends_a_request_within_a_step(
    chat: ChatTestTimeFineTuned,
    pace: Pace,
    call: Callable[..., None],
    where: str,
) -> None:
    if where == "in generation":
        pace.token = STEP
    else:
        pace.step = STEP
    at_work = submit(chat) if where == "in the queue" else None
    if at_work is not None:
        assert pace.step_begun.wait(30)
    steps_before = pace.steps
    began = time.perf_counter()
    with pytest.raises(RequestTimeout, match=r"within 0\.4 s") as caught:
        call(chat, documents=DOCUMENTS, timeout=0.4)
    assert isinstance(caught.value, TimeoutError)
    assert 0.4 <= time.perf_counter() - began < FAR
    most = 0.4 / STEP + 2  # steps that fit into the time, and the current one
    if pace.step:
        assert pace.steps - steps_before <= most
    else:
        assert pace.tokens <= 2 * most  # a batch has two requests, each with its tokens
    if at_work is not None:
        at_work.cancel()
    pace.step = pace.token = 0.0
    # Each call has its own deadline.
    assert chat.invoke(QUESTION, documents=DOCUMENTS[:1], max_tokens=1).content


def test_a_training_that_takes_too_long_names_the_cures(
    chat: ChatTestTimeFineTuned, pace: Pace
) -> None:
    pace.step = STEP
    pace.hold()
    with pytest.raises(RequestTimeout, match=r"within 0\.1 s: raise timeout.*max_documents"):
        list(submit(chat, timeout=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("call", [ainvoke, astream, abatch])
def test_a_deadline_ends_an_asynchronous_retrieval(
    chat: ChatTestTimeFineTuned, call: Callable[..., None], texts: list[str]
) -> None:
    async def slow(query: str) -> list[Document]:
        del query
        await asyncio.sleep(30)
        return [Document(texts[0])]

    began = time.perf_counter()
    with pytest.raises(RequestTimeout, match=r"0\.2 s"):
        call(chat, retriever=RunnableLambda(print, afunc=slow), timeout=0.2)
    assert 0.2 <= time.perf_counter() - began < FAR


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [math.inf, 1e9, 1e10, 1e12, 1e300])
async def test_a_timeout_longer_than_any_wait_means_no_limit(
    chat: ChatTestTimeFineTuned, timeout: float
) -> None:
    documents, call = DOCUMENTS[:2], {"timeout": timeout, "max_tokens": 4}
    expected = chat.invoke(QUESTION, documents=documents, max_tokens=4).content
    for source in ({"documents": documents}, {"retriever": RunnableLambda(lambda _: documents)}):
        assert chat.invoke(QUESTION, **source, **call).content == expected
        assert (await chat.ainvoke(QUESTION, **source, **call)).content == expected


@contextlib.contextmanager
def hanging() -> Iterator[RunnableLambda[str, list[Document]]]:
    """Yield a retriever without coroutines that returns only after the block."""
    ended = threading.Event()

    def hang(query: str) -> list[Document]:
        ended.wait(FAR)
        return [Document(query)]

    try:
        yield RunnableLambda(hang)
    finally:
        ended.set()


@pytest.mark.slow
@pytest.mark.parametrize("call", [invoke, stream, batch])
def test_a_deadline_ends_a_hanging_retrieval(
    chat: ChatTestTimeFineTuned, call: Callable[..., None]
) -> None:
    began = time.perf_counter()
    with hanging() as retriever, pytest.raises(RequestTimeout, match=r"0\.2 s"):
        call(chat, retriever=retriever, timeout=0.2)
    assert time.perf_counter() - began < FAR
    assert chat.engine.status().admitted == 0


async def test_a_deadline_ends_a_hanging_retrieval_of_a_coroutine(
    chat: ChatTestTimeFineTuned,
) -> None:
    began = time.perf_counter()
    with hanging() as retriever, pytest.raises(RequestTimeout, match=r"0\.2 s"):
        await chat.ainvoke(QUESTION, retriever=retriever, timeout=0.2)
    assert time.perf_counter() - began < FAR
    assert chat.engine.status().admitted == 0


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [600.0, math.inf, None])
def test_a_retriever_runs_in_the_callers_context_and_without_a_deadline_in_its_thread(
    chat: ChatTestTimeFineTuned, texts: list[str], timeout: float | None
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[object] = []

    def documents(query: str) -> list[Document]:
        del query
        seen.extend([tenant.get(), threading.current_thread()])
        return [Document(texts[0])]

    token = tenant.set("one")
    chat.invoke(QUESTION, retriever=RunnableLambda(documents), timeout=timeout, max_tokens=1)
    tenant.reset(token)
    assert seen[0] == "one"
    assert (seen[1] is threading.current_thread()) == (timeout is None)


@pytest.mark.parametrize("call", [invoke, ainvoke])
def test_a_timeout_error_of_the_retriever_is_raised_unchanged(
    chat: ChatTestTimeFineTuned, call: Callable[..., None]
) -> None:
    def fail(query: str) -> list[Document]:
        raise TimeoutError(query)

    with pytest.raises(TimeoutError) as caught:
        call(chat, retriever=RunnableLambda(fail))
    assert not isinstance(caught.value, RequestTimeout)


# --- the event loop ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("retrieves", [False, True])
async def test_100_requests_do_not_block_the_event_loop_or_its_threads(
    chat: ChatTestTimeFineTuned, store: Chroma, *, retrieves: bool
) -> None:
    settings: dict[str, Any] = {"documents": DOCUMENTS[:2]}
    if retrieves:
        settings = {"retriever": SIFTRetriever(vectorstore=store, k=2)}
        await chat.ainvoke(QUESTION, **settings)
    loop = asyncio.get_running_loop()
    gaps: list[float] = []
    detours: list[float] = []

    async def beat() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            gaps.append(loop.time() - before)

    async def take_a_detour() -> None:
        while True:
            before = loop.time()
            await asyncio.to_thread(time.sleep, 0)
            detours.append(loop.time() - before)
            await asyncio.sleep(0.005)

    others = [asyncio.create_task(beat()), asyncio.create_task(take_a_detour())]
    answers = [chat.ainvoke(QUESTION, max_tokens=4, **settings) for _ in range(100)]
    began = loop.time()
    messages = await asyncio.gather(*answers)
    seconds = loop.time() - began
    for other in others:
        other.cancel()
    assert len({message.content for message in messages}) == 1
    assert len(detours) >= 5
    # Relative to the whole time, since everything takes longer on a busy machine.
    assert statistics.median(detours) < seconds / 20
    assert statistics.median(gaps) < seconds / 20
    # The longest gap is the start of all requests.
    assert sorted(gaps)[-2] < seconds / 2


@pytest.mark.slow
def test_a_model_serves_several_event_loops_in_turn(chat: ChatTestTimeFineTuned) -> None:
    expected = chat.invoke(QUESTION, documents=DOCUMENTS[:2]).content

    async def ask(count: int) -> set[str]:
        answers = (chat.ainvoke(QUESTION, documents=DOCUMENTS[:2]) for _ in range(count))
        return {str(message.content) for message in await asyncio.gather(*answers)}

    assert asyncio.run(ask(1)) == asyncio.run(ask(3)) == {expected}


@pytest.mark.slow
def test_closing_the_event_loop_ends_its_request(chat: ChatTestTimeFineTuned, pace: Pace) -> None:
    pace.step = STEP
    loop = asyncio.new_event_loop()
    ticket = submit(chat)
    events = aiter(ticket)
    loop.run_until_complete(anext(events))
    loop.close()
    begun = pace.begun
    # The current step finds the loop closed when it reports; one more may have begun.
    assert at_rest(chat.engine)
    assert pace.begun - begun <= 2
    with contextlib.suppress(RuntimeError, StopIteration):
        events.aclose().send(None)


# --- the process ------------------------------------------------------------------------------

# Imports everything once, then forks a child for each scenario: a folder with three named pipes for
# its standard streams, and the code that it runs.
LAUNCHER = """
import asyncio, json, os, sys, threading, time
from langchain_core.documents import Document
from transformers.utils.logging import disable_progress_bar
from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.errors import RequestCancelled
from langchain_sift.ttft.training.trainer import Trainer

disable_progress_bar()
gradients = Trainer._gradients

def slow(trainer, first, rows):
    print("step", time.monotonic(), flush=True)
    time.sleep({step})
    return gradients(trainer, first, rows)

Trainer._gradients = slow
chat = ChatTestTimeFineTuned(
    model={model!r}, finetune=FineTuneConfig(lora_rank=2, max_length=32), max_tokens=2
)
documents = [Document("The river carries cold iron.")] * 2000

def ask():
    try:
        chat.invoke("A", documents=documents)
    except RequestCancelled:
        pass

async def leave():
    task = asyncio.create_task(chat.ainvoke("A", documents=documents))
    await asyncio.to_thread(sys.stdin.readline)

def open_streams(folder):
    streams = {{"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}}
    for number, (name, flags) in enumerate(streams.items()):
        os.dup2(os.open(os.path.join(folder, name), flags), number)

while line := sys.stdin.readline():
    folder, code = json.loads(line)
    child = os.fork()
    if child == 0:
        open_streams(folder)
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
exec(code)
"""

INTERRUPTED = {
    "in the main thread": "chat.invoke('A', documents=documents)",
    "in an event loop": "asyncio.run(chat.ainvoke('A', documents=documents))",
    "in a thread pool": "chat.batch(['A', 'B'], documents=documents)",
}
ABANDONED = {
    "in a thread": "threading.Thread(target=ask, daemon=True).start(); sys.stdin.readline()",
    "in a coroutine": "asyncio.run(leave())",
}


@pytest.fixture(scope="module")
def launcher(tiny_model_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the process that forks a child for each scenario."""
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.format(step=LONG_STEP, model=str(tiny_model_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.kill()


class Child:
    """A child of the launcher that runs one scenario, in training."""

    def __init__(self, launcher: subprocess.Popen[str], folder: Path, code: str) -> None:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        for name in ("stdin", "stdout", "stderr"):
            os.mkfifo(folder / name)
        launcher.stdin.write(json.dumps([str(folder), code]) + "\n")
        launcher.stdin.flush()
        self._launcher = launcher.stdout
        self.pid = int(self._launcher.readline())
        self._stdin = (folder / "stdin").open("w")
        self._stdout, self._stderr = (folder / "stdout").open(), (folder / "stderr").open()
        if not any(line.startswith("step") for line in self._stdout):
            pytest.fail(self._stderr.read())

    def end(self, line: str = "") -> tuple[int, str, str]:
        """Write a line to the child; return its exit code, output and errors."""
        with self._stdin, self._stdout, self._stderr:
            self._stdin.write(line)
            self._stdin.flush()
            output, errors = self._stdout.read(), self._stderr.read()
        return int(self._launcher.readline()), output, errors


def steps_since(moment: float, output: str) -> int:
    """Return how many steps began after a moment of the monotonic clock."""
    return sum(float(line.split()[1]) > moment for line in output.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize("where", INTERRUPTED)
def test_ctrl_c_ends_the_process_within_a_step(
    launcher: subprocess.Popen[str], tmp_path: Path, where: str
) -> None:
    child = Child(launcher, tmp_path, INTERRUPTED[where])
    os.kill(child.pid, signal.SIGINT)
    sent = time.monotonic()
    code, output, errors = child.end()
    assert steps_since(sent, output) <= 1
    # Python forgets the signal if PyTorch imports tabulate, where it is installed, at the exit.
    assert code in {-signal.SIGINT, 1}
    assert errors.rstrip().endswith("KeyboardInterrupt")
    # In an event loop, Python first reports the cancellation of the coroutine.
    others = {"asyncio.exceptions.CancelledError"} if where == "in an event loop" else set()
    lines = {line for line in errors.splitlines() if line.endswith(("Error", "Interrupt"))}
    assert lines - others == {"KeyboardInterrupt"}
    for bad in ("Fatal", "ignored", "in thread", "never retrieved", "leaked"):
        assert bad not in errors


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize("where", ABANDONED)
def test_the_process_ends_while_an_abandoned_request_trains(
    launcher: subprocess.Popen[str], tmp_path: Path, where: str
) -> None:
    child = Child(launcher, tmp_path, ABANDONED[where])
    sent = time.monotonic()
    code, output, errors = child.end("go on\n")
    assert steps_since(sent, output) <= 1
    assert (code, errors) == (0, "")
