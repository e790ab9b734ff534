"""Check that `require_filter` keeps out documents of other tenants, whatever a call requests.

Both tenants' documents are rows of one collection, with the same texts, side by side, beside
rows that belong to nobody. What a filter passes is decided by a dozen lines of Python here.
"""

from __future__ import annotations

import operator
import random
import uuid
from typing import Any
from unittest import mock

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, InvalidFilter, SIFTError
from langchain_sift.retrieval.settings import CANDIDATE_SEARCHES
from langchain_sift.stores import StoreBM25Retriever

TENANTS = ("a", "b")
QUERY = "what are our prices?"
ROWS: list[tuple[str, dict[str, Any]]] = [
    *((f"price list {n}", {"tenant": t, "year": n % 5}) for t in TENANTS for n in range(40)),
    *(
        (f"note of {t} number {n}", {"tenant": t, "year": n % 5})
        for t in TENANTS
        for n in range(20)
    ),
    *((f"flyer {n}", {"year": n % 5}) for n in range(10)),
]


class RandomEmbeddings(Embeddings):
    """Vectors drawn from the text, so that neighbours are random."""

    def embed_query(self, text):
        return np.random.default_rng(list(text.encode())).standard_normal(4).tolist()

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


# The filters of each kind of store


def chroma():
    store = Chroma(collection_name=f"shared-{uuid.uuid4()}", embedding_function=RandomEmbeddings())
    store.add_texts([text for text, _ in ROWS], [metadata for _, metadata in ROWS])
    return store


def in_memory():
    store = InMemoryVectorStore(RandomEmbeddings())
    store.add_texts([text for text, _ in ROWS], [metadata for _, metadata in ROWS])
    return store


def faiss():
    texts, metadatas = zip(*ROWS, strict=True)
    return FAISS.from_texts(list(texts), RandomEmbeddings(), list(metadatas))


def qdrant():
    texts, metadatas = zip(*ROWS, strict=True)
    return QdrantVectorStore.from_texts(
        list(texts), RandomEmbeddings(), list(metadatas), location=":memory:"
    )


def as_dictionary(condition):
    return condition


def as_function(condition):
    return condition and (lambda document: passes(condition, document.metadata))


def as_function_of_metadata(condition):
    return condition and (lambda metadata: passes(condition, metadata))


def as_qdrant(condition):
    """Return the same condition as a filter of Qdrant."""
    if condition is None:
        return None
    if len(condition) != 1:
        return models.Filter(must=[as_qdrant({k: v}) for k, v in condition.items()])
    ((key, value),) = condition.items()
    if key in {"$and", "$or"}:
        parts = [as_qdrant(part) for part in value]
        return models.Filter(must=parts) if key == "$and" else models.Filter(should=parts)
    ((comparison, operand),) = (value if isinstance(value, dict) else {"$eq": value}).items()
    if comparison in {"$gte", "$lte"}:
        limits = models.Range(**{comparison[1:]: operand})
        return models.Filter(must=[models.FieldCondition(key=f"metadata.{key}", range=limits)])
    values = operand if isinstance(operand, list) else [operand]
    any_of = models.FieldCondition(key=f"metadata.{key}", match=models.MatchAny(any=values))
    negated = comparison in {"$ne", "$nin"}
    return models.Filter(must_not=[any_of]) if negated else models.Filter(must=[any_of])


STORES = {
    "Chroma": (chroma, as_dictionary),
    "InMemoryVectorStore": (in_memory, as_function),
    "FAISS": (faiss, as_function_of_metadata),
    "Qdrant": (qdrant, as_qdrant),
}


@pytest.fixture(scope="module", params=STORES)
def shared(request):
    """Return a store of two tenants, and a function that converts a filter of Chroma's."""
    make, convert = STORES[request.param]
    return make(), convert


@pytest.fixture(scope="module")
def shared_chroma():
    return chroma()


# Conditions and their meaning

