"""Measure cosines against those of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift.diagnosis.similarities import Distribution, measure_similarities
from langchain_sift.stores.calls import run
from langchain_sift.stores.interface import blocking_adapter_for
from langchain_sift.stores.sampling import sampled_rows


def test_cosines_are_those_of_all_pairs_and_copies_are_one_text(texts: list[str]) -> None:
    embeddings = WordEmbeddings()
    near = [f"{text} indeed" for text in texts[:15]]
    store = Chroma("similarities", embeddings, collection_metadata={"hnsw:space": "cosine"})
    try:
        # Twelve copies of one text: more than the neighbours that are looked for.
        store.add_documents([Document(text) for text in [*texts, *near, *[texts[0]] * 12]])
        adapter = blocking_adapter_for(store)
        sample = run(sampled_rows(100, 0), adapter, timeout=30, arguments={})
        found = run(measure_similarities(sample, 0.95), adapter, timeout=30, arguments={})
    finally:
        store.delete_collection()
    vectors = np.array(embeddings.embed_documents([row.document.page_content for row in sample]))
    assert len(vectors) == 75
    cosines = vectors @ vectors.T
    pairs = cosines[np.triu_indices(75, k=1)]
    np.fill_diagonal(cosines, -2)
    nearest = np.sort(cosines, axis=1)[:, ::-1][:, :10]
    for measured, expected in (
        (found.random_pairs, pairs),
        (found.nearest, nearest[:, 0]),
        (found.tenth, nearest[:, 9]),
    ):
        values = (measured.percent_5, measured.median, measured.percent_95)
        np.testing.assert_allclose(values, np.percentile(expected, [5, 50, 95]), atol=1e-5)
    duplicates = (nearest >= 0.95).sum(axis=1)
    assert found.near_duplicates == pytest.approx((duplicates > 0).mean())
    assert found.near_duplicates_among_ten == pytest.approx(duplicates.mean())
    assert 0.3 < found.near_duplicates < 0.9
    assert found.texts == 75


def test_a_store_of_one_text_has_no_neighbours() -> None:
    store = Chroma("single", WordEmbeddings())
    try:
        store.add_texts(["the only text"] * 3)
        adapter = blocking_adapter_for(store)
        sample = run(sampled_rows(5, 0), adapter, timeout=30, arguments={})
        found = run(measure_similarities(sample, 0.95), adapter, timeout=30, arguments={})
    finally:
        store.delete_collection()
    assert (found.texts, found.near_duplicates) == (1, 0.0)
    assert np.isnan([found.nearest.median, found.random_pairs.median]).all()
    assert Distribution.of(np.array([np.nan, 2.0])) == Distribution(2.0, 2.0, 2.0)
