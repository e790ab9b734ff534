"""Count rows, copies and faulty vectors, whatever the pages."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_sift.diagnosis.row_counts import RowCounter, RowCounts
from langchain_sift.stores.interface import Rows

NUMBERS = st.sampled_from([0.0, 1.0, -3.0, 1e-3, math.nan, math.inf])
ROW = st.tuples(st.sampled_from(["", " ", "a", "b", "c"]), NUMBERS, NUMBERS)


def counted(rows: list[tuple[str, float, float]], pages: int, without_text: int = 0) -> RowCounts:
    counter = RowCounter()
    for part in np.array_split(np.arange(len(rows)), pages):
        documents = [Document(rows[n][0]) for n in part]
        vectors = np.array([rows[n][1:] for n in part]) if len(part) else np.empty((0, 0))
        counter.add(Rows(documents, vectors, len(part)))
    counter.add(Rows([], np.empty((0, 0)), without_text))
    return counter.counts(complete=True)


@given(st.lists(ROW, min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 3))
@pytest.mark.filterwarnings("error")
def test_the_numbers_are_those_of_a_count_by_hand(
    rows: list[tuple[str, float, float]], pages: int, without_text: int
) -> None:
    found = counted(rows, pages, without_text)
    copies = Counter(text for text, _, _ in rows)
    assert (found.rows, found.texts) == (len(rows) + without_text, len(copies))
    assert found.without_text == without_text
    assert found.blank == sum(not text.strip() for text, _, _ in rows)
    assert found.most_copies == max(copies.values())
    assert found.exact_copies == pytest.approx(1 - len(copies) / len(rows))
    assert found.dimensions == (2,)
    norms = [math.hypot(x, y) for _, x, y in rows]
    sound = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    assert found.zero_vectors == sum(norm == 0 for norm in norms)
    assert found.non_finite_vectors == sum(not math.isfinite(norm) for norm in norms)
    expected = (min(sound), max(sound)) if sound else (math.nan, math.nan)
    assert (found.shortest_norm, found.longest_norm) == pytest.approx(expected, nan_ok=True)
    units = sum(abs(norm - 1) <= 1e-3 for norm in sound) / len(sound) if sound else math.nan
    assert found.unit_vectors == pytest.approx(units, nan_ok=True)


def test_an_empty_store_and_two_dimensions_are_counted() -> None:
    counter = RowCounter()
    assert counter.counts(complete=True).rows == 0
    counter.add(Rows([Document("a")], np.ones((1, 3)), 1))
    counter.add(Rows([Document("b")], np.ones((1, 2)), 1))
    found = counter.counts(complete=False)
    assert (found.dimensions, found.complete) == ((2, 3), False)
