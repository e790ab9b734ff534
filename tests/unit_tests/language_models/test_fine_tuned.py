"""Test the chat model and the text model: batches, callbacks, settings of a call, caches."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import ValidationError

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
    create_ttft_chain,
)
from langchain_sift.config import Limits
from langchain_sift.errors import (
    ArgumentError,
    EngineOverloaded,
    PromptTooLong,
    RequestTimeout,
    SIFTError,
)
from langchain_sift.language_models.identity import cache_key
from langchain_sift.language_models.profiles import model_profile
from langchain_sift.ttft import Engine
from langchain_sift.ttft.training.trainer import Trainer

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)
QUESTION = "The river carries seven maps"
TOO_LONG = "The river " * 400

Model = ChatTestTimeFineTuned | TestTimeFineTunedLLM


@pytest.fixture
def chat(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=SIFTRetriever(vectorstore=store, k=4, noise_variance=1.0),
        finetune=CONFIG,
        max_tokens=6,
    )


@pytest.fixture
def llm(chat: ChatTestTimeFineTuned) -> TestTimeFineTunedLLM:
    return TestTimeFineTunedLLM(
        model=chat.model,
        tokenizer=chat.tokenizer,
        retriever=chat.retriever,
        finetune=CONFIG,
        max_tokens=6,
    )


@pytest.fixture(params=["chat", "llm"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of prompts of each training batch."""
    sizes: list[int] = []
    train = Trainer.train

    def counting(trainer: Trainer, tasks: Sequence[Any]) -> Any:
        sizes.append(len(tasks))
        return train(trainer, tasks)

    monkeypatch.setattr(Trainer, "train", counting)
    return sizes


def text_of(answer: Any) -> str:
    return str(answer if isinstance(answer, str) else answer.content)


def record_of(chat: ChatTestTimeFineTuned, prompt: str = QUESTION, **settings: Any) -> Any:
    return chat.invoke(prompt, **settings).response_metadata["ttft"]


