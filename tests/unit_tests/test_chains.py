"""Test `create_ttft_chain` in its four modes."""

# ruff: noqa: ARG002 - a callback handler's signatures are LangChain's

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
    create_ttft_chain,
)
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable, TableSettings
from langchain_sift.config import MODES
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.modes import table_settings_of
from langchain_sift.stores.interface import adapter_for

QUESTION = "Who repairs the broken clock near the border?"
SHOW = ("rag", "both", "auto")
CONFIG = FineTuneConfig(lora_rank=4, learning_rate=0.05, max_length=64)


@pytest.fixture(params=[ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def llm(request, tiny_model, tiny_tokenizer):
    return request.param(model=tiny_model, tokenizer=tiny_tokenizer, finetune=CONFIG, max_tokens=12)


@pytest.fixture
def retriever(store):
    return SIFTRetriever(vectorstore=store, k=6, noise_variance=1.0)


class Runs(BaseCallbackHandler):
    """Record the parent of each run."""

    def __init__(self):
        self.parents, self.retrieved, self.prompts, self.losses = {}, [], [], []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
        self.parents[run_id] = parent_run_id

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, **kwargs):
        self.retrieved.append((query, parent_run_id))

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.prompts.append(messages[0][-1].content)

    def on_llm_start(self, serialized, prompts, **kwargs):
        self.prompts.append(prompts[0])

    def on_custom_event(self, name, data, *, run_id, **kwargs):
        self.losses.append(data["loss"])


def test_the_base_model_answers_alone(llm, retriever):
    runs = Runs()
    chain = create_ttft_chain(llm, retriever, mode="base")
    found = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    assert found["context"] == []
    assert runs.retrieved == []
    assert runs.prompts[0].endswith(QUESTION)
    expected = (llm.bind(documents=[]) | StrOutputParser()).invoke(QUESTION)
    assert found == {"input": QUESTION, "context": [], "answer": expected}


@pytest.mark.parametrize("replace", [False, True])
def test_fine_tuning_uses_the_retriever_s_choice_and_no_context(llm, retriever, replace):
    runs = Runs()
    settings = {"noise_variance": 30.0, "search_kwargs": {"replace": replace}}
    retriever = retriever.model_copy(update=settings)
    chain = create_ttft_chain(llm, retriever, mode="ttft")
    found = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    assert found["context"] == retriever.invoke(QUESTION)
    assert (len({document.id for document in found["context"]}) < 6) is replace
    assert runs.prompts[0].endswith(QUESTION)
    assert "documents" not in runs.prompts[0]
    learned = llm.bind(documents=found["context"])
    assert found["answer"] == (learned | StrOutputParser()).invoke(QUESTION)
    assert (
        found["answer"]
        != create_ttft_chain(llm, retriever, mode="base").invoke({"input": QUESTION})["answer"]
    )


def test_rag_shows_as_many_different_documents_with_replace_as_without(llm, retriever):
    """One retriever serves all modes, and a repeat in a prompt says nothing."""
    settings = {"noise_variance": 30.0, "search_kwargs": {"replace": True}}
    repeating = retriever.model_copy(update=settings)
    assert len({document.id for document in repeating.invoke(QUESTION)}) < 6
    found = create_ttft_chain(llm, repeating, mode="rag").invoke({"input": QUESTION})
    once = retriever.model_copy(update={"noise_variance": 30.0}).invoke(QUESTION)
    assert found["context"] == once
    assert repeating.search_kwargs == {"replace": True}
    bound = retriever.model_copy(update={"noise_variance": 30.0}).bind(replace=True)
    for wrapped in (bound, bound.with_config(tags=["mine"])):
        found = create_ttft_chain(llm, wrapped, mode="rag").invoke({"input": QUESTION})
        assert found["context"] == once


def fail(_):
    raise ConnectionError


@pytest.mark.parametrize(
    "wrap",
    [
        lambda retriever: retriever.with_config(tags=["mine"]),
        lambda retriever: retriever.bind(k=6),
        lambda retriever: retriever.with_retry().with_config(tags=["mine"]),
        lambda retriever: retriever.with_fallbacks([retriever]).with_config(tags=["mine"]),
        lambda retriever: RunnableLambda(fail).with_fallbacks([retriever]),
    ],
    ids=["with_config", "bind", "with_retry", "with_fallbacks", "fallback"],
)
def test_a_wrapped_retriever_is_used_as_the_retriever_in_it(llm, retriever, wrap):
    """The table and `min_gain` need the gains, which only the retriever inside can add."""
    figures = {"base": ModeFigures(0.0, 1.0), "both": ModeFigures(0.5, 2.0)}
    modes = ModeTable((ModeBin(1.0, 5, figures),))
    wrapped = wrap(retriever.model_copy(update={"search_kwargs": {"replace": True}}))
    found = create_ttft_chain(llm, wrapped, mode="auto", modes=modes).invoke({"input": QUESTION})
    assert found["mode"].mode == "both"
    assert "5 prompts" in found["mode"].reason
    shown = create_ttft_chain(llm, wrapped, mode="rag").invoke({"input": QUESTION})["context"]
    assert shown == retriever.invoke(QUESTION)
    never = llm.model_copy(update={"finetune": replace(CONFIG, min_gain=1.0)})
    answers = [
        create_ttft_chain(never, wrapped, mode=mode).invoke({"input": QUESTION})["answer"]
        for mode in ("ttft", "base")
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("result", [None, "text", ["text"], Document("text"), 3])
@pytest.mark.parametrize("mode", ["rag", "ttft", "auto"])
def test_a_retriever_of_another_kind_must_return_documents(llm, result, mode):
    chain = create_ttft_chain(llm, RunnableLambda(lambda _: result), mode=mode)
    with pytest.raises(ArgumentError, match="the retriever's result must be"):
        chain.invoke({"input": QUESTION})
    made = (document for document in [Document("Rice grows in wet fields.")])
    chain = create_ttft_chain(llm, RunnableLambda(lambda _: made), mode=mode)
    assert len(chain.invoke({"input": QUESTION})["context"]) == 1


@pytest.mark.parametrize("gain_key", [None, "gain"])
def test_documents_with_too_little_gain_are_not_trained_on(llm, retriever, gain_key):
    choices = retriever.retrieve_with_scores(QUESTION).choices
    gain = sum(choice.gain for choice in choices)
    retriever = retriever.model_copy(update={"gain_key": gain_key})
    answers = []
    for least in (0.0, gain * 0.99, gain * 1.01):
        recipe = FineTuneConfig(lora_rank=4, learning_rate=0.05, max_length=64, min_gain=least)
        learner = llm.model_copy(update={"finetune": recipe})
        found = create_ttft_chain(learner, retriever, mode="ttft").invoke({"input": QUESTION})
        answers.append(found["answer"])
    base = create_ttft_chain(llm, retriever, mode="base").invoke({"input": QUESTION})["answer"]
    assert answers == [answers[0], answers[0], base]
    assert answers[0] != base


def test_auto_is_the_chain_of_the_mode_that_it_chooses(llm, retriever):
    """The table has one mode that pays for all prompts, so each mode is chosen once."""
    for mode in MODES:
        figures = {name: ModeFigures(float(name == mode), 1.0) for name in MODES}
        modes = ModeTable((ModeBin(1.0, 5, {**figures}),))
        auto = create_ttft_chain(llm, retriever, mode="auto", modes=modes)
        found = auto.invoke({"input": QUESTION})
        assert found["mode"].mode == mode
        assert "5 prompts" in found["mode"].reason
        expected = create_ttft_chain(llm, retriever, mode=mode).invoke({"input": QUESTION})
        assert found["answer"] == expected["answer"]
        if mode != "base":  # which retrieves nothing
            assert found["context"] == expected["context"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda r: r.with_config(tags=["mine"]), None),
        (lambda r: r.model_copy(update={"k": 3}), "k = 2, and the settings here are k = 3"),
        (lambda r: r.bind(k=3), "k = 2, and the settings here are k = 3"),
        (
            lambda r: r.model_copy(update={"search_kwargs": {"noise_variance": 0.5}}),
            "λ' = 0.1, and the settings here are λ' = 0.5",
        ),
    ],
)
def test_a_table_of_other_settings_is_named(llm, retriever, change, difference):
    modes = ModeTable(
        (ModeBin(1.0, 5, {"base": ModeFigures(0.0, 1.0)}),), TableSettings(2, 0.1, model="another")
    )
    measured = retriever.model_copy(update={"k": 2, "noise_variance": 0.1, "kernel": "linear"})
    changed = change(measured)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        create_ttft_chain(llm, changed, mode="rag", modes=modes)
        create_ttft_chain(llm, RunnableLambda(lambda _: []), mode="auto", modes=modes)
        assert caught == []
        create_ttft_chain(llm, changed, mode="auto", modes=modes)
    found = [str(warning.message) for warning in caught]
    assert [difference in message for message in found] == ([] if difference is None else [True])
    with pytest.warns(UserWarning, match="no context_k, and the settings here are context_k = 1"):
        create_ttft_chain(llm, measured, mode="auto", modes=modes, context_k=1)


