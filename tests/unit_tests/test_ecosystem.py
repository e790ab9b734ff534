"""Test `SIFTRetriever` and `SIFTReranker` in the places of LangChain and LangGraph."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import re
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from operator import itemgetter
from typing import TypedDict
from unittest import mock

import numpy as np
import pytest
from blockbuster import BlockingError, blockbuster_ctx
from langchain.agents import create_agent
from langchain_chroma import Chroma
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MergerRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    GenericFakeChatModel,
)
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.stores import InMemoryStore
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from langchain_text_splitters import CharacterTextSplitter
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from reference import retrieval
from unit_tests.stores.real_stores import DEFAULT_KERNEL, CountingEmbeddings, fill, make_store

from langchain_sift import SIFTReranker, SIFTRetriever
from langchain_sift.errors import ArgumentError, CollectionNotFound, EmbeddingError, StoreError
from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS

QUERY = "Who repairs the broken clock near the border?"
QUERIES = [
    QUERY,
    "Who measures a broken clock?",
    "seven maps at sea",
    "cold iron under the bridge",
    "the baker paints small seeds",
    "a comet near the border in winter",
]
DIMENSIONS = 24


@cache
def word_vector(word):
    return np.random.default_rng(list(word.encode())).standard_normal(DIMENSIONS)


class WordEmbeddings(Embeddings):
    """Sums of random word vectors; records the queries and counts the documents."""

    model = "words-24"
    unreachable = "unreachable"

    def __init__(self):
        self.queries: list[str] = []
        self.documents = 0

    def vector(self, text):
        words = re.findall(r"\w+", text.lower())
        return sum(map(word_vector, words), np.zeros(DIMENSIONS))

    def _embed(self, text):
        if text == self.unreachable:
            raise ConnectionError("the embedding service is gone")
        self.queries.append(text)
        return self.vector(text).tolist()

    def embed_query(self, text):
        return self._embed(text)

    async def aembed_query(self, text):
        await asyncio.sleep(0)
        return self._embed(text)

    def embed_documents(self, texts):
        self.documents += len(texts)
        return [self.vector(text).tolist() for text in texts]

    async def aembed_documents(self, texts):
        await asyncio.sleep(0)
        return self.embed_documents(texts)


@pytest.fixture
def words():
    return WordEmbeddings()


@pytest.fixture
def facts(texts, words):
    """Return an embedded Chroma that holds the texts, numbered in id and metadata."""
    chroma = Chroma.from_texts(texts, words, **numbered(texts), collection_name=unused_name())
    words.documents = 0
    client, name = chroma._client, chroma._collection.name
    yield chroma
    if any(collection.name == name for collection in client.list_collections()):
        client.delete_collection(name)


@pytest.fixture
def retriever(facts):
    return SIFTRetriever(vectorstore=facts)


def numbered(texts):
    return {
        "ids": [f"text-{number}" for number in range(len(texts))],
        "metadatas": [{"number": number} for number in range(len(texts))],
    }


def in_memory(texts):
    return InMemoryVectorStore.from_texts(texts, WordEmbeddings(), **numbered(texts))


def unused_name():
    return f"facts-{uuid.uuid4()}"


def ids(documents):
    return [document.id for document in documents]


@cache
def chosen_by_formula(texts, query, k):
    rows = np.array([WordEmbeddings().vector(text) for text in texts])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unit = WordEmbeddings().vector(query)
    unit /= np.linalg.norm(unit)
    settings = {"noise_variance": DEFAULT_SETTINGS.noise_variance, "kernel": DEFAULT_KERNEL}
    return retrieval(unit[None], rows, k=k, **settings)[0]


def by_formula(texts, query, *, k=4):
    """Return the indices of the texts that brute force chooses."""
    return chosen_by_formula(tuple(texts), query, k)


def expected_ids(texts, query, *, k=4):
    return [f"text-{place}" for place in by_formula(texts, query, k=k)]


class Observer(BaseCallbackHandler):
    """Record the events of a retriever's runs."""

    def __init__(self):
        self.started, self.ended, self.custom, self.failed = [], [], [], []

    def on_retriever_start(self, serialized, query, *, run_id, tags, metadata, **kwargs):
        del serialized
        self.started.append(
            {"query": query, "run": run_id, "tags": tags, "metadata": metadata, **kwargs}
        )

    def on_retriever_end(self, documents, *, run_id, **kwargs):
        del kwargs
        self.ended.append((run_id, ids(documents)))

    def on_retriever_error(self, error, *, run_id, **kwargs):
        del kwargs
        self.failed.append((run_id, error))

    def on_custom_event(self, name, data, *, run_id, **kwargs):
        del kwargs
        self.custom.append((name, run_id, data))


class AsyncObserver(AsyncCallbackHandler):
    """Record the same events with coroutines."""

    def __init__(self):
        self.seen = Observer()

    async def on_retriever_start(self, *args, **kwargs):
        self.seen.on_retriever_start(*args, **kwargs)

    async def on_retriever_end(self, *args, **kwargs):
        self.seen.on_retriever_end(*args, **kwargs)

    async def on_custom_event(self, *args, **kwargs):
        self.seen.on_custom_event(*args, **kwargs)


