"""Sample rows of a store: without order, without copies, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_sift.stores.calls import run
from langchain_sift.stores.interface import Rows, blocking_adapter_for
from langchain_sift.stores.sampling import RowSample, sampled_rows


def rows_of(texts: list[str], vectors: np.ndarray | None = None) -> Rows:
    documents = [Document(text, id=str(n)) for n, text in enumerate(texts)]
    vectors = np.ones((len(texts), 2)) if vectors is None else vectors
    return Rows(documents, vectors, len(documents))


def sample_of(texts: list[str], count: int, *, seed: int = 0, pages: int = 1) -> list[str]:
    sample = RowSample(count, seed)
    for part in np.array_split(np.array(texts, dtype=object), pages):
        sample.add(rows_of(part.tolist()))
    return [row.document.page_content for row in sample.rows()]


@given(st.lists(st.text(max_size=3), min_size=1, max_size=60), st.integers(1, 20), st.data())
def test_a_sample_depends_on_the_texts_alone(
    texts: list[str], count: int, data: st.DataObject
) -> None:
    found = sample_of(texts, count)
    assert len(found) == len(set(found)) == min(count, len(set(texts)))
    shuffled = data.draw(st.permutations(texts + texts[:3]))
    assert sample_of(shuffled, count, pages=3) == found
    assert sample_of(texts, count + 5)[: len(found)] == found


def test_each_text_is_as_likely_as_any_other() -> None:
    texts = [f"text {n}" for n in range(20)]
    counts = dict.fromkeys(texts, 0)
    for seed in range(400):
        for text in sample_of([*texts, *texts[:10]], 5, seed=seed):
            counts[text] += 1
    # Binomial with p = 1/4: the standard deviation is 8.7.
    assert all(60 <= count <= 140 for count in counts.values()), counts


@pytest.mark.filterwarnings("error")
def test_rows_without_a_usable_vector_are_left_out() -> None:
    vectors = np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [3.0, 4.0]])
    sample = RowSample(10, 0)
    sample.add(rows_of(["zero", "nan", "infinite", "sound"], vectors))
    sample.add(Rows([], np.empty((0, 0)), 0))
    (row,) = sample.rows()
    assert row.document.page_content == "sound"
    assert row.vector.tolist() == [3.0, 4.0]


def test_all_pages_of_a_store_are_read(store: Chroma, texts: list[str]) -> None:
    adapter = blocking_adapter_for(store)
    sample = run(sampled_rows(len(texts) + 1, 0), adapter, timeout=30, arguments={})
    stored = store.get(include=["documents", "embeddings"])
    vector_of = dict(zip(stored["documents"], stored["embeddings"], strict=True))
    assert {row.document.page_content for row in sample} == set(vector_of)
    for row in sample:
        np.testing.assert_array_equal(row.vector, vector_of[row.document.page_content])