class OfKernel(DeterministicFakeEmbedding):
    """Embeddings that bring their own kernel."""

    kernel: str = "rbf"
    noise_variance: float = 2.0


@pytest.mark.parametrize(
    "fields",
    [{}, {"candidate_search": "residual"}, {"kernel": "rbf", "length_scale": 0.5}],
    ids=str,
)
def test_a_table_is_compared_with_the_settings_that_the_retriever_uses(fields):
    store = InMemoryVectorStore(OfKernel(size=4))
    retriever = SIFTRetriever(vectorstore=store, k=2, **fields)
    used = retriever._settings({}, adapter_for(store)).selection
    expected = TableSettings(2, used.noise_variance, used.kernel, used.length_scale)
    assert table_settings_of(retriever, None) == expected
    assert table_settings_of(retriever, 1) == replace(expected, context_k=1)


def test_auto_without_a_table_follows_the_room_for_documents(llm, retriever):
    chosen = []
    for k, max_tokens in ((2, 12), (40, 12), (2, 12)):
        model = llm.model_copy(update={"max_tokens": max_tokens})
        chain = create_ttft_chain(model, retriever.model_copy(update={"k": k}), mode="auto")
        chosen.append(chain.invoke({"input": QUESTION})["mode"].mode)
    assert chosen == ["rag", "both", "rag"]
    empty = create_ttft_chain(llm, RunnableLambda(lambda _: []), mode="auto")
    assert empty.invoke({"input": QUESTION})["mode"].mode == "base"


