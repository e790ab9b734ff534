"""A model learns documents once, and answers with the trained adapter."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda

from langchain_sift import ChatTestTimeFineTuned, TestTimeFineTunedLLM
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError, RequestTimeout, TrainingError
from langchain_sift.retrieval.scores import ScoredMetadata
from langchain_sift.ttft import TrainedAdapter

FINETUNE = FineTuneConfig(lora_rank=4, lora_alpha=4.0, learning_rate=3e-2)
PROMPT = "Who bakes the bread?"


@pytest.fixture
def model(tiny_model: Any, tiny_tokenizer: Any) -> TestTimeFineTunedLLM:
    return TestTimeFineTunedLLM(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=FINETUNE,
        max_tokens=8,
        temperature=0.0,
    )


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(text, id=str(number)) for number, text in enumerate(texts[:4])]


def test_a_session_answers_as_a_model_that_learns_anew(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    expected = model.invoke(PROMPT, documents=documents)
    with model.learn(documents) as session:
        assert [session.invoke(PROMPT), session.invoke(PROMPT)] == [expected, expected]
        assert session.batch([PROMPT, PROMPT]) == [expected, expected]
        assert "".join(session.stream(PROMPT)) == expected
        assert asyncio.run(session.ainvoke(PROMPT)) == expected
        (generation,) = session.generate([PROMPT]).generations[0]
        record = (generation.generation_info or {})["ttft"]
        assert (record["steps"], record["cached"], record["documents"]) == (4, True, [])
        assert record["seconds"]["training"] == 0.0
    assert model.adapter is None
    assert model.invoke(PROMPT, documents=documents) == expected


def test_a_closed_session_refuses_calls(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    with model.learn(documents) as session:
        pass
    assert session.adapter is None
    with pytest.raises(ArgumentError, match="this session is closed"):
        session.invoke(PROMPT)
    with model as same:
        same.invoke(PROMPT)
    model.invoke(PROMPT)  # it has learned nothing


def test_no_copy_or_cache_of_a_closed_session_answers(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    cached = model.model_copy(update={"cache": InMemoryCache(), "corpus_version": "1"})
    cached.invoke(PROMPT)  # the answer of the base model is in the cache
    with cached.learn(documents) as session:
        configurable = session.configurable_fields(max_tokens=ConfigurableField("max_tokens"))
        adapter = session.adapter
        expected = session.invoke(PROMPT)
    closed: list[Runnable[Any, str]] = [
        session,
        copy.deepcopy(session),
        session.model_copy(update={"max_tokens": 3}),
        session.bind(max_tokens=3),
        configurable,
        configurable.with_config(configurable={"max_tokens": 3}),
        session.with_retry(stop_after_attempt=1),
    ]
    for one in closed:
        with pytest.raises(ArgumentError, match="this session is closed"):
            one.invoke(PROMPT)
        with pytest.raises(ArgumentError, match="this session is closed"):
            one.batch([PROMPT, PROMPT])
    # Another adapter opens it again.
    assert session.model_copy(update={"adapter": adapter}).invoke(PROMPT) == expected
    session.adapter = adapter
    assert session.invoke(PROMPT) == expected


def test_a_session_that_another_thread_closes_never_answers_as_the_base_model(
    model: TestTimeFineTunedLLM, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close the session at each read of one of its two parts, as a thread could."""
    expected = model.invoke(PROMPT, documents=documents)
    assert expected != model.invoke(PROMPT, documents=[])
    adapter = model.learn(documents).adapter
    assert adapter is not None
    more = model.model_copy(update={"adapter": adapter}).learn(documents[:1]).adapter
    assert more is not None
    calls: list[tuple[Callable[[TestTimeFineTunedLLM], object], object]] = [
        (lambda session: session.invoke(PROMPT), expected),
        (lambda session: session.learn(documents[:1]).adapter.fingerprint, more.fingerprint),  # type: ignore[union-attr]
        (lambda session: session._identifying_params["adapter"], adapter.fingerprint),
    ]
    for name, turn, (call, result) in itertools.product(("adapter", "_closed"), range(6), calls):
        session = model.model_copy(update={"adapter": adapter})
        with monkeypatch.context() as patch:
            patch.setattr(type(session), "__getattribute__", _closing(session, name, turn))
            assert _unless_closed(call, session) in (result, "closed")