COMPARISONS = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$in": lambda value, operand: value in operand,
    "$nin": lambda value, operand: value not in operand,
    "$gte": lambda value, operand: value is not None and value >= operand,
    "$lte": lambda value, operand: value is not None and value <= operand,
}


def passes(condition, metadata):
    """Return True if a filter of Chroma's passes; a missing key is unequal to everything."""

    def holds(key, value):
        if key == "$and":
            return all(passes(part, metadata) for part in value)
        if key == "$or":
            return any(passes(part, metadata) for part in value)
        tests = value if isinstance(value, dict) else {"$eq": value}
        return all(COMPARISONS[name](metadata.get(key), x) for name, x in tests.items())

    return all(holds(*item) for item in (condition or {}).items())


def forged(rng, depth=2):
    """Return a random filter, which often matches the other tenant's documents."""
    other = rng.choice([*TENANTS, "nobody"])
    year = rng.randrange(5)
    simple = [
        {"tenant": other},
        {"tenant": {rng.choice(["$eq", "$ne"]): other}},
        {"tenant": {rng.choice(["$in", "$nin"]): rng.choice([[other], ["a", "b"]])}},
        {"year": {rng.choice(["$gte", "$lte", "$ne"]): year}},
        {"year": year},
    ]
    if not depth or rng.random() < 0.4:
        return rng.choice(simple)
    return {rng.choice(["$and", "$or"]): [forged(rng, depth - 1) for _ in range(2)]}


def given(rng):
    """Return a random filter of a call, sometimes empty or with two keys."""
    return rng.choice(
        [None, {}, {"tenant": rng.choice(TENANTS), "year": 1}, *(forged(rng) for _ in range(6))]
    )


def retriever_for(store, tenant, convert=as_dictionary, **settings):
    required = {"filter": convert({"tenant": tenant})}
    return SIFTRetriever(vectorstore=store, require_filter=True, search_kwargs=required, **settings)


def tenants(documents):
    return {document.metadata.get("tenant") for document in documents}


def row_of(document):
    return document.page_content, document.metadata["tenant"], document.metadata["year"]


# No document of another tenant


@pytest.mark.slow
def test_random_queries_return_no_foreign_document(shared_chroma):
    rng = random.Random(5)
    found = 0
    for batch in range(100):
        tenant, condition = rng.choice(TENANTS), given(rng)
        retriever = retriever_for(
            shared_chroma,
            tenant,
            k=rng.randint(1, 8),
            fetch_k=rng.randint(1, 30),
            step_fetch_k=rng.randint(1, 6),
            candidate_search=rng.choice(CANDIDATE_SEARCHES),
        )
        for documents in retriever.batch([f"{batch} {n}" for n in range(50)], filter=condition):
            found += len(documents)
            assert tenants(documents) <= {tenant}
            assert all(passes(condition, document.metadata) for document in documents)
    assert found > 5000


@pytest.mark.slow
@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
def test_the_filter_of_a_call_narrows_and_cannot_replace(shared, candidate_search):
    store, convert = shared
    rng = random.Random(17)
    some = 0
    for turn in range(40):
        tenant, condition = TENANTS[turn % 2], given(rng)
        retriever = retriever_for(
            store, tenant, convert, k=1, step_fetch_k=2, candidate_search=candidate_search
        )
        vector = np.random.default_rng(turn).standard_normal(4).tolist()
        # Every row that passes: k is the number of rows.
        settings = {} if candidate_search == "residual" else {"k": len(ROWS)}
        found = retriever.retrieve_by_vector(vector, filter=convert(condition), **settings)
        allowed = {
            (text, metadata["tenant"], metadata["year"])
            for text, metadata in ROWS
            if metadata.get("tenant") == tenant and passes(condition, metadata)
        }
        rows = {row_of(document) for document in found.documents}
        assert rows <= allowed if settings == {} else rows == allowed
        assert bool(rows) == bool(allowed)
        some += bool(rows)
    assert 10 < some < 40