@pytest.mark.parametrize("mode", ["rag", "both"])
def test_the_prompt_has_each_document_once(llm, retriever, mode):
    runs = Runs()
    chain = create_ttft_chain(llm, retriever.model_copy(update={"k": 2}), mode=mode)
    found = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    for document in found["context"]:
        assert runs.prompts[0].count(document.page_content) == 1
    assert runs.prompts[0].endswith(QUESTION)


@pytest.mark.parametrize("mode", ["rag", "both"])
def test_the_most_informative_documents_are_in_the_prompt_and_all_are_learned(llm, retriever, mode):
    runs = Runs()
    chain = create_ttft_chain(llm, retriever, mode=mode, context_k=2)
    found = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    documents = retriever.invoke(QUESTION)
    assert [document.id for document in found["context"]] == [each.id for each in documents]
    first, second, *others = (document.page_content for document in documents)
    assert f"{second}\n\n{first}\n\n{QUESTION}" in runs.prompts[0]
    assert not any(text in runs.prompts[0] for text in others)
    if mode == "both":
        calls = {"documents": documents, "context": documents[:2]}
        learned = llm.bind(**calls) | StrOutputParser()
        assert found["answer"] == learned.invoke(QUESTION)


def test_any_model_reads_the_most_informative_document_last(retriever):
    runs = Runs()
    chain = create_ttft_chain(FakeListChatModel(responses=["an answer"]), retriever, context_k=3)
    chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    shown = [document.page_content for document in retriever.invoke(QUESTION)[:3]]
    assert "\n\n".join([*reversed(shown), QUESTION]) in runs.prompts[0]