@pytest.mark.parametrize("name", ["__dict__", "_closed"])
def test_a_pickle_of_a_session_that_closes_is_whole_or_closed(
    model: TestTimeFineTunedLLM,
    documents: list[Document],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    adapter = model.learn(documents).adapter
    for turn in range(3):
        session = model.model_copy(update={"adapter": adapter})
        with monkeypatch.context() as patch:
            patch.setattr(type(session), "__getattribute__", _closing(session, name, turn))
            state = session.__getstate__()
        session.__exit__()
        assert state["__dict__"]["adapter"] is adapter or state["__pydantic_private__"]["_closed"]


def _unless_closed(
    call: Callable[[TestTimeFineTunedLLM], object], session: TestTimeFineTunedLLM
) -> object:
    try:
        found = call(session)
    except ArgumentError as error:
        if "this session is closed" in str(error):
            return "closed"
        raise
    return "closed" if found is None and session._identifying_params["closed"] else found


def _closing(session: object, name: str, turn: int) -> Callable[[object, str], object]:
    """Return `__getattribute__` that closes a session just before one of the reads of a name."""
    reads = itertools.count()

    def read(self: Any, asked: str) -> object:
        if self is session and asked == name and next(reads) == turn:
            self.__exit__()
        return object.__getattribute__(self, asked)

    return read


def test_a_call_of_a_configurable_session_never_opens_it(
    model: TestTimeFineTunedLLM, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close the session at each write of its state, as a thread could."""
    session = model.learn(documents)
    configurable = session.configurable_fields(max_tokens=ConfigurableField("max_tokens"))
    expected = session.invoke(PROMPT)
    set_field = type(session).__setattr__

    def close_first(self: Any, name: str, value: object) -> None:
        if self is session and name == "_closed" and not value:
            session.__exit__()
        set_field(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(type(session), "__setattr__", close_first)
        assert configurable.invoke(PROMPT) == expected
    session.__exit__()
    with pytest.raises(ArgumentError, match="this session is closed"):
        configurable.invoke(PROMPT)


async def test_a_session_of_a_coroutine_closes_as_well(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    async with await model.alearn(documents) as session:
        assert await session.ainvoke(PROMPT) == model.invoke(PROMPT, documents=documents)
    with pytest.raises(ArgumentError, match="this session is closed"):
        await session.ainvoke(PROMPT)


async def test_learning_needs_no_thread_of_the_event_loop(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    expected = model.invoke(PROMPT, documents=documents)
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    other = loop.run_in_executor(None, go_on.wait)
    try:
        session = await asyncio.wait_for(model.alearn(documents), 60)
        assert await asyncio.wait_for(session.ainvoke(PROMPT), 60) == expected
    finally:
        go_on.set()
        await other


def test_learning_in_turns_equals_learning_with_a_fresh_optimizer(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    first = model.learn(documents[:2])
    second = first.learn(documents[2:])
    together = model.learn(documents)
    assert first.adapter is not None
    assert second.adapter is not None
    assert together.adapter is not None
    # The first step of the second training sees what the first training has made of the model.
    assert second.adapter.training.losses[0] == pytest.approx(
        together.adapter.training.losses[2], abs=1e-5
    )
    assert first.adapter.fingerprint != second.adapter.fingerprint
    fresh = model.learn(documents[2:])
    assert fresh.adapter is not None
    assert fresh.adapter.training.losses[0] != pytest.approx(
        second.adapter.training.losses[0], abs=1e-3
    )


def test_an_adapter_is_saved_loaded_and_given_to_a_call(
    model: TestTimeFineTunedLLM, documents: list[Document], tmp_path: Path
) -> None:
    session = model.learn(documents)
    assert session.adapter is not None
    expected = session.invoke(PROMPT)
    loaded = TrainedAdapter.load(session.adapter.save(tmp_path / "adapter"))
    assert loaded.fingerprint == session.adapter.fingerprint
    assert repr(loaded) == repr(session.adapter)
    assert len(repr(loaded)) < 200
    assert model.invoke(PROMPT, adapter=loaded) == expected
    assert model.model_copy(update={"adapter": loaded}).invoke(PROMPT) == expected
    assert copy.deepcopy(session).invoke(PROMPT) == expected
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == loaded.fingerprint  # noqa: S301


def test_documents_of_a_call_take_precedence_over_what_was_learned(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    session = model.learn(documents[:1])
    expected = model.invoke(PROMPT, documents=documents[1:])
    assert session.invoke(PROMPT, documents=documents[1:]) == expected
    assert session.invoke(PROMPT, documents=[]) == model.invoke(PROMPT, documents=[])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_query_is_learned_with_the_retriever(
    model: TestTimeFineTunedLLM, documents: list[Document], *, is_async: bool
) -> None:
    asked = []

    def find(query: str, **kwargs: Any) -> list[Document]:
        asked.append((query, kwargs))
        return documents

    with_retriever = model.model_copy(update={"retriever": RunnableLambda(find)})
    if is_async:
        session = asyncio.run(with_retriever.alearn("bread", k=3))
    else:
        session = with_retriever.learn("bread", k=3)
    assert asked == [("bread", {"k": 3})]
    assert session.invoke(PROMPT) == model.invoke(PROMPT, documents=documents)
    assert len(asked) == 1  # the session does not retrieve


def test_chat_models_learn_too(
    tiny_model: Any, tiny_tokenizer: Any, documents: list[Document]
) -> None:
    chat = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=FINETUNE,
        max_tokens=8,
        temperature=0.0,
    )
    session = chat.learn(documents, learning_rate=1e-2)
    expected = chat.invoke(PROMPT, documents=documents, learning_rate=1e-2)
    assert session.invoke(PROMPT).content == expected.content


def _bound(model: Any, **arguments: object) -> dict[str, Any]:
    """Return the ways to bind arguments to a model."""
    configurable = model.configurable_fields(max_tokens=ConfigurableField(id="length"))
    return {
        "bind": model.bind(**arguments),
        "bind twice": model.with_config(tags=["a"]).bind(**arguments).with_types(),
        "listeners": model.with_listeners().bind(**arguments).with_alisteners(),
        "configurable": configurable.bind(**arguments),
    }


@pytest.mark.parametrize("way", ["bind", "bind twice", "listeners", "configurable"])
@pytest.mark.parametrize("kind", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_what_is_bound_stays_bound_when_a_model_learns(
    kind: type[Any], way: str, tiny_model: Any, tiny_tokenizer: Any, documents: list[Document]
) -> None:
    """A tenant whose filter is bound learns its own documents, each time."""
    asked = []

    def find(query: str, **kwargs: Any) -> list[Document]:
        asked.append((query, kwargs))
        return documents[:1] if kwargs.get("filter") == {"tenant": "a"} else documents

    model = kind(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=RunnableLambda(find),
        finetune=FINETUNE,
        temperature=0.0,
    )
    bound = _bound(model, filter={"tenant": "a"}, learning_rate=1e-2, max_tokens=3)[way]
    once = model.learn(documents[:1], learning_rate=1e-2)
    with bound.learn("bread") as session:
        assert session.adapter.fingerprint == once.adapter.fingerprint
        in_text = once.bind(max_tokens=3) | StrOutputParser()
        assert (session | StrOutputParser()).invoke(PROMPT) == in_text.invoke(PROMPT)
        again = session.learn("river", learning_rate=1e-3)
    twice = once.learn(documents[:1], learning_rate=1e-3)
    assert again.adapter.fingerprint == twice.adapter.fingerprint
    assert asked == [("bread", {"filter": {"tenant": "a"}}), ("river", {"filter": {"tenant": "a"}})]
    assert bound.learn(documents[:1]).adapter.fingerprint == once.adapter.fingerprint
    with pytest.raises(ArgumentError, match="this session is closed"):
        session.invoke(PROMPT)


_WITHOUT_EFFECT: list[dict[str, object]] = [
    {"k": 3},
    {"filter": {"tenant": "a"}},
    {"learning_rate": 1e-2},
    {"objective": "distill"},
    {"max_documents": 1},
]


async def _drained(chunks: Any) -> list[object]:
    return [chunk async for chunk in chunks]


_WAYS_TO_CALL: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "invoke": lambda model, call: model.invoke(PROMPT, **call),
    "batch": lambda model, call: model.batch([PROMPT, PROMPT], **call),
    "stream": lambda model, call: list(model.stream(PROMPT, **call)),
    "ainvoke": lambda model, call: asyncio.run(model.ainvoke(PROMPT, **call)),
    "abatch": lambda model, call: asyncio.run(model.abatch([PROMPT], **call)),
    "astream": lambda model, call: asyncio.run(_drained(model.astream(PROMPT, **call))),
    "bind": lambda model, call: model.bind(**call).invoke(PROMPT),
}


@pytest.mark.parametrize("way", _WAYS_TO_CALL)
@pytest.mark.parametrize("kind", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_model_that_has_learned_refuses_settings_without_effect(
    kind: type[Any], way: str, tiny_model: Any, tiny_tokenizer: Any, documents: list[Document]
) -> None:
    """An answer of its adapter retrieves and trains nothing."""
    own: dict[str, Any] = {"finetune": FINETUNE, "temperature": 0.0, "max_tokens": 4}
    model = kind(model=tiny_model, tokenizer=tiny_tokenizer, **own)
    call, session = _WAYS_TO_CALL[way], model.learn(documents)
    for settings in _WITHOUT_EFFECT:
        (name,) = settings
        with pytest.raises(ArgumentError, match=f"'{name}' has no effect on the answer"):
            call(session, settings)
        with pytest.raises(ArgumentError, match=f"'{name}' has no effect on the answer"):
            call(model, {**settings, "adapter": session.adapter})
        call(session, {**settings, "documents": documents})  # these are learned anew
    with_effect = {"stop": ["x"], "max_tokens": 2, "seed": 1, "timeout": 60.0}
    call(session, {**with_effect, "context": documents[:1], "k": None})


def test_what_was_bound_when_a_model_learned_is_no_reason_to_refuse_its_calls(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    bound: Any = model.bind(filter={"tenant": "a"}, learning_rate=1e-2)
    session = bound.learn(documents)
    expected = model.learn(documents, learning_rate=1e-2).invoke(PROMPT)
    assert session.bind(max_tokens=8).invoke(PROMPT, learning_rate=1e-2) == expected
    for settings in ({"learning_rate": 1e-3}, {"filter": {"tenant": "b"}}, {"k": 2}):
        with pytest.raises(ArgumentError, match="has no effect on the answer"):
            session.invoke(PROMPT, **settings)


@pytest.mark.parametrize("way", ["configured", "bound, then configured", "configured, then bound"])
async def test_a_model_learns_with_what_is_configured(
    model: TestTimeFineTunedLLM, documents: list[Document], way: str
) -> None:
    """The fields stay configurable, and the end of a `with` block closes the model."""
    other = FineTuneConfig(lora_rank=2, lora_alpha=4.0, learning_rate=1e-2)
    fields = {"finetune": ConfigurableField("recipe"), "max_tokens": ConfigurableField("length")}
    configurable: Any = model.configurable_fields(**fields)  # type: ignore[arg-type]
    chosen = {"recipe": other}
    configured = {
        "configured": lambda: configurable.with_config(configurable=chosen),
        "bound, then configured": lambda: configurable.bind(seed=1).with_config(
            configurable=chosen
        ),
        "configured, then bound": lambda: configurable.with_config(configurable=chosen).bind(
            seed=1
        ),
    }[way]()
    alone = model.model_copy(update={"finetune": other}).learn(documents)
    with configured.learn(documents) as session:
        assert session.invoke(PROMPT) == alone.invoke(PROMPT)
        shorter = {"configurable": {"length": 2}}
        assert session.invoke(PROMPT, shorter) == alone.invoke(PROMPT, max_tokens=2)
        twice = session.learn(documents[:1])
        assert twice.invoke(PROMPT) == alone.learn(documents[:1]).invoke(PROMPT)
    async with await configured.alearn(documents) as another:
        assert await another.ainvoke(PROMPT) == alone.invoke(PROMPT)
    for closed in (session, another):
        with pytest.raises(ArgumentError, match="this session is closed"):
            closed.invoke(PROMPT)


async def test_a_coroutine_learns_with_what_is_bound(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    bound: Any = model.bind(learning_rate=1e-2)
    expected = model.learn(documents, learning_rate=1e-2).invoke(PROMPT)
    async with await bound.alearn(documents) as session:
        assert await session.ainvoke(PROMPT) == expected
    with pytest.raises(ArgumentError, match="this session is closed"):
        await session.ainvoke(PROMPT)


def test_a_model_that_is_bound_to_documents_does_not_learn(
    model: TestTimeFineTunedLLM, documents: list[Document]
) -> None:
    """Its calls would not answer with what it learned."""
    adapter = model.learn(documents).adapter
    retriever = RunnableLambda(lambda _: documents)
    for name, value in {"documents": documents, "retriever": retriever, "adapter": adapter}.items():
        bound: Any = model.bind(**{name: value})
        with pytest.raises(ArgumentError, match=f"'{name}' is bound to the model"):
            bound.learn(documents)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"adapter": "folder"}, "adapter must be a TrainedAdapter.*got a str"),
        ({"adapter": object()}, "adapter must be a TrainedAdapter.*got a object"),
    ],
)
def test_what_is_no_adapter_is_refused(
    model: TestTimeFineTunedLLM, call: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        model.invoke(PROMPT, **call)
    with pytest.raises(ValueError, match=message):
        TestTimeFineTunedLLM(model="any", **call)
    with pytest.raises(ArgumentError, match=message):
        model.model_copy(update=call)
    with pytest.raises(ArgumentError, match=message):
        model.adapter = call["adapter"]


def test_bad_learning_is_refused(model: TestTimeFineTunedLLM, documents: list[Document]) -> None:
    adapter = model.learn(documents).adapter
    with pytest.raises(ArgumentError, match="either adapter or documents"):
        model.invoke(PROMPT, adapter=adapter, documents=documents)
    retriever = RunnableLambda(lambda _: documents)
    for nothing in ([], None):
        with pytest.raises(TrainingError, match="no document to train on"):
            model.model_copy(update={"retriever": retriever}).learn(nothing)
    with pytest.raises(TrainingError, match="no document to train on"):
        model.learn(documents).learn([Document("")])
    known = [Document("The river is cold.")]
    known[0].metadata = ScoredMetadata({}, "gain", 0.1)
    with pytest.raises(TrainingError, match=r"gain, 0\.1, is below 0\.2"):
        model.learn(known, min_gain=0.2)
    assert model.learn(known, min_gain=0.1).adapter is not None
    with pytest.raises(ArgumentError, match="a query needs a retriever"):
        model.learn("bread")
    with pytest.raises(ArgumentError, match="the query is empty"):
        model.learn(" ", retriever=retriever)
    with pytest.raises(ArgumentError, match="'topics' is no setting"):
        model.learn(documents, topics=3)
    for settings in ({"max_tokens": 3}, {"seed": 1}, {"context": documents}, {"stop": ["x"]}):
        for learned in ("bread", documents):
            with pytest.raises(ArgumentError, match="has no effect on learning: pass it to the c"):
                model.learn(learned, **settings)
    for settings in ({"k": 1}, {"filter": {"a": 1}}, {"retriever": retriever}):
        with pytest.raises(ArgumentError, match="has no effect on documents that are given"):
            model.learn(documents, **settings)
    assert model.learn(documents, k=None, filter=None, retriever=None).adapter is not None
    with pytest.raises(RequestTimeout, match=r"not learned within 1e-09 s: raise timeout"):
        model.learn(documents, timeout=1e-9)
    other = model.model_copy(update={"finetune": FineTuneConfig(lora_rank=2, lora_alpha=4.0)})
    with pytest.raises(ArgumentError, match="does not fit another model"):
        other.invoke(PROMPT, adapter=adapter)