async def test_coroutines_batches_and_scores_respect_the_tenant(shared):
    store, convert = shared
    for tenant in TENANTS:
        other = convert({"tenant": "b" if tenant == "a" else "a"})
        retriever = retriever_for(store, tenant, convert, k=6)
        lists = [
            retriever.invoke(QUERY),
            await retriever.ainvoke(QUERY),
            *retriever.batch([QUERY, "and"]),
            *await retriever.abatch([QUERY, "and"]),
            retriever.retrieve_with_scores(QUERY).documents,
            (await retriever.aretrieve_with_scores(QUERY)).documents,
        ]
        assert [len(documents) for documents in lists] == [6] * 8
        assert {owner for documents in lists for owner in tenants(documents)} == {tenant}
        assert retriever.invoke(QUERY, filter=other) == []
        assert await retriever.abatch([QUERY, "and"], filter=other) == [[], []]


def test_a_shared_text_has_the_metadata_of_the_tenant(shared):
    store, convert = shared
    for tenant in TENANTS:
        retrieval = retriever_for(store, tenant, convert, k=60).retrieve_with_scores(QUERY)
        assert {choice.document.page_content for choice in retrieval.choices} >= {
            f"price list {number}" for number in range(40)
        }
        assert tenants(retrieval.documents) == {tenant}
        assert {choice.copies for choice in retrieval.choices} == {1}


@pytest.mark.parametrize("has_text", [True, False], ids=["their text", "another text"])
async def test_a_second_retriever_brings_no_foreign_document(shared, has_text):
    """It returns the rows of all tenants, best the foreign ones."""
    store, convert = shared
    everything = StoreBM25Retriever(vectorstore=store, k=len(ROWS)).invoke("price note flyer")
    assert tenants(everything) == {"a", "b", None}

    def answer(_):
        found = sorted(everything, key=lambda document: document.metadata.get("tenant") == "a")
        texts = (document.page_content if has_text else "stolen" for document in found)
        return [Document(id=d.id, page_content=t) for d, t in zip(found, texts, strict=True)]

    for second in (RunnableLambda(answer), StoreBM25Retriever(vectorstore=store)):
        retriever = retriever_for(store, "a", convert, k=60, second_retriever=second)
        other = convert({"tenant": "b"})
        lists = [
            retriever.invoke(QUERY),
            await retriever.ainvoke(QUERY),
            *retriever.batch([QUERY, "and"]),
            *await retriever.abatch([QUERY, "and"]),
            retriever.invoke(QUERY, k=3, fetch_k=4),
        ]
        assert {owner for documents in lists for owner in tenants(documents)} == {"a"}
        assert "stolen" not in {d.page_content for documents in lists for d in documents}
        assert retriever.invoke(QUERY, filter=other) == []
        assert retriever.batch([QUERY, "and"], filter=other) == [[], []]


def test_a_second_retriever_without_ids_is_refused_for_a_tenant(shared):
    store, convert = shared
    for text in ("price list 1", "note of b number 1", "stolen"):
        second = RunnableLambda(lambda _, text=text: [Document(page_content=text)])
        retriever = retriever_for(store, "a", convert, second_retriever=second)
        with pytest.raises(InvalidFilter, match="have no id"):
            retriever.invoke(QUERY)


MALFORMED = [
    [],
    ["tenant"],
    "tenant",
    7,
    {"$or": []},
    {"$and": {"tenant": "b"}},
    {"$not": {"tenant": "a"}},
    {"$or": [{"tenant": "b"}, {}]},
    {"tenant": {"$eq": "b", "$ne": "a"}},
    {"tenant": {}},
    {"": "b"},
    {None: None},
    lambda _: True,
    lambda *_: 1 / 0,
]


@pytest.mark.parametrize("condition", MALFORMED, ids=lambda value: str(value).split(" at ")[0])
def test_an_invalid_filter_returns_no_foreign_document(shared, condition):
    store, convert = shared
    for candidate_search in CANDIDATE_SEARCHES:
        retriever = retriever_for(store, "a", convert, candidate_search=candidate_search)
        try:
            documents = retriever.invoke(QUERY, filter=condition)
        except SIFTError:
            continue
        assert tenants(documents) <= {"a"}