# Tools and agents


class ScriptedModel(GenericFakeChatModel):
    """Answers with given messages, with or without tools."""

    def bind_tools(self, tools, **kwargs):
        del tools, kwargs
        return self


def agent_with(retriever, response_format):
    tool = create_retriever_tool(
        retriever, "search", "Searches the facts.", response_format=response_format
    )
    call = {"name": "search", "args": {"query": QUERY}, "id": "call-1"}
    script = [AIMessage("", tool_calls=[call]), AIMessage("done")]
    return create_agent(ScriptedModel(messages=iter(script)), [tool])


QUESTION = {"messages": [("user", "Who repairs the clock?")]}


def tool_message(answer):
    (message,) = [found for found in answer["messages"] if isinstance(found, ToolMessage)]
    assert message.status == "success"
    assert answer["messages"][-1].content == "done"
    return message


def test_an_agents_tool_message_holds_the_text_of_the_documents(retriever, texts):
    message = tool_message(agent_with(retriever, "content").invoke(QUESTION))
    assert message.content == "\n\n".join(texts[place] for place in by_formula(texts, QUERY))
    assert message.artifact is None


@pytest.mark.parametrize("gain_key", [None, "gain"])
async def test_an_agents_artifact_is_the_documents(facts, texts, gain_key):
    retriever = SIFTRetriever(vectorstore=facts, gain_key=gain_key)
    message = tool_message(await agent_with(retriever, "content_and_artifact").ainvoke(QUESTION))
    assert message.content == "\n\n".join(texts[place] for place in by_formula(texts, QUERY))
    assert ids(message.artifact) == expected_ids(texts, QUERY)
    assert all(("gain" in found.metadata) == (gain_key is not None) for found in message.artifact)


# Chains


def test_a_retrieval_chain_answers_from_the_documents(retriever, texts):
    def first_words(state):
        return [document.page_content.split()[0] for document in state["context"]]

    answer = create_retrieval_chain(retriever, RunnableLambda(first_words)).invoke({"input": QUERY})
    chosen = by_formula(texts, QUERY)
    assert ids(answer["context"]) == [f"text-{place}" for place in chosen]
    assert answer["answer"] == [texts[place].split()[0] for place in chosen]


async def test_a_retriever_works_in_parallel_and_assigned_steps(retriever, texts):
    parallel = RunnableParallel(context=retriever, question=RunnablePassthrough())
    assigned = RunnablePassthrough.assign(context=itemgetter("question") | retriever)
    for answer in (
        parallel.invoke(QUERY),
        await parallel.ainvoke(QUERY),
        assigned.invoke({"question": QUERY}),
        await assigned.ainvoke({"question": QUERY}),
    ):
        assert answer["question"] == QUERY
        assert ids(answer["context"]) == expected_ids(texts, QUERY)


async def test_a_dictionary_as_the_query_is_an_error_with_the_cure(retriever, texts):
    question = {"question": QUERY}
    with pytest.raises(TypeError, match=r"got dict: .*itemgetter\('question'\) \| retriever"):
        retriever.invoke(question)
    with pytest.raises(TypeError, match="itemgetter"):
        await retriever.ainvoke(question)
    cured = itemgetter("question") | retriever
    assert ids(cured.invoke(question)) == expected_ids(texts, QUERY)


# LangGraph


class State(TypedDict):
    question: str
    context: list[Document]
    sources: list[dict]


def graph_with(retriever):
    def search(state):
        context = retriever.invoke(state["question"])
        return {"context": context, "sources": [document.metadata for document in context]}

    builder = StateGraph(State)
    builder.add_node("search", search)
    builder.add_edge(START, "search")
    builder.add_edge("search", END)
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("gain_key", [None, "gain"])
def test_a_checkpoint_of_a_graph_holds_equal_documents_and_their_scores(facts, gain_key):
    retriever = SIFTRetriever(vectorstore=facts, gain_key=gain_key)
    graph, config = graph_with(retriever), {"configurable": {"thread_id": "1"}}
    graph.invoke({"question": QUERY}, config)
    kept = graph.get_state(config).values
    expected = retriever.invoke(QUERY)
    assert kept["context"] == expected
    assert kept["sources"] == [document.metadata for document in expected]
    if gain_key:
        scores = [document.metadata["gain"] for document in kept["context"]]
        assert scores == [document.metadata["gain"] for document in expected]
        assert {type(score) for score in scores} == {float}
        assert [source["gain"] for source in kept["sources"]] == scores


@pytest.mark.parametrize("gain_key", [None, "gain"])
def test_documents_survive_every_serializer(facts, gain_key):
    for document in SIFTRetriever(vectorstore=facts, gain_key=gain_key).invoke(QUERY):
        serializer = JsonPlusSerializer()
        copies = [
            serializer.loads_typed(serializer.dumps_typed(document)),
            Document.model_validate_json(document.model_dump_json()),
            Document(**document.model_dump(exclude={"type"})),
            pickle.loads(pickle.dumps(document)),  # noqa: S301 - made in this line
            document.model_copy(deep=True),
        ]
        assert copies == [document] * len(copies)
        for copy in copies:
            assert dict(copy.metadata) == dict(document.metadata)
            assert json.loads(json.dumps(copy.metadata)) == dict(document.metadata)