def test_auto_shows_no_more_documents_than_asked(llm, retriever):
    runs, usual = Runs(), create_ttft_chain(llm, retriever, mode="auto").invoke({"input": QUESTION})
    chain = create_ttft_chain(llm, retriever, mode="auto", context_k=2)
    found = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    assert found["mode"] == usual["mode"]
    texts = [document.page_content for document in found["context"]]
    assert [text in runs.prompts[0] for text in texts] == [True] * 2 + [False] * 4


def test_copies_of_a_document_do_not_count(llm):
    first, second, third = (Document(f"{name} repairs clocks.") for name in ("Ada", "Bo", "Cy"))
    runs, retriever = Runs(), RunnableLambda(lambda _: [first, first, second, third])
    chain = create_ttft_chain(llm, retriever, mode="both", context_k=2)
    chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    assert f"answer.\n\nBo repairs clocks.\n\nAda repairs clocks.\n\n{QUESTION}" in runs.prompts[0]


@pytest.mark.slow
def test_a_teacher_answers_the_question_without_the_documents_of_its_prompt(llm):
    """With documents in the prompt, the lessons are those without, as in a call with `context=`."""
    learner = llm.model_copy(update={"finetune": replace(CONFIG, objective="distill")})
    documents = [Document("A miller by the bridge sells bread."), Document("The river is cold.")]
    losses = {}
    for mode in ("ttft", "both"):
        runs = Runs()
        chain = create_ttft_chain(learner, RunnableLambda(lambda _: documents), mode=mode)
        answer = chain.invoke({"input": QUESTION}, {"callbacks": [runs]})["answer"]
        losses[mode] = runs.losses
    assert losses["both"] == pytest.approx(losses["ttft"], abs=1e-5)
    called = learner.invoke(QUESTION, documents=documents, context=documents)
    assert answer == (called if isinstance(called, str) else called.content)


def test_a_model_that_has_learned_answers_with_its_adapter(llm):
    documents, shown = [Document("A miller sells bread.")], [Document("The river is cold.")]
    expected = [
        llm.bind(documents=documents, context=context) | StrOutputParser()
        for context in ([], shown)
    ]
    asked = []
    retriever = RunnableLambda(lambda query: asked.append(query) or shown)
    with llm.learn(documents) as session:
        for mode, answers in zip(("ttft", "both"), expected, strict=True):
            found = create_ttft_chain(session, retriever, mode=mode).invoke({"input": QUESTION})
            assert found["answer"] == answers.invoke(QUESTION)
        assert asked == [QUESTION]  # of "both" alone
        for mode in ("base", "rag", "auto"):
            with pytest.raises(ArgumentError, match=f"has learned, and mode '{mode}' would not"):
                create_ttft_chain(session, retriever, mode=mode)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda llm: llm.with_config(tags=["mine"]),
        lambda llm: llm.bind(stop=["never"]).with_config(tags=["mine"]),
        lambda llm: llm.with_retry(),
        lambda llm: llm.configurable_fields(max_tokens=ConfigurableField("max_tokens")),
        lambda llm: llm.bind(temperature=0.0) | StrOutputParser(),
    ],
    ids=["with_config", "bind", "with_retry", "configurable_fields", "sequence"],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_model_is_used_as_the_model_in_it(llm, retriever, wrap, mode):
    """The model's own retriever is never asked, and only the chain's documents are learned."""
    asked = []
    own = RunnableLambda(lambda query: asked.append(query) or [Document("A miller sells bread.")])
    llm = llm.model_copy(update={"retriever": own, "temperature": 0.0})
    expected = create_ttft_chain(llm, retriever, mode=mode).invoke({"input": QUESTION})
    found = create_ttft_chain(wrap(llm), retriever, mode=mode).invoke({"input": QUESTION})
    assert found == expected
    assert asked == []