def test_a_condition_on_the_text_returns_no_foreign_document(shared_chroma):
    retriever = retriever_for(shared_chroma, "a", k=80)
    found = retriever.invoke(QUERY, where_document={"$contains": "number 3"})
    assert [document.page_content for document in found] == ["note of a number 3"]
    for condition in ({"$contains": "note of b"}, {"$not_contains": "of a"}, {"$regex": ".*"}):
        assert tenants(retriever.invoke(QUERY, where_document=condition)) <= {"a"}


@pytest.mark.parametrize(
    "settings",
    [{"require_filter": False}, {"search_kwargs": {}}, {"vectorstore": None}, {"where": {}}],
    ids=lambda settings: next(iter(settings)),
)
def test_no_setting_of_a_call_lifts_the_requirement(shared, settings):
    store, convert = shared
    with pytest.raises(ArgumentError, match="is no setting"):
        retriever_for(store, "a", convert).invoke(QUERY, **settings)


# No query without a filter


def nothing_asked(store: Chroma) -> Any:
    return mock.patch.multiple(
        store._collection,
        query=mock.Mock(side_effect=AssertionError),
        get=mock.Mock(side_effect=AssertionError),
    )


@pytest.mark.parametrize("candidate_search", CANDIDATE_SEARCHES)
@pytest.mark.parametrize("search_kwargs", [{}, {"filter": None}, {"filter": {}}, {"k": 3}])
async def test_without_a_filter_the_store_is_not_queried(
    shared_chroma, search_kwargs, candidate_search
):
    retriever = SIFTRetriever(
        vectorstore=shared_chroma,
        require_filter=True,
        search_kwargs=search_kwargs,
        candidate_search=candidate_search,
    )
    refused = pytest.raises(InvalidFilter, match=r"require_filter .* nothing was searched")
    with nothing_asked(shared_chroma):
        for call in ({}, {"filter": {"tenant": "a"}}, {"filter": None}):
            with refused:
                retriever.invoke(QUERY, **call)
            with refused:
                await retriever.ainvoke(QUERY, **call)
            with refused:
                retriever.batch([QUERY], **call)
            with refused:
                await retriever.abatch([QUERY], **call)
            with refused:
                retriever.retrieve_by_vector([1.0, 0.0, 0.0, 0.0], **call)


NOT_B = models.Filter(
    must_not=[models.FieldCondition(key="metadata.tenant", match=models.MatchValue(value="b"))]
)


IS_A = models.FieldCondition(key="metadata.tenant", match=models.MatchValue(value="a"))
A_OR_ANYTHING = models.Filter(should=[IS_A, models.Filter()])
OF_NOBODY = models.Filter(
    must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.tenant"))]
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        ("Chroma", {"tenant": {"$ne": "b"}}),
        ("Chroma", {"tenant": {"$nin": ["b"]}}),
        ("Chroma", {"tags": {"$not_contains": "b"}}),
        ("Chroma", {"$or": [{"tenant": "a"}, {"$and": [{"tenant": {"$ne": "b"}}, {"year": 1}]}]}),
        ("FAISS", {"tenant": {"$neq": "b"}}),
        ("FAISS", {"tenant": {"$nin": ["b"]}}),
        ("FAISS", {"$not": {"tenant": "b"}}),
        ("FAISS", {"tenant": None}),
        ("FAISS", {"tenant": {"$in": ["a", None]}}),
        ("FAISS", {"$or": [{"tenant": "a"}, {}]}),
        ("FAISS", {"$or": [{"tenant": "a"}, {"$and": []}]}),
        pytest.param("Qdrant", models.Filter(), id="Qdrant-nothing"),
        pytest.param("Qdrant", models.Filter(must=[]), id="Qdrant-must nothing"),
        pytest.param("Qdrant", A_OR_ANYTHING, id="Qdrant-should anything"),
        pytest.param("Qdrant", OF_NOBODY, id="Qdrant-is_empty"),
        pytest.param("Qdrant", NOT_B, id="Qdrant-must_not"),
        pytest.param("Qdrant", models.Filter(must=[NOT_B]), id="Qdrant-must_not within must"),
    ],
    ids=str,
)
def test_a_required_filter_that_passes_rows_without_the_key_is_rejected(kind, condition):
    retriever = SIFTRetriever(
        vectorstore=STORES[kind][0](), require_filter=True, search_kwargs={"filter": condition}
    )
    with pytest.raises(InvalidFilter, match="must name the allowed values"):
        retriever.invoke(QUERY)