# Retrievers that hold retrievers


def multi_query(retriever):
    return MultiQueryRetriever.from_llm(
        retriever, FakeListChatModel(responses=["\n".join(QUERIES)])
    )


@pytest.mark.parametrize("gain_key", [None, "gain"])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_documents_of_several_queries_are_returned_once(facts, texts, gain_key, how):
    retriever = SIFTRetriever(vectorstore=facts, k=8, gain_key=gain_key)
    several = multi_query(retriever)
    found = several.invoke(QUERY) if how == "invoke" else await several.ainvoke(QUERY)
    each = [id_ for query in QUERIES for id_ in expected_ids(texts, query, k=8)]
    assert len(set(each)) < len(each)
    assert sorted(ids(found)) == sorted(set(each))
    assert all(("gain" in document.metadata) == (gain_key is not None) for document in found)


def test_documents_that_differ_in_more_than_the_score_are_both_returned(facts):
    retriever = SIFTRetriever(vectorstore=facts, gain_key="gain")
    first, second = retriever.invoke(QUERY)[:2]
    again = retriever.invoke(QUERIES[1], k=60)
    (same,) = [document for document in again if document.id == first.id]
    assert same.metadata["gain"] != first.metadata["gain"]
    assert same == first
    assert first != second
    other = same.model_copy(update={"metadata": {**same.metadata, "number": -1}})
    assert other != first
    assert first != other


@pytest.mark.parametrize("gain_key", [None, "gain"])
def test_an_ensemble_fuses_the_ranks(facts, texts, gain_key):
    sifting = SIFTRetriever(vectorstore=facts, k=6, gain_key=gain_key)
    nearest = facts.as_retriever(search_kwargs={"k": 6})
    found = EnsembleRetriever(retrievers=[sifting, nearest], weights=[0.7, 0.3]).invoke(QUERY)
    fused = Counter()
    for weight, ranked in (
        (0.7, expected_ids(texts, QUERY, k=6)),
        (0.3, ids(facts.similarity_search(QUERY, k=6))),
    ):
        for rank, id_ in enumerate(ranked, start=1):
            fused[id_] += weight / (rank + 60)  # reciprocal rank fusion
    assert ids(found) == [id_ for id_, _ in fused.most_common()]


def test_a_merger_takes_from_each_in_turn(facts, texts):
    retrievers = [
        SIFTRetriever(vectorstore=facts, gain_key="gain"),
        facts.as_retriever(search_kwargs={"k": 4}),
    ]
    found = MergerRetriever(retrievers=retrievers).invoke(QUERY)
    pairs = zip(expected_ids(texts, QUERY), ids(facts.similarity_search(QUERY, k=4)), strict=True)
    assert ids(found) == [id_ for pair in pairs for id_ in pair]


async def test_the_reranker_compresses_the_documents_of_another_retriever(facts, words):
    retriever = ContextualCompressionRetriever(
        base_compressor=SIFTReranker(embeddings=words, top_n=5),
        base_retriever=facts.as_retriever(search_kwargs={"k": 20}),
    )
    nearest = facts.similarity_search(QUERY, k=20)
    chosen = by_formula([document.page_content for document in nearest], QUERY, k=5)
    expected = [nearest[place].id for place in chosen]
    assert ids(retriever.invoke(QUERY)) == expected
    assert ids(await retriever.ainvoke(QUERY)) == expected
    assert expected != ids(nearest[:5])


async def test_the_reranker_is_a_step_of_a_pipeline(facts, words):
    splitter = CharacterTextSplitter(separator=". ", chunk_size=1, chunk_overlap=0)
    retriever = ContextualCompressionRetriever(
        base_compressor=DocumentCompressorPipeline(
            transformers=[splitter, SIFTReranker(embeddings=words, top_n=5)]
        ),
        base_retriever=facts.as_retriever(search_kwargs={"k": 20}),
    )
    parts = splitter.split_documents(facts.similarity_search(QUERY, k=20))
    sentences = list(dict.fromkeys(part.page_content for part in parts))
    assert len(sentences) > 20
    expected = [sentences[place] for place in by_formula(sentences, QUERY, k=5)]
    for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert [document.page_content for document in found] == expected


@pytest.fixture
def parents(texts, words):
    """Return a retriever of texts that searches their sentences."""
    chroma = Chroma(collection_name=unused_name(), embedding_function=words)
    retriever = ParentDocumentRetriever(
        vectorstore=chroma,
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(
            separator=". ", chunk_size=1, chunk_overlap=0, keep_separator=False
        ),
        search_kwargs={"k": 12},
    )
    documents = [Document(page_content=text, metadata={"kept": True}) for text in texts]
    retriever.add_documents(documents, ids=numbered(texts)["ids"])
    yield retriever
    chroma.delete_collection()