def test_a_wrapped_model_that_has_learned_answers_with_its_adapter(llm, retriever):
    session = llm.learn([Document("A miller sells bread.")])
    expected = StrOutputParser().invoke(session.invoke(QUESTION))
    for wrapped in (session.with_retry(), llm.bind(adapter=session.adapter)):
        chain = create_ttft_chain(wrapped, retriever, mode="ttft")
        assert chain.invoke({"input": QUESTION})["answer"] == expected
        with pytest.raises(ArgumentError, match="has learned, and mode 'rag' would not"):
            create_ttft_chain(wrapped, retriever, mode="rag")


def test_the_room_for_documents_follows_the_bound_number_of_tokens(llm):
    documents = [Document("The clock was repaired by Ada. " * 4)] * 1
    documents += [Document(f"Sentence {n} of the handbook. " * 4) for n in range(40)]
    retriever = RunnableLambda(lambda _: documents)
    shown = []
    for model in (llm.model_copy(update={"max_tokens": 100}), llm.bind(max_tokens=100), llm):
        runs = Runs()
        create_ttft_chain(model, retriever).invoke({"input": QUESTION}, {"callbacks": [runs]})
        shown.append(runs.prompts)
    assert shown[0] == shown[1] != shown[2]


def test_a_model_behind_fallbacks_does_not_learn_unseen(llm, retriever):
    other = FakeListChatModel(responses=["an answer"])
    own = llm.model_copy(update={"retriever": retriever})
    learned = llm.learn([Document("A miller sells bread.")])
    for model in (own, learned, own.bind(stop=["x"])):
        for wrapped in (
            other.with_fallbacks([model]),
            model.with_fallbacks([other]),
            model.configurable_alternatives(ConfigurableField("llm"), other=other),
        ):
            with pytest.raises(ArgumentError, match="fallbacks or alternatives must not hold"):
                create_ttft_chain(wrapped, retriever, mode="rag")
    chain = create_ttft_chain(other.with_fallbacks([llm]), retriever, mode="rag")
    assert chain.invoke({"input": QUESTION})["answer"] == "an answer"


def test_rag_equals_a_retrieval_chain_of_the_base_model(llm, retriever):
    few = retriever.model_copy(update={"k": 2})
    prompt = PromptTemplate.from_template("{context}\n{input}")

    def show(values):
        last = [document.page_content for document in reversed(values["context"])]
        return {**values, "context": "\n\n".join(last)}

    combine = RunnableLambda(show) | prompt | llm.bind(documents=[]) | StrOutputParser()
    expected = create_retrieval_chain(few, combine).invoke({"input": QUESTION})
    found = create_ttft_chain(llm, few, mode="rag", prompt=prompt).invoke({"input": QUESTION})
    assert found == expected


HISTORY = [HumanMessage("I repair clocks."), AIMessage("Where is the clock?")]


def conversation(*, optional=False):
    history = MessagesPlaceholder("chat_history", optional=optional)
    return ChatPromptTemplate.from_messages(
        [("system", "{context}"), history, ("human", "{input}")]
    )


class Messages(BaseCallbackHandler):
    """Record the prompts of a chat model."""

    def __init__(self):
        self.prompts = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.prompts += messages


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # of `as_tool`
@pytest.mark.parametrize("optional", [False, True])
def test_the_prompt_gets_whatever_the_chain_was_called_with(retriever, optional):
    prompt = conversation(optional=optional)
    model, few = FakeListChatModel(responses=["an answer"]), retriever.model_copy(update={"k": 1})
    asked = {"input": QUESTION, "chat_history": HISTORY, "unused": 1}
    runs = [Messages(), Messages()]
    expected = create_retrieval_chain(few, create_stuff_documents_chain(model, prompt))
    chain = create_ttft_chain(model, few, prompt=prompt)
    assert chain.invoke(asked, {"callbacks": runs[:1]}) == expected.invoke(
        asked, {"callbacks": runs[1:]}
    )
    assert runs[0].prompts == runs[1].prompts
    assert runs[0].prompts[0][1:3] == HISTORY
    schema = chain.get_input_jsonschema()
    assert {*schema["properties"]} == {"input", "chat_history"}
    assert ("chat_history" in schema["required"]) is not optional
    if optional:
        tool = chain.as_tool(name="ask", description="Answers questions.")
        assert tool.invoke({"input": QUESTION}) == {**chain.invoke({"input": QUESTION}),
                                                    "chat_history": None}  # fmt: skip


