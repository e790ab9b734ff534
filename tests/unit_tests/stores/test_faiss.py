"""Read from FAISS: kinds of indexes, forms of filters, rows without a text."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from langchain_community.docstore.in_memory import InMemoryDocstore
from unit_tests.stores.real_stores import (
    DIMENSIONS,
    QUERY,
    TEXTS,
    ByHand,
    CountingEmbeddings,
    fill,
    id_of,
    make_faiss,
    texts_of,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import InvalidFilter, StoreError


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


def trained_ivf(embeddings, *, lists=1, probes=1):
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSIONS), DIMENSIONS, lists)
    index.cp.min_points_per_centroid = 1  # else a warning is printed
    index.train(embeddings.vectors(TEXTS).astype(np.float32))
    index.nprobe = probes
    return index


@pytest.mark.parametrize("search", ["nearest", "residual", "exhaustive"])
def test_an_ivf_index_without_a_direct_map_raises_an_error_with_the_cure(embeddings, search):
    store = fill(make_faiss(embeddings, index=trained_ivf(embeddings)))
    retriever = SIFTRetriever(vectorstore=store, candidate_search=search)
    with pytest.raises(StoreError, match=r"IndexIVFFlat: call make_direct_map\(\)"):
        retriever.invoke(QUERY)
    store.index.make_direct_map()
    assert len(retriever.invoke(QUERY)) == 4


def test_an_ivf_index_with_all_lists_equals_brute_force(embeddings):
    index = trained_ivf(embeddings, lists=4, probes=4)
    store = fill(make_faiss(embeddings, index=index))
    index.make_direct_map()
    found = SIFTRetriever(vectorstore=store, k=6, fetch_k=12).invoke(QUERY)
    expected = ByHand(embeddings).choice(embeddings.vector(QUERY), k=6, fetch_k=12)
    assert texts_of(found) == expected


def test_an_ivf_index_with_few_lists_chooses_among_their_rows(embeddings):
    index = trained_ivf(embeddings, lists=8, probes=1)
    store = fill(make_faiss(embeddings, index=index))
    index.make_direct_map()
    looked_at = {found.page_content for found in store.similarity_search(QUERY, k=len(TEXTS))}
    assert 1 <= len(looked_at) < len(TEXTS)
    neighbours = SIFTRetriever(vectorstore=store, k=len(TEXTS), search_type="similarity")
    assert set(texts_of(neighbours.invoke(QUERY))) == looked_at


def test_a_graph_index_equals_brute_force(embeddings):
    store = fill(make_faiss(embeddings, index=faiss.IndexHNSWFlat(DIMENSIONS, 32)))
    found = SIFTRetriever(vectorstore=store, k=6, fetch_k=12).invoke(QUERY)
    expected = ByHand(embeddings).choice(embeddings.vector(QUERY), k=6, fetch_k=12)
    assert texts_of(found) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"even": True, "number": {"$lt": 6}}, [0, 2, 4]),
        ({"number": [1, 3, 99]}, [1, 3]),
        ({"$or": [{"number": 7}, {"number": {"$gte": 38}}]}, [7, 38, 39]),
        (lambda metadata: metadata["number"] % 10 == 3, [3, 13, 23, 33]),
        ({"number": -1}, []),
    ],
)
def test_a_filter_of_each_form_is_applied(embeddings, condition, expected):
    store = fill(make_faiss(embeddings))
    for search in ("nearest", "exhaustive"):
        retriever = SIFTRetriever(vectorstore=store, k=40, candidate_search=search)
        found = retriever.invoke(QUERY, filter=condition)
        assert sorted(texts_of(found)) == sorted(TEXTS[number] for number in expected)


@pytest.mark.parametrize("condition", [{"$near": 3}, {"number": {"$near": 3}}, "number = 3", 3])
def test_an_unknown_filter_is_an_invalid_filter(embeddings, condition):
    store = fill(make_faiss(embeddings))
    with pytest.raises(InvalidFilter, match=r"\$near|must be a dict"):
        SIFTRetriever(vectorstore=store).invoke(QUERY, filter=condition)


def test_rows_without_a_text_are_skipped_and_replaced(embeddings):
    store = fill(make_faiss(embeddings))
    query = embeddings.vector(QUERY)
    lost = ByHand(embeddings).candidates(query, fetch_k=10)
    store.docstore.delete([id_of(TEXTS.index(text)) for text in lost])
    left = ByHand(embeddings, [text for text in TEXTS if text not in lost])
    for search in ("nearest", "exhaustive"):
        settings = {"fetch_k": 5, "candidate_search": search}
        found = SIFTRetriever(vectorstore=store, k=5, **settings).retrieve_with_scores(QUERY)
        fetch_k = 5 if search == "nearest" else len(TEXTS)
        assert texts_of(found) == left.choice(query, k=5, fetch_k=fetch_k)
        assert found.candidates == len(left.candidates(query, fetch_k=fetch_k))


def test_a_normalising_store_gives_the_same_choice(embeddings):
    embeddings.lengths = (0.1, 1.0, 20.0)
    texts = [f"{text}{'!' * (number % 4)}" for number, text in enumerate(TEXTS)]
    plain = make_faiss(embeddings)
    scaling = make_faiss(embeddings, index=faiss.IndexFlatIP(DIMENSIONS))
    scaling._normalize_L2 = True
    expected = ByHand(embeddings, texts).choice(embeddings.vector(QUERY), k=6, fetch_k=40)
    for store in (plain, scaling):
        found = SIFTRetriever(vectorstore=fill(store, texts), k=6).invoke(QUERY)
        assert texts_of(found) == expected


def test_a_reloaded_store_gives_the_same_choice(embeddings, tmp_path):
    store = fill(make_faiss(embeddings))
    expected = SIFTRetriever(vectorstore=store, k=6).invoke(QUERY)
    store.save_local(str(tmp_path))
    loaded = type(store).load_local(str(tmp_path), embeddings, allow_dangerous_deserialization=True)
    assert SIFTRetriever(vectorstore=loaded, k=6).invoke(QUERY) == expected


@pytest.mark.parametrize("of_docstore", [True, False], ids=["deleted", "deleted from the index"])
@pytest.mark.parametrize("search", ["nearest", "exhaustive"])
def test_rows_that_are_deleted_during_a_search_are_left_out(embeddings, search, of_docstore):
    class Docstore(InMemoryDocstore):
        def search(self, key):
            if waiting:  # as another thread does while an answer is read
                waiting.clear()
                if of_docstore:
                    store.delete([id_of(number) for number in range(7)])
                else:
                    store.index.remove_ids(np.arange(7))
            return super().search(key)

    waiting: list[bool] = []
    store = make_faiss(embeddings)
    store.docstore = Docstore()
    fill(store)
    waiting.append(True)
    found = SIFTRetriever(vectorstore=store, k=40, candidate_search=search).invoke(QUERY)
    assert not waiting
    # The row that was looked up first may be among the deleted ones.
    assert len(set(texts_of(found))) == len(found) >= len(TEXTS) - 8
    assert not of_docstore or set(texts_of(found)) <= set(TEXTS[7:])


def test_rows_that_were_added_to_the_index_alone_are_left_out(embeddings):
    store = fill(make_faiss(embeddings))
    store.index.add(embeddings.vectors([QUERY]).astype(np.float32))
    neighbours = SIFTRetriever(vectorstore=store, k=5, fetch_k=5, search_type="similarity")
    expected = ByHand(embeddings).candidates(embeddings.vector(QUERY), fetch_k=5)
    assert texts_of(neighbours.invoke(QUERY)) == expected