def test_chosen_children_lead_to_their_parents(parents, texts):
    def parents_of(children):
        keys = dict.fromkeys(child.metadata[parents.id_key] for child in children)
        return parents.docstore.mget(list(keys))

    sentences = parents.vectorstore.get(include=["documents", "metadatas"])
    chosen = by_formula(sentences["documents"], QUERY, k=8)
    keys = [sentences["metadatas"][place]["doc_id"] for place in chosen]
    expected = [texts[int(key.removeprefix("text-"))] for key in dict.fromkeys(keys)]
    searching = SIFTRetriever(vectorstore=parents.vectorstore, k=8, gain_key="gain")
    found = (searching | RunnableLambda(parents_of)).invoke(QUERY)
    assert [document.page_content for document in found] == expected
    assert {str(document.metadata) for document in found} == {"{'kept': True}"}


async def test_the_reranker_chooses_among_parents(parents, words):
    retriever = ContextualCompressionRetriever(
        base_compressor=SIFTReranker(embeddings=words, top_n=4), base_retriever=parents
    )
    found = [document.page_content for document in parents.invoke(QUERY)]
    assert len(found) > 4
    expected = [found[place] for place in by_formula(found, QUERY)]
    for chosen in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
        assert [document.page_content for document in chosen] == expected


# Events and traces


def check_selection(data, texts, query, *, k=4):
    assert json.loads(json.dumps(data)) == data
    assert data["ids"] == expected_ids(texts, query, k=k)
    assert len(data["gains"]) == k
    assert min(data["gains"]) > 0
    remaining = data["prior_variance"] - np.cumsum(data["gains"])
    assert data["posterior_variances"] == pytest.approx(remaining)
    assert (data["noise_variance"], data["fetch_k"]) == (DEFAULT_SETTINGS.noise_variance, 200)
    assert 0 < data["seconds"] < 60


async def test_the_events_of_a_chain_show_the_retrieval_and_its_choice_once(retriever, texts):
    chain = itemgetter("question") | retriever | RunnableLambda(ids)
    stream = chain.astream_events({"question": QUERY}, version="v2")
    events = [event async for event in stream]
    (start,) = [event for event in events if event["event"] == "on_retriever_start"]
    (end,) = [event for event in events if event["event"] == "on_retriever_end"]
    (choice,) = [event for event in events if event["event"] == "on_custom_event"]
    assert start["data"]["input"]["query"] == QUERY
    assert ids(end["data"]["output"]) == expected_ids(texts, QUERY)
    assert choice["name"] == "sift_selection"
    assert start["run_id"] == end["run_id"] == choice["run_id"]
    check_selection(choice["data"], texts, QUERY)


def test_a_handler_of_a_chain_gets_the_choice_once(retriever, texts):
    observer = Observer()
    (itemgetter("question") | retriever).invoke({"question": QUERY}, {"callbacks": [observer]})
    ((name, run, data),) = observer.custom
    assert name == "sift_selection"
    assert run == observer.started[0]["run"]
    check_selection(data, texts, QUERY)


def test_numpy_settings_are_reported_as_python_numbers(retriever):
    observer = Observer()
    settings = {"k": np.int64(300), "noise_variance": np.float32(0.5)}
    retriever.invoke(QUERY, {"callbacks": [observer]}, **settings)
    ((_, _, data),) = observer.custom
    assert json.loads(json.dumps(data)) == data
    assert (data["fetch_k"], data["noise_variance"]) == (300, 0.5)


async def test_synchronous_and_asynchronous_handlers_get_the_choice(retriever):
    observer, async_observer = Observer(), AsyncObserver()
    retriever.invoke(QUERY, {"callbacks": [async_observer]})
    await retriever.ainvoke(QUERY, {"callbacks": [observer, async_observer]})
    assert len(observer.custom) == 1
    assert len(async_observer.seen.custom) == 2


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_a_batch_calls_back_once_for_each_query(retriever, texts, how):
    observer, queries = Observer(), [*QUERIES, QUERY]
    config = {"callbacks": [observer]}
    if how == "batch":
        retriever.batch(queries, config)
    else:
        await retriever.abatch(queries, config)
    asked = {start["run"]: start["query"] for start in observer.started}
    assert sorted(asked.values()) == sorted(queries)
    assert len(asked) == len(queries)
    for heard in (observer.ended, [(run, data["ids"]) for _, run, data in observer.custom]):
        assert sorted(asked[run] for run, _ in heard) == sorted(queries)
        assert all(found == expected_ids(texts, asked[run]) for run, found in heard)


def test_a_failed_query_of_a_batch_calls_back_as_failed(retriever, words):
    observer = Observer()
    config = {"callbacks": [observer]}
    retriever.batch([QUERY, words.unreachable], config, return_exceptions=True)
    asked = {start["run"]: start["query"] for start in observer.started}
    assert [asked[run] for run, _ in observer.ended] == [QUERY]
    assert [(asked[run], type(error)) for run, error in observer.failed] == [
        (words.unreachable, ConnectionError)
    ]


