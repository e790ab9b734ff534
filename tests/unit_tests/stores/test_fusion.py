"""Join a store's candidates with a second retriever's, and compare with brute force."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import reference
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError
from unit_tests.stores.real_stores import (
    KINDS,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    condition,
    fill,
    id_of,
    make_chroma,
    make_store,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, InvalidFilter, StoreError
from langchain_sift.stores import register_adapter
from langchain_sift.stores.adapters.in_memory import InMemoryAdapter
from langchain_sift.stores.fusion import fused_scores
from langchain_sift.stores.interface import adapter_for

pytestmark = pytest.mark.slow

RBF = {"kernel": "rbf", "length_scale": 0.9, "noise_variance": 0.2}
UNKNOWN = [f"elsewhere {number}" for number in range(3)]


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, embeddings, tmp_path):
    return fill(make_store(kind, embeddings, tmp_path))


def document_of(number):
    return Document(id=id_of(number), page_content=TEXTS[number], metadata={"number": number})


def returning(*documents):
    """Return a retriever that returns the same documents for every query."""
    return RunnableLambda(lambda _: list(documents))


def rank_by_hand(lists):
    """Return the texts of some lists by the sum of 1 / (60 + rank), and the sums."""
    scores = {}
    for texts in lists:
        for rank, text in enumerate(texts, start=1):
            scores[text] = scores.get(text, 0.0) + 1 / (60 + rank)
    order = sorted(scores, key=lambda text: -scores[text])
    return order, np.array([scores[text] for text in order])


def choose_by_hand(embeddings, second, *, k, fetch_k, query=QUERY, texts=TEXTS):
    """Choose with λ'_i = (1 + λ') / w_i − 1, for w_i the fused score of the highest."""
    vector = unit(embeddings.vector(query))[None]
    dense = ByHand(embeddings, texts).candidates(vector, fetch_k=fetch_k)
    order, scores = rank_by_hand([dense, second[:fetch_k]])
    order, scores = order[:fetch_k], scores[:fetch_k]
    chosen, _ = reference.sift(
        vector,
        unit(embeddings.vectors(order)),
        k=k,
        noise_variance=(1 + RBF["noise_variance"]) / (scores / scores[0]) - 1,
        kernel=reference.rbf(RBF["length_scale"]),
    )
    return [order[row] for row in chosen]


@pytest.mark.parametrize("fetch_k", [6, 15, 100])
async def test_the_choice_equals_brute_force_by_fused_ranks(store, embeddings, fetch_k):
    numbers = np.random.default_rng(fetch_k).permutation(len(TEXTS))[:12].tolist()
    retriever = SIFTRetriever(
        vectorstore=store,
        k=6,
        fetch_k=fetch_k,
        second_retriever=returning(*map(document_of, numbers)),
        **RBF,
    )
    second = [TEXTS[number] for number in numbers]
    queries = [QUERY, "why?", "who knows?"]
    expected = [
        choose_by_hand(embeddings, second, k=6, fetch_k=fetch_k, query=query) for query in queries
    ]
    assert [texts_of(retriever.invoke(query)) for query in queries] == expected
    assert [texts_of(await retriever.ainvoke(query)) for query in queries] == expected
    assert [texts_of(found) for found in retriever.batch(queries)] == expected
    assert [texts_of(found) for found in await retriever.abatch(queries)] == expected


def test_the_scores_are_those_of_reciprocal_rank_fusion():
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(1, 30))
        lists = [rng.permutation(n)[: rng.integers(0, n + 1)].tolist() for _ in range(3)]
        lists[0] = rng.permutation(n).tolist()
        ranks = np.full((3, n), np.inf)
        for position, each in enumerate(lists):
            ranks[position, each] = np.arange(1, len(each) + 1)
        order, scores = rank_by_hand(lists)
        np.testing.assert_allclose(fused_scores(*ranks)[order], scores, rtol=1e-12)


def test_a_second_list_of_nothing_changes_nothing(store, kind):
    alone = SIFTRetriever(vectorstore=store, k=5)
    joined = SIFTRetriever(vectorstore=store, k=5, second_retriever=returning())
    assert joined.invoke(QUERY) == alone.invoke(QUERY)
    excluded = SIFTRetriever(vectorstore=store, k=5, second_retriever=returning(document_of(3)))
    filter = condition(kind, "even", value=True)
    assert excluded.invoke(QUERY, filter=filter) == alone.invoke(QUERY, filter=filter)
    nothing = condition(kind, "number", 99)
    assert excluded.invoke(QUERY, filter=nothing) == []


def test_the_documents_are_those_of_the_store(store, embeddings):
    """The id counts: neither a changed text nor changed metadata of the other retriever."""
    far = ByHand(embeddings).candidates(embeddings.vector(QUERY), fetch_k=40)[-1]
    number = TEXTS.index(far)
    forged = Document(id=id_of(number), page_content="forged", metadata={"number": -1})
    retriever = SIFTRetriever(
        vectorstore=store, k=3, fetch_k=3, second_retriever=returning(forged), noise_variance=1e-6
    )
    found = {d.page_content: d for d in retriever.invoke(QUERY)}
    assert found[far].metadata["number"] == number
    assert "forged" not in found
    assert embeddings.documents.count("forged") == 0


def test_documents_that_the_store_lacks_are_embedded_once(store, embeddings):
    strangers = [Document(page_content=text) for text in UNKNOWN]
    named = [Document(id=f"other-{n}", page_content=text) for n, text in enumerate(UNKNOWN[:2])]
    retriever = SIFTRetriever(
        vectorstore=store,
        k=6,
        fetch_k=12,
        second_retriever=returning(*strangers, document_of(3), *named),
        **RBF,
    )
    with embeddings.counting():
        found = texts_of(retriever.invoke(QUERY))
    assert embeddings.documents == UNKNOWN
    second = [*UNKNOWN, TEXTS[3]]
    assert found == choose_by_hand(embeddings, second, k=6, fetch_k=12)
    with embeddings.counting():
        lists = retriever.batch([QUERY, "why?"])
    assert sorted(embeddings.documents) == sorted(UNKNOWN)  # one batch for both queries
    assert texts_of(lists[0]) == found


def test_a_filter_holds_for_both_lists(store, kind, embeddings):
    everything = returning(*map(document_of, range(len(TEXTS))))
    retriever = SIFTRetriever(vectorstore=store, k=40, second_retriever=everything)
    found = retriever.invoke(QUERY, filter=condition(kind, "even", value=True))
    assert {d.metadata["number"] for d in found} == set(range(0, 40, 2))
    unknown = returning(Document(id=id_of(999), page_content=UNKNOWN[0]), document_of(4))
    retriever = SIFTRetriever(vectorstore=store, k=40, second_retriever=unknown)
    with embeddings.counting():
        found = retriever.invoke(QUERY, filter=condition(kind, "even", value=True))
    assert UNKNOWN[0] not in texts_of(found)
    assert embeddings.documents == []


def test_documents_that_cannot_be_checked_are_refused_beside_a_filter(store, kind):
    nameless = returning(document_of(2), Document(page_content=TEXTS[4]))
    retriever = SIFTRetriever(vectorstore=store, second_retriever=nameless)
    assert retriever.invoke(QUERY)
    filter = condition(kind, "even", value=True)
    with pytest.raises(InvalidFilter, match=r"1 of 2 documents of the second retriever have no id"):
        retriever.invoke(QUERY, filter=filter)
    (error,) = retriever.batch([QUERY], filter=filter, return_exceptions=True)
    assert isinstance(error, InvalidFilter)


def test_rows_are_read_by_id_under_the_filter(store, kind):
    adapter = adapter_for(store)
    ids = [id_of(n) for n in (7, 2, 3, 999, 4)]
    filter = condition(kind, "even", value=True)
    rows = adapter.by_ids(ids, timeout=5, filter=filter)
    assert {d.id: d.page_content for d in rows.documents} == {id_of(n): TEXTS[n] for n in (2, 4)}
    everything = adapter.by_ids([*ids, "no uuid"], timeout=5)
    assert sorted(d.page_content for d in everything.documents) == sorted(
        TEXTS[n] for n in (2, 3, 4, 7)
    )
    by_text = dict(zip(texts_of(everything), everything.vectors, strict=True))
    np.testing.assert_allclose(
        unit(by_text[TEXTS[7]]), unit(store.embeddings.vector(TEXTS[7])), atol=1e-6
    )
    assert adapter.by_ids([id_of(999)], timeout=5).documents == []


def test_many_ids_are_read_in_parts(embeddings):
    texts = [f"fact {number}" for number in range(700)]
    store = fill(make_chroma(embeddings), texts)
    documents = [Document(id=id_of(n), page_content=text) for n, text in enumerate(texts)]
    retriever = SIFTRetriever(
        vectorstore=store, k=5, fetch_k=700, second_retriever=returning(*documents[::-1]), **RBF
    )
    retriever.invoke(QUERY, fetch_k=650)
    sizes = []
    get = store._collection._client._get

    def count(*args, **kwargs):
        sizes.append(len(kwargs["ids"] or ()))
        return get(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._collection._client, "_get", count)
        found = retriever.retrieve_with_scores(QUERY, fetch_k=650)
    assert found.candidates == 650
    assert all(size <= 300 for size in sizes)


def test_several_parts_of_a_query_each_ask_the_second_retriever(store, embeddings):
    asked = []

    def answer(part):
        asked.append(part)
        return [document_of(len(part))]

    retriever = SIFTRetriever(
        vectorstore=store,
        k=8,
        fetch_k=8,
        second_retriever=RunnableLambda(answer),
        query_splitter=lambda query: query.split(),
        **RBF,
    )
    found = retriever.retrieve_with_scores("one three")
    assert asked == ["one", "three"]
    vectors = unit(embeddings.vectors(["one", "three"]))
    lists = [ByHand(embeddings).candidates(vector, fetch_k=8) for vector in vectors]
    assert set(texts_of(found)) <= {*lists[0], *lists[1], TEXTS[3], TEXTS[5]}
    assert found.candidates == len({*lists[0], *lists[1], TEXTS[3], TEXTS[5]})


def test_a_deleted_row_does_not_come_back_by_a_retriever_on_the_same_store(store):
    class OnStore(RunnableLambda):
        vectorstore = store

    stale = OnStore(lambda _: [document_of(5), document_of(6)])
    store.delete([id_of(5)])
    retriever = SIFTRetriever(vectorstore=store, k=40, second_retriever=stale)
    found = texts_of(retriever.invoke(QUERY))
    assert TEXTS[5] not in found
    assert TEXTS[6] in found


def test_constraints_count_as_without_a_second_retriever(store, embeddings):
    second = returning(*map(document_of, range(30)))
    retriever = SIFTRetriever(vectorstore=store, k=40, second_retriever=second)
    cosines = dict(
        zip(
            TEXTS,
            unit(embeddings.vectors(TEXTS)) @ unit(embeddings.vector(QUERY)),
            strict=True,
        )
    )
    near = {text for text in TEXTS if cosines[text] >= 0.3}
    assert set(texts_of(retriever.invoke(QUERY, min_similarity=0.3))) == near
    capped = retriever.invoke(QUERY, group_by="even", max_per_source=2)
    assert sorted(d.metadata["even"] for d in capped) == [False, False, True, True]
    merged = retriever.retrieve_with_scores(QUERY, near_duplicate_similarity=0.5)
    assert sum(choice.copies for choice in merged.choices) == 40
    assert len(retriever.invoke(QUERY, max_tokens=5, token_counter=lambda _: 2)) == 2
    repeated = retriever.invoke(QUERY, replace=True, k=10)
    assert len(repeated) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_search": "residual", "kernel": "linear"}, "'residual' takes no second_retr"),
        ({"candidate_search": "exhaustive"}, "needs candidate_search 'nearest'"),
        ({"search_type": "mmr"}, "needs search_type 'sift'"),
        ({"search_type": "similarity"}, "needs search_type 'sift'"),
    ],
)
def test_searches_that_would_ignore_the_second_retriever_are_refused(settings, message):
    store = InMemoryVectorStore(CountingEmbeddings())
    with pytest.raises(ValidationError, match=message):
        SIFTRetriever(vectorstore=store, second_retriever=returning(), **settings)


def test_a_vector_has_no_words(embeddings):
    store = fill(InMemoryVectorStore(embeddings))
    retriever = SIFTRetriever(vectorstore=store, second_retriever=returning())
    with pytest.raises(ArgumentError, match="needs the text of the query"):
        retriever.retrieve_by_vector(embeddings.vector(QUERY).tolist())


def test_answers_that_are_no_documents_are_refused(embeddings):
    store = fill(InMemoryVectorStore(embeddings))
    for answer in ("text", ["text"], None):
        retriever = SIFTRetriever(
            vectorstore=store, second_retriever=RunnableLambda(lambda _, answer=answer: answer)
        )
        with pytest.raises(ArgumentError, match="must return a list of documents"):
            retriever.invoke(QUERY)


def test_an_error_of_the_second_retriever_belongs_to_its_query(embeddings):
    def answer(query):
        if query == "bad":
            raise LookupError("no index")
        return [document_of(1)]

    store = fill(InMemoryVectorStore(embeddings))
    retriever = SIFTRetriever(vectorstore=store, second_retriever=RunnableLambda(answer))
    with pytest.raises(LookupError, match="no index"):
        retriever.invoke("bad")
    found = retriever.batch([QUERY, "bad"], return_exceptions=True)
    assert found[0] == retriever.invoke(QUERY)
    assert isinstance(found[1], LookupError)


def test_an_unknown_document_without_a_direction_is_left_out():
    embeddings = CountingEmbeddings(given={UNKNOWN[0]: np.zeros(8)})
    store = fill(InMemoryVectorStore(embeddings))
    second = returning(Document(page_content=UNKNOWN[0]))
    retriever = SIFTRetriever(vectorstore=store, second_retriever=second)
    with pytest.warns(UserWarning, match="left out, such as one without an id"):
        found = retriever.invoke(QUERY)
    assert found
    assert UNKNOWN[0] not in [document.page_content for document in found]


def test_a_store_without_embeddings_says_so(embeddings):
    store = fill(make_chroma(embeddings))
    store._embedding_function = None
    second = returning(Document(page_content=UNKNOWN[0]))
    retriever = SIFTRetriever(vectorstore=store, second_retriever=second, query_embedder=embeddings)
    with pytest.raises(StoreError, match="the store has no embedding function"):
        retriever.invoke(QUERY)


class Own(InMemoryVectorStore):
    """A store whose adapter cannot read rows by id."""


class OwnAdapter(InMemoryAdapter):
    by_ids = None


def test_without_reading_by_id_texts_are_embedded_and_filters_refused(embeddings):
    register_adapter(Own, OwnAdapter)
    store = fill(Own(embeddings))
    retriever = SIFTRetriever(
        vectorstore=store, k=6, fetch_k=12, second_retriever=returning(*map(document_of, [1, 2]))
    )
    plain = fill(InMemoryVectorStore(embeddings))
    other = retriever.model_copy(update={"vectorstore": plain})
    with embeddings.counting(), warnings.catch_warnings():
        assert texts_of(retriever.invoke(QUERY)) == texts_of(other.invoke(QUERY))
    with pytest.raises(InvalidFilter, match="cannot read rows by id"):
        retriever.invoke(QUERY, filter=lambda document: document.metadata["number"] > 20)
