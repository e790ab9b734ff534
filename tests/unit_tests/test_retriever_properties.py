"""Compare random stores, queries and settings with the formula."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.vectorstores import InMemoryVectorStore
from unit_tests.stores.real_stores import ByHand, CountingEmbeddings, make_chroma, texts_of, unit

from langchain_sift import SIFTRetriever

SEARCHES = ("nearest", "residual", "exhaustive")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Case:
    """A store's rows in an order, a query and settings."""

    embeddings: CountingEmbeddings
    rows: tuple[tuple[str, str], ...]  # id and text; texts may occur again
    queries: np.ndarray
    settings: dict

    @property
    def kernel(self):
        """The kernel of the oracle."""
        if self.settings["kernel"] == "linear":
            return reference.linear
        return reference.rbf(self.settings["length_scale"])

    def counts(self, vectors, *, replace=False):
        """Return True for each vector that says something about the queries."""
        if replace or self.settings["kernel"] != "linear":
            return np.full(len(vectors), fill_value=True)
        return ~reference.points_away(self.queries, vectors)

    def retriever(self, store=None, **settings):
        store = self.store(InMemoryVectorStore(self.embeddings)) if store is None else store
        return SIFTRetriever(vectorstore=store, **{**self.settings, **settings})

    def store(self, store, *, rows=None):
        rows = self.rows if rows is None else rows
        store.add_texts([text for _, text in rows], ids=[id_ for id_, _ in rows])
        return store