def test_a_trace_names_retriever_store_and_embeddings(facts):
    observer = Observer()
    retriever = SIFTRetriever(vectorstore=facts, tags=["facts"], metadata={"team": "a"})
    config = {"callbacks": [observer], "tags": ["of-the-call"], "metadata": {"user": "b"}}
    retriever.invoke(QUERY, config)
    (start,) = observer.started
    assert start["name"] == "SIFTRetriever"
    assert sorted(start["tags"]) == ["facts", "of-the-call"]
    assert start["metadata"] == {
        "ls_retriever_name": "sift",
        "ls_vector_store_provider": "Chroma",
        "ls_embedding_provider": "WordEmbeddings",
        "ls_embedding_model": "words-24",
        "team": "a",
        "user": "b",
    }


def test_a_retriever_made_from_another_keeps_its_tags(facts):
    observer = Observer()
    made = SIFTRetriever.from_retriever(facts.as_retriever())
    made.invoke(QUERY, {"callbacks": [observer]})
    assert sorted(observer.started[0]["tags"]) == ["Chroma", "WordEmbeddings"]


def test_the_embeddings_model_may_be_called_model_name():
    class Named(WordEmbeddings):
        model = None
        model_name = "named-24"

    observer = Observer()
    store = InMemoryVectorStore.from_texts(["a fact"], Named())
    SIFTRetriever(vectorstore=store).invoke(QUERY, {"callbacks": [observer]})
    assert observer.started[0]["metadata"]["ls_embedding_model"] == "named-24"


def test_a_trace_names_a_separate_query_embedder():
    class QueryEmbeddings(WordEmbeddings):
        model = "query-words-24"

    observer = Observer()
    store = InMemoryVectorStore.from_texts(["a fact"], WordEmbeddings())
    retriever = SIFTRetriever(vectorstore=store, query_embedder=QueryEmbeddings())
    retriever.invoke(QUERY, {"callbacks": [observer]})
    metadata = observer.started[0]["metadata"]
    assert metadata["ls_embedding_provider"] == "QueryEmbeddings"
    assert metadata["ls_embedding_model"] == "query-words-24"


# Copies, dumps, pickles


class KeyedEmbeddings(WordEmbeddings):
    """Embeddings with a secret key."""

    def __init__(self):
        super().__init__()
        self.api_key = "sk-secret"
        self.headers = {"Authorization": "Bearer sk-secret"}


class KeyedModelEmbeddings(BaseModel, Embeddings):
    """The same as a pydantic model, whose `repr` has its fields."""

    api_key: str = "sk-secret"
    headers: dict[str, str] = {"Authorization": "Bearer sk-secret"}

    def embed_query(self, text):
        return WordEmbeddings().vector(text).tolist()

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


@pytest.mark.parametrize("embeddings", [KeyedEmbeddings, KeyedModelEmbeddings])
def test_a_dump_names_the_class_and_no_secret(embeddings):
    store = InMemoryVectorStore.from_texts(["a fact"], embeddings())
    retriever = SIFTRetriever(vectorstore=store, query_embedder=embeddings())
    reranking = ContextualCompressionRetriever(
        base_compressor=SIFTReranker(embeddings=embeddings()), base_retriever=retriever
    )
    dumped = dumpd(retriever)
    assert dumped["type"] == "not_implemented"
    assert dumped["id"] == ["langchain_sift", "retrievers", "SIFTRetriever"]
    for text in (json.dumps(dumped), json.dumps(dumpd(reranking)), repr(retriever), str(retriever)):
        assert "secret" not in text


def test_a_pickle_is_refused_with_the_cure(retriever):
    with pytest.raises(TypeError, match=r"SIFTRetriever on a Chroma cannot be pickled: open the"):
        pickle.dumps(retriever)


@pytest.mark.parametrize("kind", ["InMemoryVectorStore", "FAISS", "Qdrant"])
def test_a_retriever_can_be_pickled_where_its_store_can(kind, tmp_path):
    store = fill(make_store(kind, CountingEmbeddings(), tmp_path))
    retriever = SIFTRetriever(
        vectorstore=store, k=3, fetch_k=12, search_kwargs={"lambda_mult": 0.3}, search_type="mmr"
    )
    copied = pickle.loads(pickle.dumps(retriever))  # noqa: S301 - made in this line
    assert copied.vectorstore is not store
    assert copied.invoke("which?") == retriever.invoke("which?")


def test_a_pickle_that_takes_any_class_takes_the_retriever():
    class Local(CountingEmbeddings):
        pass

    class Pickler(pickle.Pickler):
        """Takes a class that cannot be imported, as Ray's pickle does."""

        def persistent_id(self, value):
            return "Local" if value is Local else None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, _):
            return Local

    retriever = SIFTRetriever(vectorstore=fill(InMemoryVectorStore(Local())), k=3)
    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        pickle.dumps(retriever)
    file = io.BytesIO()
    Pickler(file).dump(retriever)
    file.seek(0)
    assert Unpickler(file).load().invoke("which?") == retriever.invoke("which?")