@pytest.mark.parametrize("mode", ["base", "rag"])
@pytest.mark.parametrize("takes_all", [False, True])
def test_a_question_under_another_key_is_an_error_that_names_the_key(retriever, mode, takes_all):
    if takes_all:
        retriever = create_history_aware_retriever(
            FakeListChatModel(responses=["a question"]), retriever, conversation()
        )
    chain = create_ttft_chain(FakeListChatModel(responses=["an answer"]), retriever, mode=mode)
    with pytest.raises(ArgumentError, match=r'takes \{"input": question\}, got \'question\''):
        chain.invoke({"question": QUESTION})


@pytest.mark.parametrize("mode", ["rag", "both", "auto"])
def test_a_fine_tuned_model_reads_the_history_too(llm, retriever, mode):
    few = retriever.model_copy(update={"k": 1})
    chain = create_ttft_chain(llm, few, mode=mode, prompt=conversation())
    found = chain.invoke({"input": QUESTION, "chat_history": HISTORY})
    shown = found["context"][0].page_content
    prompt = conversation().invoke({**found, "context": shown})
    documents = found["context"] if mode == "both" else []
    assert found["answer"] == (llm.bind(documents=documents) | StrOutputParser()).invoke(prompt)


def test_a_history_aware_retriever_gets_the_history(retriever):
    query = "clocks at the border"
    rephrase = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    model = FakeListChatModel(responses=[query, "an answer"])
    aware = create_history_aware_retriever(model, retriever, rephrase)
    chain = create_ttft_chain(model, aware, prompt=conversation())
    found = chain.invoke({"input": "Who repairs it?", "chat_history": HISTORY})
    assert found["context"] == retriever.invoke(query)
    found = chain.invoke({"input": QUESTION, "chat_history": []})
    assert found["context"] == retriever.invoke(QUESTION)


@pytest.mark.parametrize("mode", ["rag", "ttft", "both"])
def test_the_retrieval_is_a_run_within_the_chains(llm, retriever, mode):
    runs = Runs()
    chain = create_ttft_chain(llm, retriever.model_copy(update={"k": 2}), mode=mode)
    chain.invoke({"input": QUESTION}, {"callbacks": [runs]})
    [(query, parent)] = runs.retrieved
    assert query == QUESTION
    while runs.parents[parent] is not None:
        parent = runs.parents[parent]
    assert parent == next(iter(runs.parents))


async def test_streams_and_batches_equal_single_answers(llm, retriever):
    chain = create_ttft_chain(llm, retriever, mode="ttft")
    expected = chain.invoke({"input": QUESTION})
    pieces = [piece["answer"] for piece in chain.stream({"input": QUESTION}) if "answer" in piece]
    assert "".join(pieces) == expected["answer"]
    assert await chain.ainvoke({"input": QUESTION}) == expected
    assert chain.batch([{"input": QUESTION}] * 2) == [expected] * 2


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # of `as_tool`
@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_a_chain_describes_itself_as_a_retrieval_chain_does(llm, retriever, mode):
    prompt = PromptTemplate.from_template("{context}\n{input}" if mode in SHOW else "{input}")
    configurable = llm.configurable_fields(max_tokens=ConfigurableField("room"))
    chain = create_ttft_chain(configurable, retriever, mode=mode, prompt=prompt)
    combine = create_stuff_documents_chain(
        configurable, PromptTemplate.from_template("{context}\n{input}")
    )
    expected = create_retrieval_chain(retriever, combine)
    for described in (chain, expected):
        assert described.get_input_jsonschema()["required"] == ["input"]
        assert described.get_output_jsonschema()["properties"]["answer"]["type"] == "string"
        assert [spec.id for spec in described.config_specs] == ["room"]
        assert described.get_graph().draw_mermaid()
    assert prompt in chain.get_prompts()
    if mode == "rag":  # the others train
        tool = chain.as_tool(name="ask", description="Answers questions.")
        assert tool.invoke({"input": QUESTION}) == chain.invoke({"input": QUESTION})