@st.composite
def cases(draw, *, most=25, copies=True, searches=SEARCHES):
    """Draw up to so many rows, some of them of the same text; no two vectors tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    different, dimensions = draw(st.integers(1, most)), draw(st.integers(2, 12))
    texts = [f"text {number}" for number in range(different)]
    shift = draw(st.sampled_from([0.0, 0.7]))  # 0.7: few vectors point away from one another
    vectors = rng.standard_normal((different, dimensions)) + shift
    repeats = draw(st.integers(0, most)) if copies else 0
    copied = [texts[row] for row in rng.integers(0, different, size=repeats)]
    rows = [*texts, *copied]
    order = rng.permutation(len(rows))
    queries = rng.standard_normal((draw(st.integers(1, 3)), dimensions)) + shift
    search = draw(st.sampled_from(searches))
    kernels = ["linear"] if search == "residual" else ["linear", "rbf"]
    return Case(
        embeddings=CountingEmbeddings(
            dimensions=dimensions, given=dict(zip(texts, vectors, strict=True))
        ),
        rows=tuple((str(uuid.UUID(int=int(row))), rows[row]) for row in order),
        queries=unit(queries),
        settings={
            "k": draw(st.integers(1, 10)),
            "fetch_k": draw(st.integers(1, 30)),
            "step_fetch_k": draw(st.integers(1, 8)),
            "noise_variance": draw(st.sampled_from([1e-4, 1e-2, 0.1, 1.0, 30.0])),
            "kernel": draw(st.sampled_from(kernels)),
            "length_scale": draw(st.sampled_from([0.3, 1.0])),
            "candidate_search": search,
        },
    )


def ask(case, store=None, **settings):
    return case.retriever(store, **settings).retrieve_by_vectors(case.queries.tolist())


@pytest.mark.slow
@settings(max_examples=400)
@given(case=cases())
def test_choices_are_stored_rows_of_different_texts(case):
    retrieval = ask(case)
    stored = dict(case.rows)
    assert 1 <= len(retrieval.choices) <= min(case.settings["k"], len(set(stored.values())))
    assert len(set(texts_of(retrieval))) == len(retrieval.choices)
    for choice in retrieval.choices:
        assert stored[choice.id] == choice.document.page_content
        copies = [text for text in stored.values() if text == choice.document.page_content]
        assert 1 <= choice.copies <= len(copies)
    if case.settings["candidate_search"] != "residual":
        assert len(retrieval.choices) == min(case.settings["k"], retrieval.candidates)


@pytest.mark.slow
@settings(max_examples=400)
@given(case=cases(), replace=st.booleans())
def test_the_variance_equals_the_formula_and_never_increases(case, replace):
    retrieval = case.retriever().retrieve_by_vectors(case.queries.tolist(), replace=replace)
    chosen = unit(case.embeddings.vectors(texts_of(retrieval)))
    counts = case.counts(chosen, replace=replace)
    noise = case.settings["noise_variance"]
    before = retrieval.prior_variance
    assert before == pytest.approx(len(case.queries))
    for step, choice in enumerate(retrieval.choices, start=1):
        observed = chosen[:step][counts[:step]]
        left = reference.posterior_variance(case.queries, observed, noise, case.kernel)
        assert choice.posterior_variance == pytest.approx(left, abs=1e-8)
        assert choice.gain >= -TOLERANCE
        assert choice.posterior_variance <= before + TOLERANCE
        assert choice.gain == pytest.approx(before - choice.posterior_variance, abs=TOLERANCE)
        assert -1 - TOLERANCE <= choice.similarity <= 1 + TOLERANCE
        before = choice.posterior_variance
    assert before >= retrieval.irreducible_variance - TOLERANCE
    assert 0.0 <= retrieval.irreducible_variance <= retrieval.prior_variance + TOLERANCE


@pytest.mark.slow
@settings(max_examples=400)
@given(case=cases(most=15, copies=False, searches=("nearest",)))
def test_each_choice_is_the_best_of_the_nearest_by_cosine(case):
    fetch_k = max(case.settings["fetch_k"], case.settings["k"])
    by_hand = ByHand(case.embeddings, [text for _, text in case.rows])
    expected = by_hand.candidates(case.queries, fetch_k=fetch_k)
    vectors = unit(case.embeddings.vectors(expected))
    retrieval = ask(case)
    assert retrieval.candidates == len(expected)
    chosen = [expected.index(text) for text in texts_of(retrieval)]
    counts = case.counts(vectors)
    for step, index in enumerate(chosen):
        observed = [row for row in chosen[:step] if counts[row]]
        after = reference.variances_if_chosen(
            case.queries, vectors, observed, case.settings["noise_variance"], case.kernel
        )
        after[chosen[:step]] = np.inf
        after[~counts] = np.inf
        assert after[index] <= after.min() + 1e-8
        if not counts[index]:  # no other is left, and the nearest comes first
            highest = (vectors @ case.queries.T).max(axis=1)
            highest[chosen[:step]] = -np.inf
            assert highest[index] >= highest.max() - 1e-9


@pytest.mark.slow
@settings(max_examples=150)
@given(case=cases())
def test_a_text_that_points_away_never_precedes_another(case):
    case.settings["kernel"] = "linear"
    retrieval = ask(case)
    is_away = ~case.counts(unit(case.embeddings.vectors(texts_of(retrieval))))
    assert (np.diff(is_away.astype(int)) >= 0).all()
    assert all(choice.gain < TOLERANCE for choice in np.array(retrieval.choices)[is_away])
    others = {text for _, text in case.rows} - set(texts_of(retrieval))
    if is_away.any() and others and case.settings["candidate_search"] != "nearest":
        assert not case.counts(unit(case.embeddings.vectors(sorted(others)))).any()


@pytest.mark.slow
@settings(max_examples=400)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(case, seed):
    order = np.random.default_rng(seed).permutation(len(case.rows))
    rows = [case.rows[row] for row in order]
    other = case.store(InMemoryVectorStore(case.embeddings), rows=rows)
    expected, found = ask(case), ask(case, other)
    assert texts_of(found) == texts_of(expected)
    assert found.candidates == expected.candidates
    assert [choice.copies for choice in found.choices] == [
        choice.copies for choice in expected.choices
    ]
    assert found.posterior_std == pytest.approx(expected.posterior_std, abs=TOLERANCE)


@settings(max_examples=200)
@given(case=cases(), search_type=st.sampled_from(["similarity", "mmr", "uncertainty_sampling"]))
def test_no_other_method_leaves_less_variance_after_one_choice(case, search_type):
    case.settings.update(k=1, candidate_search="exhaustive")
    best = ask(case).choices[0].posterior_variance
    other = ask(case, search_type=search_type)
    if case.counts(unit(case.embeddings.vectors(texts_of(other)))).all():
        assert best <= other.choices[0].posterior_variance + TOLERANCE


@pytest.mark.slow
@settings(max_examples=40)
@given(case=cases(most=10))
def test_chroma_s_metric_changes_nothing_for_unit_vectors(case):
    case.embeddings.given = {t: unit(vector) for t, vector in case.embeddings.given.items()}
    found = []
    for space in ("l2", "cosine", "ip"):
        chroma = case.store(make_chroma(case.embeddings, space=space))
        found.append(ask(case, chroma))
        chroma.delete_collection()
    assert texts_of(found[1]) == texts_of(found[0])
    assert texts_of(found[2]) == texts_of(found[0])
    in_memory = ask(case)  # in float64, where Chroma has float32
    for retrieval in found:
        assert retrieval.candidates == in_memory.candidates
        assert retrieval.posterior_std == pytest.approx(in_memory.posterior_std, abs=1e-4)