def test_a_copy_is_a_separate_retriever_on_the_same_store(retriever, texts):
    copy = retriever.model_copy(update={"k": 2})
    assert ids(copy.invoke(QUERY)) == expected_ids(texts, QUERY, k=2)
    assert ids(retriever.invoke(QUERY)) == expected_ids(texts, QUERY)
    assert copy.vectorstore is retriever.vectorstore
    assert retriever.model_copy() == retriever


# Bound, configured and combined retrievers


async def test_bound_settings_apply_to_every_call(retriever, texts):
    bound = retriever.bind(k=2)
    expected = [expected_ids(texts, query, k=2) for query in QUERIES]
    assert ids(bound.invoke(QUERY)) == expected[0]
    assert ids(await bound.ainvoke(QUERY)) == expected[0]
    assert [ids(found) for found in bound.batch(QUERIES)] == expected
    assert [ids(found) for found in await bound.abatch(QUERIES)] == expected


def test_a_configured_retriever_runs_under_its_name_and_tags(retriever):
    observer = Observer()
    named = retriever.with_config(tags=["mine"], run_name="facts", callbacks=[observer])
    named.invoke(QUERY)
    assert observer.started[0]["name"] == "facts"
    assert observer.started[0]["tags"] == ["mine"]


async def test_fields_are_configurable_at_run_time(retriever, texts):
    configurable = retriever.configurable_fields(
        k=ConfigurableField("k"), search_kwargs=ConfigurableField("search_kwargs")
    )
    assert ids(configurable.invoke(QUERY)) == expected_ids(texts, QUERY)
    two = configurable.with_config(configurable={"k": 2})
    assert ids(two.invoke(QUERY)) == expected_ids(texts, QUERY, k=2)
    assert ids(await two.ainvoke(QUERY)) == expected_ids(texts, QUERY, k=2)
    assert [ids(found) for found in two.batch(QUERIES)] == [
        expected_ids(texts, query, k=2) for query in QUERIES
    ]
    few = configurable.with_config(
        configurable={"search_kwargs": {"k": 3, "filter": {"number": {"$lt": 10}}}}
    )
    assert ids(few.invoke(QUERY)) == expected_ids(texts[:10], QUERY, k=3)


def test_a_configured_value_out_of_range_is_an_error(retriever):
    configurable = retriever.configurable_fields(k=ConfigurableField("k"))
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        configurable.with_config(configurable={"k": 0}).invoke(QUERY)


def test_another_retriever_can_be_its_alternative(retriever, facts, texts):
    either = retriever.configurable_alternatives(
        ConfigurableField("method"),
        default_key="sift",
        similarity=facts.as_retriever(search_kwargs={"k": 4}),
    )
    assert ids(either.invoke(QUERY)) == expected_ids(texts, QUERY)
    nearest = either.with_config(configurable={"method": "similarity"}).invoke(QUERY)
    assert ids(nearest) == ids(facts.similarity_search(QUERY, k=4))


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "abatch"])
async def test_a_store_that_fails_once_is_queried_again(retriever, facts, texts, how):
    again = retriever.with_retry(
        retry_if_exception_type=(StoreError,), wait_exponential_jitter=False
    )
    collection = facts._chroma_collection
    failing_once = mock.patch.object(
        collection,
        "query",
        wraps=collection.query,
        side_effect=[RuntimeError("busy"), *[mock.DEFAULT] * 9],
    )
    with failing_once, pytest.raises(StoreError, match="RuntimeError"):
        retriever.invoke(QUERY)
    with failing_once as asked:
        found = await run_query(again, how)
    assert ids(found) == expected_ids(texts, QUERY)
    assert asked.call_count > 1


async def run_query(runnable, how):
    """Run the query in one of four ways."""
    if how == "invoke":
        return runnable.invoke(QUERY)
    if how == "ainvoke":
        return await runnable.ainvoke(QUERY)
    return (runnable.batch([QUERY]) if how == "batch" else await runnable.abatch([QUERY]))[0]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "abatch"])
async def test_a_fallback_store_replaces_a_deleted_one(retriever, texts, words, how):
    gone = Chroma(collection_name=unused_name(), embedding_function=words)
    absent = SIFTRetriever(vectorstore=gone)
    gone.delete_collection()
    with pytest.raises(CollectionNotFound):
        absent.invoke(QUERY)
    found = await run_query(absent.with_fallbacks([retriever]), how)
    assert ids(found) == expected_ids(texts, QUERY)


# Many queries


async def batched(retriever, how, queries, *args, **kwargs):
    if how == "batch":
        return retriever.batch(queries, *args, **kwargs)
    return await retriever.abatch(queries, *args, **kwargs)