def test_any_model_works_in_the_modes_without_fine_tuning(retriever):
    model = FakeListChatModel(responses=["an answer"])
    for mode in ("base", "rag"):
        chain = create_ttft_chain(model, retriever, mode=mode)
        assert chain.invoke({"input": QUESTION})["answer"] == "an answer"


def test_wrong_arguments_are_errors(llm, retriever):
    with pytest.raises(ArgumentError, match=r"mode must be one of .*'both'.* got 'rga'"):
        create_ttft_chain(llm, retriever, mode="rga")
    with pytest.raises(ArgumentError, match=r"retriever must be a runnable.*got a NoneType"):
        create_ttft_chain(llm, None)
    with pytest.raises(ArgumentError, match=r"modes must be a ModeTable.* got a str"):
        create_ttft_chain(llm, retriever, mode="auto", modes="settings.json")
    with pytest.raises(ArgumentError, match=r"context_k must be an integer .*, got 0"):
        create_ttft_chain(llm, retriever, context_k=0)
    with pytest.raises(ArgumentError, match=r"context_k is 3, but the mode 'ttft' puts"):
        create_ttft_chain(llm, retriever, mode="ttft", context_k=3)
    model = FakeListChatModel(responses=["an answer"])
    with pytest.raises(ArgumentError, match=r"'ttft' needs a ChatTestTimeFineTuned .*FakeListChat"):
        create_ttft_chain(model, retriever, mode="ttft")
    prompt = PromptTemplate.from_template("{question}")
    with pytest.raises(ArgumentError, match=r"must take \['context', 'input'\].*\['question'\]"):
        create_ttft_chain(llm, retriever, mode="both", prompt=prompt)
    prompt = PromptTemplate.from_template("{context} {input}")
    with pytest.raises(ArgumentError, match=r"\['input'\], and no \"context\" in .* 'input'\]"):
        create_ttft_chain(llm, retriever, mode="ttft", prompt=prompt)
    with pytest.raises(ArgumentError, match=r"prompt must be a prompt template, .* got a str"):
        create_ttft_chain(llm, retriever, prompt="{context} {input}")


class Answer(BaseModel):
    """An answer."""

    text: str


@pytest.mark.parametrize("mode", MODES)
def test_a_model_must_answer_in_text(tiny_model, tiny_tokenizer, retriever, mode):
    chat = ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=CONFIG, max_tokens=40
    )
    required = chat.bind_tools([Answer], tool_choice="any")
    losing = [required, required.with_config(tags=["mine"]), required.with_retry()]
    losing += [required.with_fallbacks([chat]), chat | JsonOutputParser(), retriever]
    for method in ("function_calling", "json_schema", "json_mode"):
        for schema in (Answer, Answer.model_json_schema()):
            losing.append(chat.with_structured_output(schema, method=method))
            losing.append(chat.with_structured_output(schema, method=method, include_raw=True))
    for llm in losing:
        with pytest.raises(ArgumentError, match="llm must answer in text"):
            create_ttft_chain(llm, retriever, mode=mode)
    for llm in (None, "gpt", lambda _: "an answer"):
        with pytest.raises(ArgumentError, match="llm must be a language model of LangChain, got a"):
            create_ttft_chain(llm, retriever, mode=mode)
    text = chat.with_structured_output(Answer) | RunnableLambda(lambda answer: answer.text)
    searching = chat.bind(tools=[{"type": "web_search"}])  # the server of a model calls it
    for llm in (
        text,
        chat.bind_tools([Answer]),
        searching,
        chat.bind_tools([]),
        chat.bind(response_format={"type": "json_object"}),
    ):
        create_ttft_chain(llm, retriever, mode=mode)


def test_a_step_may_make_a_text_of_an_object(retriever):
    model = FakeListChatModel(responses=['{"text": "an answer"}'])
    text = model | JsonOutputParser() | RunnableLambda(lambda answer: answer["text"])
    chain = create_ttft_chain(text, retriever)
    assert chain.invoke({"input": QUESTION})["answer"] == "an answer"