def comes_true(condition: Callable[[], object], *, within: float = 60.0) -> bool:
    """Wait until a condition is true; return False if it is not in time."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


SINGLE_ANSWERS: dict[tuple[type[Model], str], str] = {}


def single_answers(model: Model, prompts: Sequence[str]) -> list[str]:
    """Return the answer to each prompt by itself; each is generated once for all tests."""
    for prompt in prompts:
        if (type(model), prompt) not in SINGLE_ANSWERS:
            SINGLE_ANSWERS[type(model), prompt] = text_of(model.invoke(prompt))
    return [SINGLE_ANSWERS[type(model), prompt] for prompt in prompts]


# --- batches ----------------------------------------------------------------------------------


def batch(model: Model, prompts: Sequence[str], **settings: Any) -> list[Any]:
    return list(model.batch(list(prompts), **settings))


def abatch(model: Model, prompts: Sequence[str], **settings: Any) -> list[Any]:
    return list(asyncio.run(model.abatch(list(prompts), **settings)))


def generate(model: Model, prompts: Sequence[str]) -> list[Any]:
    assert isinstance(model, TestTimeFineTunedLLM)
    return [generations[0].text for generations in model.generate(list(prompts)).generations]


def agenerate(model: Model, prompts: Sequence[str]) -> list[Any]:
    assert isinstance(model, TestTimeFineTunedLLM)
    result = asyncio.run(model.agenerate(list(prompts)))
    return [generations[0].text for generations in result.generations]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "together"),
    [
        ("chat", batch),
        ("chat", abatch),
        ("llm", batch),
        ("llm", abatch),
        ("llm", generate),
        ("llm", agenerate),
    ],
)
def test_16_prompts_are_trained_in_few_batches_and_answered_in_order(
    request: pytest.FixtureRequest,
    batch_sizes: list[int],
    texts: list[str],
    fixture: str,
    together: Callable[[Model, Sequence[str]], list[Any]],
) -> None:
    model = request.getfixturevalue(fixture)
    prompts = [text[:30] for text in texts[:16]]
    new = [prompt for prompt in prompts if (type(model), prompt) not in SINGLE_ANSWERS]
    expected = single_answers(model, prompts)
    assert len(set(expected)) > 4
    assert batch_sizes == [1] * len(new)
    batch_sizes.clear()
    # On a busy machine as well, the engine waits for the prompts that are being prepared.
    patient = model.model_copy(update={"limits": Limits(gather_seconds=60.0)})
    patient._engine = None
    assert [text_of(answer) for answer in together(patient, prompts)] == expected
    assert sum(batch_sizes) == 16
    assert len(batch_sizes) <= 6
    assert max(batch_sizes) >= 4


class Runs(BaseCallbackHandler):
    """Counts the runs of a model."""

    def __init__(self) -> None:
        self.started = self.failed = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.started += 1

    def on_llm_error(self, *_: Any, **__: Any) -> None:
        self.failed += 1


@pytest.mark.parametrize("together", [batch, abatch])
def test_prompts_of_a_batch_wait_for_each_other_where_there_is_no_room_for_all(
    chat: ChatTestTimeFineTuned, together: Callable[..., list[Any]]
) -> None:
    documents = [Document("The river carries cold iron. " * 4)]
    prompts = [f"The river {number}" for number in range(8)]
    expected = [text_of(chat.invoke(prompt, documents=documents)) for prompt in prompts]
    limited = chat.model_copy(update={"limits": Limits(max_tokens=60)})
    limited._engine = None
    learning = limited.bind(documents=documents)
    admission = limited.engine.admission
    with admission.admit(0) as other:
        other.resize(1)
        # The whole room is taken, and no answer of the batch could make any.
        with pytest.raises(EngineOverloaded, match="max_tokens"):
            together(learning, prompts)
        found = together(learning, prompts, return_exceptions=True)
        assert {type(error) for error in found} == {EngineOverloaded}
    runs = Runs()
    answers = together(learning.with_config(callbacks=[runs]), prompts)
    assert [text_of(answer) for answer in answers] == expected
    assert (runs.started, runs.failed) == (len(prompts), 0)
    assert (admission.requests, admission.tokens) == (0, 0)


def learned(answer: Any) -> int:
    """Return the number of documents that the model has learned for an answer."""
    return int(answer.response_metadata["ttft"]["steps"])


def test_an_iterator_of_documents_serves_all_prompts_of_a_batch(
    chat: ChatTestTimeFineTuned,
) -> None:
    def documents() -> Iterator[Document]:
        return (Document(f"The river carries cold iron, {n}.") for n in range(2))

    prompts = ["The river", "A baker", "A comet"]
    for together in (batch, abatch):
        assert list(map(learned, together(chat, prompts, documents=documents()))) == [2] * 3
    completed = chat.batch_as_completed(prompts, documents=documents())
    assert [learned(answer) for _, answer in completed] == [2] * 3


@pytest.mark.parametrize("retriever", ["a text", lambda query: [Document(query)]])
def test_a_retriever_of_another_type_is_refused(model: Model, retriever: object) -> None:
    with pytest.raises(ArgumentError, match="retriever must be a LangChain retriever"):
        model.invoke("The river", retriever=retriever)


@pytest.mark.parametrize("together", [batch, abatch])
def test_a_failed_prompt_does_not_affect_the_others(
    model: Model, together: Callable[..., list[Any]]
) -> None:
    prompts = ["The river", TOO_LONG, "A baker", "Every comet"]
    found = together(model, prompts, return_exceptions=True)
    assert isinstance(found[1], ArgumentError)
    del found[1], prompts[1]
    assert [text_of(answer) for answer in found] == [text_of(model.invoke(p)) for p in prompts]


@pytest.mark.parametrize("together", [batch, abatch])
def test_without_return_exceptions_a_failure_cancels_the_others(
    chat: ChatTestTimeFineTuned, together: Callable[..., list[Any]]
) -> None:
    training_documents = [Document("The river carries cold iron.")] * 3000
    steps = 0
    begun = threading.Event()

    class Handler(BaseCallbackHandler):
        def on_custom_event(self, *_: object, **__: object) -> None:
            nonlocal steps
            steps += 1
            begun.set()

    def documents(query: str) -> list[Document]:
        if query == "A baker":
            assert begun.wait(60)
            raise LookupError
        return training_documents

    settings = {"retriever": RunnableLambda(documents), "config": {"callbacks": [Handler()]}}
    with pytest.raises(LookupError):
        together(chat, ["The river", "A baker", "Every comet"], **settings)
    assert comes_true(lambda: chat.engine.status().admitted == 0)
    assert 0 < steps < 3000


@pytest.mark.slow
@pytest.mark.parametrize("together", [batch, abatch])
@pytest.mark.parametrize(("given", "most"), [(1, 1), (3, 3), (None, 5)])
def test_concurrency_is_limited_by_the_configuration_or_the_engine(
    chat: ChatTestTimeFineTuned, together: Callable[..., list[Any]], given: int | None, most: int
) -> None:
    """Without a limit in the configuration, no batch is refused for its size."""
    limited = ChatTestTimeFineTuned(
        model=chat.model,
        tokenizer=chat.tokenizer,
        finetune=CONFIG,
        limits=Limits(max_requests=5),
        max_tokens=2,
    )
    most_inside = 0

    def look() -> bool:
        nonlocal most_inside
        most_inside = max(most_inside, limited.engine.status().admitted)
        return most_inside > 1

    def documents(query: str) -> list[Document]:
        assert look() or most == 1 or comes_true(look), "no two are prepared at once"
        return [Document(query)]

    settings: dict[str, Any] = {"retriever": RunnableLambda(documents)}
    if given is not None:
        settings["config"] = {"max_concurrency": given}
    answers = together(limited, ["The river carries"] * 12, **settings)
    assert len({text_of(answer) for answer in answers}) == 1
    assert 1 <= most_inside <= most


def batch_as_completed(model: Model, prompts: Sequence[str], **settings: Any) -> list[Any]:
    found = dict(model.batch_as_completed(list(prompts), **settings))
    return [found[place] for place in range(len(prompts))]


def abatch_as_completed(model: Model, prompts: Sequence[str], **settings: Any) -> list[Any]:
    async def ask() -> dict[int, Any]:
        return {n: one async for n, one in model.abatch_as_completed(list(prompts), **settings)}

    found = asyncio.run(ask())
    return [found[place] for place in range(len(prompts))]


def generate_messages(model: Model, prompts: Sequence[str]) -> list[Any]:
    result = model.generate([[HumanMessage(prompt)] for prompt in prompts])
    return [generations[0].text for generations in result.generations]


def agenerate_messages(model: Model, prompts: Sequence[str]) -> list[Any]:
    result = asyncio.run(model.agenerate([[HumanMessage(prompt)] for prompt in prompts]))
    return [generations[0].text for generations in result.generations]


def chain_batch(model: Model, prompts: Sequence[str]) -> list[Any]:
    chain = create_ttft_chain(model, model.retriever, mode="ttft")
    return [found["answer"] for found in chain.batch([{"input": prompt} for prompt in prompts])]


def chain_abatch(model: Model, prompts: Sequence[str]) -> list[Any]:
    chain = create_ttft_chain(model, model.retriever, mode="ttft")
    found = asyncio.run(chain.abatch([{"input": prompt} for prompt in prompts]))
    return [one["answer"] for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize(
    ("fixture", "together"),
    [
        *(("llm", ask) for ask in (generate, agenerate, batch_as_completed, abatch_as_completed)),
        *(("chat", ask) for ask in (generate_messages, agenerate_messages)),
        *(("chat", ask) for ask in (batch_as_completed, abatch_as_completed)),
        *(("chat", ask) for ask in (chain_batch, chain_abatch)),
    ],
)
def test_no_list_is_refused_for_its_length(
    request: pytest.FixtureRequest, fixture: str, together: Callable[..., list[Any]], most: int
) -> None:
    model = request.getfixturevalue(fixture)
    prompts = ["The river", "A baker", "Every comet", "The engine", "My neighbour", "The old king"]
    expected = single_answers(model, prompts)
    limited = type(model)(
        model=model.model,
        tokenizer=model.tokenizer,
        retriever=model.retriever,
        finetune=CONFIG,
        limits=Limits(max_requests=most),
        max_tokens=6,
    )
    assert [text_of(answer) for answer in together(limited, prompts)] == expected
    assert limited.engine.status().admitted == 0


def test_a_retriever_may_call_the_same_model_while_its_list_is_at_capacity(
    chat: ChatTestTimeFineTuned,
) -> None:
    async def documents(query: str) -> list[Document]:
        hypothesis = await chat.ainvoke(query, documents=[])
        return [Document(f"{query} {hypothesis.text}")]

    chat.limits = Limits(max_batch_size=1)
    asked = chat.model_copy(update={"retriever": RunnableLambda(documents)})
    assert len(agenerate_messages(asked, ["The river", "A baker", "Every comet"])) == 3


def test_an_empty_batch_returns_an_empty_list(model: Model) -> None:
    assert batch(model, []) == abatch(model, []) == []


# --- callbacks --------------------------------------------------------------------------------


class Events(BaseCallbackHandler):
    """Record the events and their runs."""

    def __init__(self) -> None:
        self.starts: list[Any] = []
        self.ends: list[Any] = []
        self.custom: list[tuple[str, dict[str, Any], Any]] = []
        self.retrievers: list[tuple[Any, Any, Any]] = []

    def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.starts.append(run_id)

    def on_llm_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.starts.append(run_id)

    def on_llm_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ends.append(run_id)

    def on_retriever_start(
        self, *_: Any, parent_run_id: Any, tags: Any, metadata: Any, **__: Any
    ) -> None:
        self.retrievers.append((parent_run_id, tags, metadata))

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        if name == "ttft_step":
            self.custom.append((name, data, run_id))


class AsyncEvents(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.custom: list[tuple[str, dict[str, Any], Any]] = []

    async def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        if name == "ttft_step":
            self.custom.append((name, data, run_id))


@pytest.mark.parametrize("together", [batch, abatch])
def test_callbacks_run_once_per_prompt(model: Model, together: Callable[..., list[Any]]) -> None:
    events = Events()
    together(model, ["The river", "A baker", "Every comet"], config={"callbacks": [events]})
    assert len(events.starts) == len(set(events.starts)) == 3
    assert sorted(events.ends) == sorted(events.starts)
    assert sorted(parent for parent, _, _ in events.retrievers) == sorted(events.starts)


def check_steps(custom: list[tuple[str, dict[str, Any], Any]], record: Any) -> None:
    assert len(custom) == 4
    data = [each for _, each, _ in custom]
    assert [each["document"] for each in data] == record["documents"]
    assert [each["loss"] for each in data] == record["losses"]
    assert [each["number"] for each in data] == [1, 2, 3, 4]
    assert sum(each["tokens"] for each in data) == record["tokens"]
    assert json.loads(json.dumps(data)) == data


def test_each_step_is_an_event(chat: ChatTestTimeFineTuned) -> None:
    events = Events()
    record = record_of(chat, config={"callbacks": [events]})
    check_steps(events.custom, record)
    assert {run for _, _, run in events.custom} == set(events.starts)


async def test_asynchronous_handlers_get_each_step(chat: ChatTestTimeFineTuned) -> None:
    events, asynchronous = Events(), AsyncEvents()
    message = await chat.ainvoke(QUESTION, {"callbacks": [events, asynchronous]})
    check_steps(events.custom, message.response_metadata["ttft"])
    assert asynchronous.custom == events.custom


@pytest.mark.slow
@pytest.mark.parametrize("through", ["itself", "a chain", "a chain that does not stream"])
async def test_each_step_is_among_the_streamed_events(
    chat: ChatTestTimeFineTuned, through: str
) -> None:
    async def ask(question: str) -> Any:
        return await chat.ainvoke(question)

    runnable: Any = {
        "itself": chat,
        "a chain": RunnableLambda(lambda question: question) | chat,
        "a chain that does not stream": RunnableLambda(ask),
    }[through]
    events = [event async for event in runnable.astream_events(QUESTION, version="v2")]
    (start,) = (event["run_id"] for event in events if event["event"] == "on_chat_model_start")
    custom = [event for event in events if event["name"] == "ttft_step"]
    check_steps(
        [(event["name"], event["data"], event["run_id"]) for event in custom], record_of(chat)
    )
    assert {event["run_id"] for event in custom} == {start}
    (retrieval,) = (event for event in events if event["event"] == "on_retriever_start")
    assert retrieval["parent_ids"][-1] == start
    first_piece = next(i for i, e in enumerate(events) if e["event"] == "on_chat_model_stream")
    assert events.index(custom[0]) < first_piece


def stream(model: Model, config: Any) -> None:
    list(model.stream(QUESTION, config))


def astream(model: Model, config: Any) -> None:
    async def listen() -> None:
        async for _ in model.astream(QUESTION, config):
            pass

    asyncio.run(listen())


@pytest.mark.parametrize("call", [stream, astream])
def test_a_stream_has_the_same_runs_as_an_invocation(
    model: Model, call: Callable[[Model, Any], None]
) -> None:
    invoked, streamed = Events(), Events()
    config: Any = {"tags": ["mine"], "metadata": {"tenant": "a"}}
    model.invoke(QUESTION, {**config, "callbacks": [invoked]})
    call(model, {**config, "callbacks": [streamed]})
    assert [data for _, data, _ in streamed.custom] == [data for _, data, _ in invoked.custom]
    assert len(streamed.starts) == len(streamed.ends) == 1
    assert {run for _, _, run in streamed.custom} == set(streamed.starts)
    ((parent, tags, metadata),) = streamed.retrievers
    assert [parent] == streamed.starts
    assert "mine" in tags
    assert metadata["tenant"] == "a"


def test_the_models_own_handlers_get_each_step(chat: ChatTestTimeFineTuned) -> None:
    events = Events()
    record = record_of(chat.model_copy(update={"callbacks": [events]}))
    check_steps(events.custom, record)
    assert not events.retrievers  # they are the model's alone, as always in LangChain


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_retrieval_is_a_child_run_with_the_callers_tags_and_metadata(
    model: Model, *, asynchronous: bool
) -> None:
    events = Events()
    config: Any = {"callbacks": [events], "tags": ["mine"], "metadata": {"tenant": "a"}}
    if asynchronous:
        asyncio.run(model.ainvoke(QUESTION, config))
    else:
        model.invoke(QUESTION, config)
    ((parent, tags, metadata),) = events.retrievers
    assert [parent] == events.starts
    assert "mine" in tags
    assert metadata["tenant"] == "a"


# --- records ----------------------------------------------------------------------------------


def test_the_record_has_the_documents_and_their_gains(
    chat: ChatTestTimeFineTuned,
) -> None:
    record = record_of(chat)
    retriever = chat.retriever
    assert isinstance(retriever, SIFTRetriever)
    retrieval = retriever.model_copy(update={"gain_key": "gain"}).invoke(QUESTION)
    assert record["documents"] == [document.id for document in retrieval]
    assert record["gains"] == [document.metadata["gain"] for document in retrieval]
    assert all(type(gain) is float and gain > 0 for gain in record["gains"])
    scored = retriever.retrieve_with_scores(QUESTION, k=1)
    assert record["gains"][0] == pytest.approx(scored.choices[0].gain)
    assert all(type(loss) is float and loss > 0 for loss in record["losses"])
    assert 0 < record["update_norm"] < 1
    assert record["steps"] == 4
    assert record["fallback"] is None
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert json.loads(json.dumps(record)) == record


def test_gains_come_from_the_metadata_of_a_sift_retriever(chat: ChatTestTimeFineTuned) -> None:
    texts = ["The river carries iron.", "x", "A baker measures bread."]
    documents = [
        Document(text, id=text[:1], metadata={"langchain_sift_gain": "much"}) for text in texts
    ]
    record = record_of(chat, documents=documents, min_gain=0.5)
    assert record["documents"] == ["T", "A"]
    assert record["gains"] == [None, None]
    assert record["skipped"] == ["x"]


def test_truncated_documents_are_recorded(chat: ChatTestTimeFineTuned) -> None:
    documents = [Document("short text here", id="a"), Document("The river " * 200, id="b")]
    record = record_of(chat, documents=documents)
    assert record["truncated"] == ["b"]
    assert record["documents"] == ["a", "b"]


# --- settings of a call -----------------------------------------------------------------------


def test_with_too_little_gain_the_base_model_answers_with_the_reason(
    chat: ChatTestTimeFineTuned,
) -> None:
    gain = sum(record_of(chat)["gains"])
    message = chat.invoke(QUESTION, min_gain=gain * 1.01)
    record = message.response_metadata["ttft"]
    assert (record["steps"], record["documents"], record["losses"]) == (0, [], [])
    assert "gain" in record["fallback"]
    assert f"{gain:.3g}" in record["fallback"]
    assert message.content == chat.invoke(QUESTION, documents=[]).content
    assert record_of(chat, min_gain=gain * 0.99)["steps"] == 4


@pytest.mark.parametrize("bound", [False, True])
def test_settings_can_be_arguments_of_a_call_or_bound(
    chat: ChatTestTimeFineTuned, texts: list[str], *, bound: bool
) -> None:
    def record(**settings: Any) -> Any:
        if bound:
            return chat.bind(**settings).invoke(QUESTION).response_metadata["ttft"]
        return record_of(chat, **settings)

    usual = record()
    assert record(k=2)["documents"] == usual["documents"][:2]
    even = record(filter={"even": True})["documents"]
    assert even
    assert all(int(name.removeprefix("text-")) % 2 == 0 for name in even)
    slow = record(learning_rate=1e-3)
    assert slow["losses"][0] == usual["losses"][0]
    assert slow["update_norm"] < usual["update_norm"]
    assert record(steps_per_document=3)["steps"] == 12
    assert record(max_documents=3)["documents"] == usual["documents"][:3]
    lengths = [len(chat.get_token_ids(texts[int(d[5:])])) for d in usual["documents"]]
    assert record(max_train_tokens=sum(lengths[:2]))["documents"] == usual["documents"][:2]
    assert record(max_train_seconds=1e-9)["steps"] == 1
    other = RunnableLambda(lambda _: [Document("A baker measures warm bread", id="other")])
    assert record(retriever=other)["documents"] == ["other"]
    given = [Document("The old king sells small seeds", id="given")]
    assert record(documents=given)["documents"] == ["given"]
    assert record(documents=None)["documents"] == usual["documents"]
    assert record(timeout=None)["documents"] == usual["documents"]


def test_a_call_limits_the_number_of_tokens(chat: ChatTestTimeFineTuned) -> None:
    assert chat.invoke(QUESTION, max_tokens=3).usage_metadata["output_tokens"] == 3
    assert chat.bind(max_tokens=4).invoke(QUESTION).usage_metadata["output_tokens"] == 4


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
def test_an_unknown_setting_is_an_error_with_the_known_names(model: Model, call: str) -> None:
    async def consume(stream: Any) -> None:
        async for _ in stream:
            pass

    prompt = [QUESTION] if "batch" in call else QUESTION

    def ask() -> object:
        result = getattr(model, call)(prompt, learning_rat=1.0)
        if call == "stream":
            return list(result)
        if call == "astream":
            return asyncio.run(consume(result))
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    with pytest.raises(ArgumentError, match=r"'learning_rat'.*documents.*learning_rate"):
        ask()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": "soon"},
        {"timeout": float("nan")},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"learning_rate": -1.0},
        {"steps_per_document": 0},
        {"max_documents": 0},
        {"max_train_tokens": 0},
        {"max_train_seconds": 0},
        {"min_gain": -1},
        {"k": 0},
        {"k": "two"},
        {"documents": "The river"},
        {"documents": Document("The river")},
        {"documents": 3},
        {"stop": ""},
        {"stop": [""]},
        {"stop": 5},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_an_error_before_anything_is_trained(
    model: Model, batch_sizes: list[int], settings: dict[str, Any]
) -> None:
    with pytest.raises((SIFTError, TypeError)):
        model.invoke(QUESTION, **settings)
    assert not batch_sizes
    assert model.engine.status().admitted == 0


async def test_a_timeout_names_the_given_one_and_what_was_done(model: Model) -> None:
    with pytest.raises(RequestTimeout, match=r"prompt was not prepared within 1e-09 s"):
        await model.ainvoke("The river", documents=[], timeout=1e-9)
    with pytest.raises(RequestTimeout, match=r"documents not retrieved within 1e-09 s"):
        await model.ainvoke("The river", timeout=1e-9)


def test_the_same_seed_samples_the_same_answer(model: Model) -> None:
    def ask(**settings: Any) -> str:
        return text_of(model.invoke(QUESTION, temperature=1.0, max_tokens=12, **settings))

    assert ask(seed=3) == ask(seed=3)
    assert len({ask(seed=seed) for seed in range(6)}) > 3
    assert len({ask() for _ in range(6)}) > 3
    greedy = text_of(model.invoke(QUESTION, temperature=0.0, max_tokens=12))
    assert text_of(model.invoke(QUESTION, max_tokens=12)) == greedy
    assert ask(seed=3, top_k=1) == ask(seed=4, top_p=0) == ask(min_p=1) == greedy
    assert text_of(model.bind(repetition_penalty=1e4).invoke(QUESTION, max_tokens=12)) != greedy


def test_a_request_above_max_tokens_is_refused_before_the_retrieval(
    chat: ChatTestTimeFineTuned,
) -> None:
    asked: list[str] = []
    limited = ChatTestTimeFineTuned(
        model=chat.model,
        tokenizer=chat.tokenizer,
        retriever=RunnableLambda(lambda query: asked.append(query) or []),
        finetune=CONFIG,
        limits=Limits(max_tokens=100),
    )
    reservation = limited.engine.admission.admit(1)
    with pytest.raises(EngineOverloaded, match="max_tokens"):
        limited.invoke(QUESTION)
    assert not asked
    reservation.release()


async def test_a_call_with_a_reservation_makes_no_other(chat: ChatTestTimeFineTuned) -> None:
    limited = chat.model_copy(update={"limits": Limits(max_requests=1)})
    limited._engine = None
    engine = limited.engine
    document = [Document("The river carries cold iron.")]
    for call in ({"documents": document}, {"documents": document, "max_tokens": 3}):
        reservation = engine.admission.admit(0)
        with pytest.raises(EngineOverloaded):
            limited.invoke("The river", **call)
        assert limited.invoke("The river", reservation=reservation, **call).text
        assert engine.status().admitted == 0
        assert (
            await limited.ainvoke("The river", reservation=engine.admission.admit(0), **call)
        ).text
        assert engine.status().admitted == 0
    with pytest.raises(PromptTooLong):
        limited.invoke("The river " * 300, reservation=engine.admission.admit(0))
    with pytest.raises(PromptTooLong, match="from 1 to 255 tokens, got more than 512"):
        limited.invoke("The river " * 300_000, reservation=engine.admission.admit(0))
    assert engine.status().admitted == 0
    for wrong in ({"response_format": 1}, {"chat_template_kwargs": 1}, {"top_p": 2}):
        with pytest.raises(ArgumentError):
            limited.invoke("The river", reservation=engine.admission.admit(0), **wrong)
        assert engine.status().admitted == 0


# --- caches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, None, InMemoryCache()])
@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_cache_needs_a_corpus_version(model_class: Any, cache: object) -> None:
    with pytest.raises(ValidationError, match="corpus_version"):
        model_class(model="some/model", cache=cache)
    model_class(model="some/model", cache=cache, corpus_version="1")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_cache_hits_until_the_corpus_version_changes(
    model: Model, batch_sizes: list[int], *, asynchronous: bool
) -> None:
    version = "monday"
    cached = type(model)(
        model=model.model,
        tokenizer=model.tokenizer,
        retriever=model.retriever,
        finetune=CONFIG,
        max_tokens=6,
        cache=InMemoryCache(),
        corpus_version=lambda: version,
    )

    def ask(**settings: Any) -> str:
        if asynchronous:
            return text_of(asyncio.run(cached.ainvoke(QUESTION, **settings)))
        return text_of(cached.invoke(QUESTION, **settings))

    expected = text_of(model.invoke(QUESTION))
    batch_sizes.clear()
    assert [ask() for _ in range(3)] == [expected] * 3
    assert batch_sizes == [1]
    version = "tuesday"
    assert [ask() for _ in range(3)] == [expected] * 3
    assert batch_sizes == [1, 1]
    version = "monday"
    assert ask() == expected
    assert batch_sizes == [1, 1]


def test_a_call_with_other_settings_does_not_hit_the_cache(
    chat: ChatTestTimeFineTuned,
) -> None:
    cached = chat.model_copy(update={"cache": InMemoryCache(), "corpus_version": "1"})
    training_documents = [Document("zebra zebra zebra zebra zebra zebra")] * 12
    usual = cached.invoke("A baker").content
    fine_tuned = cached.invoke("A baker", documents=training_documents).content
    assert fine_tuned == chat.invoke("A baker", documents=training_documents).content != usual
    assert cached.invoke("A baker").content == usual
    assert cached.invoke("A baker", documents=training_documents).content == fine_tuned


@pytest.mark.parametrize("differs", ["retriever", "model"])
def test_another_model_does_not_hit_the_cache(model: Model, differs: str) -> None:
    cache = InMemoryCache()
    others = {
        "retriever": {"retriever": RunnableLambda(lambda _: [Document("zebra " * 9)] * 12)},
        "model": {"model": copy.deepcopy(model.model)},
    }
    with torch.no_grad():
        others["model"]["model"].lm_head.weight.neg_()
    settings = {
        "model": model.model,
        "tokenizer": model.tokenizer,
        "retriever": model.retriever,
        "finetune": CONFIG,
        "max_tokens": 6,
    }
    one = type(model)(**settings, cache=cache, corpus_version="1")
    other = type(model)(**{**settings, **others[differs]}, cache=cache, corpus_version="1")
    alone = type(model)(**{**settings, **others[differs]})
    assert text_of(one.invoke(QUESTION)) != text_of(other.invoke(QUESTION))
    assert text_of(other.invoke(QUESTION)) == text_of(alone.invoke(QUESTION))


def retriever_of(tenant: str) -> RunnableLambda[str, list[Document]]:
    """Return a retriever with the same `repr` as that of other tenants."""
    return RunnableLambda(lambda _: [Document(f"{tenant} " * 9)] * 12)


@pytest.mark.slow
def test_another_tenant_does_not_hit_the_cache(model: Model) -> None:
    settings = {"model": model.model, "tokenizer": model.tokenizer, "finetune": CONFIG}
    tenants = ("zebra", "comet")
    assert len({repr(retriever_of(tenant)) for tenant in tenants}) == 1
    cache = InMemoryCache()

    def ask(tenant: str, **how: Any) -> str:
        kept = type(model)(**settings, max_tokens=6, retriever=retriever_of(tenant), **how)
        return text_of(kept.invoke(QUESTION))

    def ask_with_the_call(tenant: str, **how: Any) -> str:
        kept = type(model)(**settings, max_tokens=6, **how)
        return text_of(kept.invoke(QUESTION, retriever=retriever_of(tenant)))

    def ask_with_documents(tenant: str, **how: Any) -> str:
        kept = type(model)(**settings, max_tokens=6, **how)
        documents = retriever_of(tenant).invoke(QUESTION)
        return text_of(kept.invoke(QUESTION, documents=documents))

    alone = [ask(tenant) for tenant in tenants]
    assert len(set(alone)) == 2
    for asking in (ask, ask_with_the_call, ask_with_documents):
        for _ in range(3):  # the retrievers are gone, and their addresses used again
            found = [asking(one, cache=cache, corpus_version="1") for one in tenants]
            assert found == alone


def test_another_query_or_tokenizer_does_not_hit_the_cache(
    chat: ChatTestTimeFineTuned, batch_sizes: list[int]
) -> None:
    settings = {
        "model": chat.model,
        "tokenizer": chat.tokenizer,
        "retriever": RunnableLambda(lambda query: [Document(f"{query} " * 9)] * 12),
        "finetune": CONFIG,
        "max_tokens": 6,
    }
    cached = {**settings, "cache": InMemoryCache(), "corpus_version": "1"}
    ChatTestTimeFineTuned(**cached).invoke(QUESTION)
    for other in (
        {"retrieval_query": lambda _: "zebra"},
        {"retrieval_query": lambda _: "comet"},
        {"tokenizer": copy.deepcopy(chat.tokenizer)},
    ):
        batch_sizes.clear()
        expected = ChatTestTimeFineTuned(**settings | other).invoke(QUESTION).content
        assert ChatTestTimeFineTuned(**cached | other).invoke(QUESTION).content == expected
        assert batch_sizes == [1, 1]


def test_a_copy_with_the_same_retriever_hits_the_cache(
    model: Model, batch_sizes: list[int]
) -> None:
    cached = model.model_copy(update={"cache": InMemoryCache(), "corpus_version": "1"})
    expected = text_of(cached.invoke(QUESTION))
    configurable = cached.configurable_fields(max_tokens=ConfigurableField("max_tokens"))
    assert batch_sizes == [1]
    assert text_of(cached.model_copy().invoke(QUESTION)) == expected
    assert text_of(configurable.invoke(QUESTION, {"configurable": {"max_tokens": 6}})) == expected
    assert batch_sizes == [1]
    cached.retriever.search_kwargs = {"filter": {"even": True}}
    cached.invoke(QUESTION)
    assert batch_sizes == [1, 1]


def test_an_object_without_weak_references_has_a_new_cache_key_each_time() -> None:
    class Unwatched:
        __slots__ = ()

        def __repr__(self) -> str:
            return "the same"

    one = Unwatched()
    assert cache_key(one) != cache_key(one)
    assert cache_key([one]) != cache_key([one])


# --- one engine, and what is known of the model -----------------------------------------------


def test_copies_share_the_engine(chat: ChatTestTimeFineTuned) -> None:
    expected = chat.invoke(QUESTION).content
    copied = chat.model_copy(update={"max_tokens": 3})
    assert copied.engine is chat.engine
    assert expected.startswith(str(copied.invoke(QUESTION).content))
    again = ChatTestTimeFineTuned(model=chat.model, tokenizer=chat.tokenizer, finetune=CONFIG)
    assert again.engine is chat.engine


def test_a_configurable_model_uses_one_engine(
    chat: ChatTestTimeFineTuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Engine] = []
    begin = Engine.__init__

    def counting(engine: Engine, *args: Any, **kwargs: Any) -> None:
        made.append(engine)
        begin(engine, *args, **kwargs)

    chat.invoke(QUESTION)
    monkeypatch.setattr(Engine, "__init__", counting)
    configurable = chat.configurable_fields(
        max_tokens=ConfigurableField("max_tokens"), finetune=ConfigurableField("finetune")
    )
    for count in (2, 3, 4):
        message = configurable.invoke(QUESTION, {"configurable": {"max_tokens": count}})
        assert message.usage_metadata["output_tokens"] == count
    assert not made
    one_step = FineTuneConfig(lora_rank=4, lora_alpha=8.0, max_documents=1)
    message = configurable.invoke(QUESTION, {"configurable": {"finetune": one_step}})
    assert message.response_metadata["ttft"]["steps"] == 1
    assert not made


def is_freed(engine: Callable[[], object]) -> bool:
    gc.collect()
    return engine() is None


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_configurable_model_is_loaded_once_and_freed_with_its_last_user(
    model_class: Any,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weight_loads: list[str],
) -> None:
    monkeypatch.setattr("langchain_sift.ttft.batching._IDLE_SECONDS", 0.0)
    own = shutil.copytree(tiny_model_path, tmp_path / "model")  # that no other test has loaded
    named = model_class(model=str(own), dtype="float32", max_tokens=2)
    configurable = named.configurable_fields(temperature=ConfigurableField("temperature"))
    before = len(weight_loads)
    for temperature in (0.5, 1.0, 1.5):
        configurable.invoke(QUESTION, {"configurable": {"temperature": temperature}})
        engine = weakref.ref(*named._kept_engine)
        assert not comes_true(partial(is_freed, engine), within=0.1)
    assert len(weight_loads) == before + 1
    assert dumpd(named) == dumpd(model_class(model=str(own), dtype="float32", max_tokens=2))
    del named, configurable
    assert comes_true(partial(is_freed, engine))


@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_path_and_its_string_are_the_same_model(model_class: Any, tiny_model_path: Path) -> None:
    one, other = (model_class(model=kind(tiny_model_path), max_tokens=3) for kind in (Path, str))
    assert text_of(one.invoke(QUESTION)) == text_of(other.invoke(QUESTION))
    assert one.engine is other.engine
    assert dumpd(one) == dumpd(other)


@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"model": 3},
        {"model": b"a folder"},
        {"model": torch.nn.Linear(2, 2)},
        {"model": "some/model", "tokenizer": "some/model"},
        {"model": "some/model", "tokenizer": str.split},
    ],
    ids=str,
)
def test_a_wrong_model_or_tokenizer_is_an_error_at_construction(
    model_class: Any, wrong: dict[str, Any]
) -> None:
    *_, name = wrong
    with pytest.raises(ValidationError, match=f"{name} must be .* of transformers"):
        model_class(**wrong)


def test_a_dump_holds_no_weights_and_no_documents(model: Model) -> None:
    model.invoke(QUESTION)
    dumped = json.dumps(dumpd(model))
    assert len(dumped) < 20_000
    assert "The river" not in dumped


def test_the_context_length_is_known_without_loading_the_weights(
    chat: ChatTestTimeFineTuned, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == 256
    monkeypatch.setattr("langchain_sift.language_models.fine_tuned.load_language_model", None)
    named = ChatTestTimeFineTuned(model=str(tiny_model_path))
    assert named.profile is not None
    assert named.profile["max_input_tokens"] == 256
    assert named._engine is None


def test_the_context_length_of_an_adapter_is_that_of_its_base(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    described = {"base_model_name_or_path": str(tiny_model_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    assert ChatTestTimeFineTuned(model=str(tmp_path)).profile == model_profile(
        str(tiny_model_path), None
    )