@pytest.mark.parametrize("how", ["batch", "abatch"])
@pytest.mark.parametrize("candidate_search", ["nearest", "residual", "exhaustive"])
async def test_a_batch_equals_single_queries_in_order(facts, how, candidate_search):
    retriever = SIFTRetriever(vectorstore=facts, gain_key="gain", candidate_search=candidate_search)
    queries = [*QUERIES, QUERIES[2], QUERY, QUERY]
    found = await batched(retriever, how, queries)
    expected = [retriever.invoke(query) for query in queries]
    assert found == expected
    for documents, alone in zip(found, expected, strict=True):
        scores = [document.metadata["gain"] for document in documents]
        assert scores == pytest.approx([document.metadata["gain"] for document in alone])


@pytest.mark.parametrize("how", ["batch", "abatch"])
@pytest.mark.parametrize("kind", ["chroma", "in memory"])
@pytest.mark.parametrize("others", [[QUERY], QUERIES[1:]])
async def test_queries_of_a_batch_share_no_documents(facts, texts, how, kind, others):
    retriever = SIFTRetriever(vectorstore=facts if kind == "chroma" else in_memory(texts), k=20)
    first, *rest = await batched(retriever, how, [QUERY, *others])
    found = {id_ for documents in rest for id_ in ids(documents)}
    assert found & set(ids(first))
    for document in first:
        document.metadata["number"] = "changed"
    assert "changed" not in [found.metadata["number"] for documents in rest for found in documents]


def test_each_query_of_a_batch_runs_under_its_own_configuration(retriever):
    observers = [Observer() for _ in QUERIES]
    configs = [
        {"callbacks": [observer], "tags": [f"tag-{place}"], "run_name": f"run-{place}"}
        for place, observer in enumerate(observers)
    ]
    retriever.batch(QUERIES, configs)
    for place, observer in enumerate(observers):
        (start,) = observer.started
        heard = (start["query"], start["name"], start["tags"])
        assert heard == (QUERIES[place], f"run-{place}", [f"tag-{place}"])
        assert len(observer.custom) == len(observer.ended) == 1


async def test_other_ways_to_run_many_queries_return_the_same(retriever, texts):
    expected = [expected_ids(texts, query) for query in QUERIES]
    mapped = RunnableLambda(str.splitlines) | retriever.map()
    assert [ids(found) for found in mapped.invoke("\n".join(QUERIES))] == expected
    assert [ids(found) for found in await mapped.ainvoke("\n".join(QUERIES))] == expected
    assert [ids(found) for _, found in sorted(retriever.batch_as_completed(QUERIES))] == expected


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_a_batch_embeds_each_different_query_once_and_no_document(retriever, words, how):
    await batched(retriever, how, [*QUERIES, *QUERIES, QUERY])
    assert sorted(words.queries) == sorted(QUERIES)
    assert words.documents == 0


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_an_error_stays_with_its_query(retriever, words, texts, how):
    queries = [QUERY, 3, words.unreachable, QUERIES[1], "...", words.unreachable]
    found = await batched(retriever, how, queries, return_exceptions=True)
    assert ids(found[0]) == expected_ids(texts, QUERY)
    assert ids(found[3]) == expected_ids(texts, QUERIES[1])
    failed = [type(found[place]) for place in (1, 2, 4, 5)]
    assert failed == [TypeError, ConnectionError, EmbeddingError, ConnectionError]
    with pytest.raises(ConnectionError, match="gone"):
        await batched(retriever, how, [QUERY, words.unreachable])


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_a_wrong_setting_of_a_batch_is_an_error_of_each_of_its_queries(retriever, texts, how):
    with pytest.raises(ArgumentError, match="k must be"):
        await batched(retriever, how, QUERIES, k=0)
    failed = await batched(retriever, how, QUERIES, k=0, return_exceptions=True)
    assert [type(error) for error in failed] == [ArgumentError] * len(QUERIES)
    falling_back = retriever.bind(k=0).with_fallbacks([retriever])
    found = await batched(falling_back, how, QUERIES)
    assert [ids(documents) for documents in found] == [
        expected_ids(texts, query) for query in QUERIES
    ]


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_an_empty_batch_of_queries_returns_an_empty_list(retriever, words, how):
    assert await batched(retriever, how, []) == []
    assert words.queries == []


class MeetingEmbeddings(WordEmbeddings):
    """Embeds queries only `together` at once; records the maximum."""

    def __init__(self, together):
        super().__init__()
        self._meeting = threading.Barrier(together, timeout=60)
        self._async_meeting = asyncio.Barrier(together)
        self._lock = threading.Lock()
        self._now = self.most = 0

    def _count(self, change):
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)

    def embed_query(self, text):
        self._count(+1)
        self._meeting.wait()
        time.sleep(0.01)  # a surplus query would arrive now
        self._count(-1)
        return super().embed_query(text)

    async def aembed_query(self, text):
        self._count(+1)
        async with asyncio.timeout(60):
            await self._async_meeting.wait()
        await asyncio.sleep(0.01)
        self._count(-1)
        return await super().aembed_query(text)