def test_a_tenant_s_name_is_not_read_as_an_operator(shared_chroma):
    shared_chroma.add_texts(["odd one"], [{"tenant": "$ne"}], ids=["odd"])
    try:
        found = retriever_for(shared_chroma, "$ne").invoke(QUERY)
    finally:
        shared_chroma.delete(["odd"])
    assert [document.page_content for document in found] == ["odd one"]


# One retriever, and the tenant of each request


def per_request(store):
    """Return a retriever that returns nothing until a request sets the tenant."""
    retriever = SIFTRetriever(vectorstore=store, require_filter=True, k=5)
    return retriever.configurable_fields(search_kwargs=ConfigurableField(id="search_kwargs"))


def config_of(tenant, condition=as_dictionary):
    return {"configurable": {"search_kwargs": {"filter": condition({"tenant": tenant})}}}


async def test_search_kwargs_of_a_request_set_the_tenant(shared):
    store, convert = shared
    retriever = per_request(store)
    with pytest.raises(InvalidFilter):
        retriever.invoke(QUERY)
    configs = [config_of(tenant, convert) for tenant in "abab"]
    lists = [retriever.invoke(QUERY, config) for config in configs]
    assert [tenants(documents) for documents in lists] == [{"a"}, {"b"}, {"a"}, {"b"}]
    assert retriever.batch([QUERY] * 4, configs) == lists
    assert [await retriever.ainvoke(QUERY, config) for config in configs] == lists
    assert await retriever.abatch([QUERY] * 4, configs) == lists
    forgery = convert({"$or": [{"tenant": "a"}, {"tenant": "b"}]})
    assert retriever.invoke(QUERY, configs[0], filter=forgery) == lists[0]
    with pytest.raises(InvalidFilter):
        retriever.invoke(QUERY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_changes_to_the_documents_of_one_request_reach_no_other(kind):
    make, convert = STORES[kind]
    store = make()
    for candidate_search in CANDIDATE_SEARCHES:
        retriever = retriever_for(store, "a", convert, k=12, candidate_search=candidate_search)
        queries = [QUERY, *(f"query {number}" for number in range(3)), QUERY]
        expected = retriever.batch(queries)
        first, *others = retriever.batch(queries)
        for document in first:
            document.metadata["tenant"] = "b"
            document.metadata["note"] = "of another"
        assert others == expected[1:]
        assert retriever.batch(queries) == expected


# Where a filter cannot be joined with another


class Foreign(VectorStore):
    """A store without an adapter."""

    def __init__(self):
        self._inner = in_memory()

    @property
    def embeddings(self):
        return self._inner.embeddings

    def similarity_search_by_vector(self, embedding, k=4, **kwargs):
        return self._inner.similarity_search_by_vector(embedding, k, **kwargs)

    def similarity_search(self, query, k=4, **kwargs):
        return self._inner.similarity_search(query, k, **kwargs)

    @classmethod
    def from_texts(cls, *_, **__):
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore:the vectors of a Foreign cannot be read:UserWarning")
def test_a_filter_of_the_call_is_rejected_if_filters_cannot_be_joined():
    retriever = retriever_for(Foreign(), "a", as_function)
    assert tenants(retriever.invoke(QUERY)) == {"a"}
    with pytest.raises(ArgumentError, match="filters of a Foreign cannot be joined"):
        retriever.invoke(QUERY, filter=lambda _: True)