@pytest.mark.parametrize("how", ["batch", "abatch"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_limits_the_embedding_of_queries(texts, how, limit):
    embeddings = MeetingEmbeddings(limit)
    retriever = SIFTRetriever(vectorstore=in_memory(texts), query_embedder=embeddings)
    found = await batched(retriever, how, QUERIES, {"max_concurrency": limit})
    assert embeddings.most == limit
    assert [ids(documents) for documents in found] == [
        expected_ids(texts, query) for query in QUERIES
    ]


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_max_concurrency_applies_to_the_parts_of_queries(texts, how):
    embeddings = MeetingEmbeddings(2)
    retriever = SIFTRetriever(
        vectorstore=in_memory(texts), query_embedder=embeddings, query_splitter=str.split
    )
    await batched(retriever, how, ["seven maps", "cold iron"], {"max_concurrency": 2})
    assert sorted(embeddings.queries) == ["cold", "iron", "maps", "seven"]
    assert embeddings.most == 2


# Event loops and threads


class BlockingEmbeddings(WordEmbeddings):
    """Blocks the event loop, as a negative control."""

    async def aembed_query(self, text):
        time.sleep(0.001)
        return await super().aembed_query(text)


@pytest.mark.slow
@pytest.mark.parametrize("candidate_search", ["nearest", "residual", "exhaustive"])
async def test_nothing_blocks_the_event_loop(facts, words, texts, candidate_search):
    retriever = SIFTRetriever(
        vectorstore=facts, candidate_search=candidate_search, step_fetch_k=len(texts)
    )
    reranking = ContextualCompressionRetriever(
        base_compressor=SIFTReranker(embeddings=words), base_retriever=retriever.bind(k=20)
    )
    blocking = SIFTRetriever(vectorstore=facts, query_embedder=BlockingEmbeddings())
    with blockbuster_ctx():
        assert ids(await retriever.ainvoke(QUERY)) == expected_ids(texts, QUERY)
        scored = await retriever.aretrieve_with_scores(QUERY)
        assert ids(scored.documents) == expected_ids(texts, QUERY)
        found = await retriever.abatch(QUERIES, {"callbacks": [AsyncObserver()]})
        assert len(found) == len(QUERIES)
        assert len(await reranking.ainvoke(QUERY)) == 4
        with pytest.raises(BlockingError, match="sleep"):
            await blocking.ainvoke(QUERY)


@pytest.mark.parametrize("how", ["ainvoke", "abatch"])
async def test_the_event_loop_runs_while_a_store_is_slow(texts, how):
    turned = threading.Event()

    def slow(document):
        del document
        if not turned.wait(20):
            raise TimeoutError("the event loop stands still")
        return True

    async def turn():
        await asyncio.sleep(0.05)
        turned.set()

    retriever = SIFTRetriever(vectorstore=in_memory(texts), search_kwargs={"filter": slow})
    found, _ = await asyncio.gather(run_query(retriever, how), turn())
    assert ids(found) == expected_ids(texts, QUERY)


@pytest.mark.parametrize("kind", ["chroma", "in memory"])
def test_many_threads_get_the_results_of_one(facts, texts, kind):
    store = facts if kind == "chroma" else in_memory(texts)
    retriever = SIFTRetriever(vectorstore=store, gain_key="gain")
    queries = [*QUERIES, *texts[:6]] * 16
    expected = {query: retriever.invoke(query) for query in set(queries)}
    assert {query: ids(found) for query, found in expected.items()} == {
        query: expected_ids(texts, query) for query in set(queries)
    }
    with ThreadPoolExecutor(16) as executor:
        found = list(executor.map(retriever.invoke, queries))
    assert found == [expected[query] for query in queries]
    assert scores_of(found) == scores_of(expected[query] for query in queries)


async def test_many_coroutines_get_the_results_of_one(facts, texts):
    retriever = SIFTRetriever(vectorstore=facts, gain_key="gain")
    queries = [*QUERIES, *texts[:6]] * 8
    expected = {query: retriever.invoke(query) for query in set(queries)}
    found = await asyncio.gather(*(retriever.ainvoke(query) for query in queries))
    assert found == [expected[query] for query in queries]
    assert scores_of(found) == scores_of(expected[query] for query in queries)


@pytest.mark.slow
def test_batches_of_several_threads_do_not_mix(facts, texts):
    retriever = SIFTRetriever(vectorstore=facts)
    batches = [(k, QUERIES[k % 3 :]) for k in (1, 2, 3, 4)] * 4
    with ThreadPoolExecutor(16) as executor:
        found = list(executor.map(lambda batch: retriever.batch(batch[1], k=batch[0]), batches))
    for (k, queries), answers in zip(batches, found, strict=True):
        assert [ids(answer) for answer in answers] == [
            expected_ids(texts, query, k=k) for query in queries
        ]


def scores_of(answers):
    return [[document.metadata["gain"] for document in answer] for answer in answers]


# LangChain's own tests


class TestInMemoryVectorStore(RetrieversIntegrationTests):
    """LangChain's tests of every retriever."""

    @pytest.fixture(autouse=True)
    def _use(self, texts, words):
        self.store = InMemoryVectorStore.from_texts(texts, words)

    @property
    def retriever_constructor(self):
        return SIFTRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self):
        return QUERY
