"""`select_batch`: for every prompt what `select` chooses for it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference import problems

from langchain_sift.errors import ArgumentError, EmbeddingError
from langchain_sift.selection import select, select_batch


def assert_same(found, expected):
    assert found.indices.tolist() == expected.indices.tolist()
    assert_allclose(found.gains, expected.gains, atol=1e-9)
    assert_allclose(found.posterior_variances, expected.posterior_variances, atol=1e-9)
    assert found.prior_variance == pytest.approx(expected.prior_variance)


ARGUMENTS = st.fixed_dictionaries(
    {
        "k": st.integers(1, 8),
        "noise_variance": st.sampled_from([0.01, 1.0]),
        "replace": st.booleans(),
        "stopping_alpha": st.sampled_from([None, 0.2, 0.7]),
    }
)


@settings(max_examples=200)
@given(
    st.lists(problems(duplicates=False), min_size=1, max_size=5),
    ARGUMENTS,
    st.sampled_from([np.asarray, torch.as_tensor]),
)
def test_each_prompt_gets_what_it_gets_alone(drawn, arguments, library):
    # One dimension for all of them: prompts of a batch are embedded by one model.
    dimensions = min(problem.queries.shape[1] for problem in drawn)
    queries = [library(problem.queries[:, :dimensions].copy()) for problem in drawn]
    candidates = [library(problem.candidates[:, :dimensions].copy()) for problem in drawn]
    together = select_batch(queries, candidates, **arguments)
    alone = [
        select(query, rows, **arguments) for query, rows in zip(queries, candidates, strict=True)
    ]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)


def test_prompts_without_candidates_get_none_and_do_not_disturb_the_others():
    rng = np.random.default_rng(0)
    queries, rows = rng.standard_normal((3, 4)), rng.standard_normal((6, 4))
    nothing = np.empty((0, 4))
    found = select_batch([*queries], [nothing, rows, nothing], k=3)
    assert [len(selection.indices) for selection in found] == [0, 3, 0]
    assert_same(found[1], select(queries[1], rows, k=3))
    assert [len(one.indices) for one in select_batch([*queries], [nothing] * 3, k=3)] == [0, 0, 0]
    assert found[0].prior_variance == pytest.approx(float(queries[0] @ queries[0]))
    assert select_batch([], [], k=3) == []


def test_what_is_wrong_is_said():
    rng = np.random.default_rng(0)
    query, rows = rng.standard_normal(4), rng.standard_normal((6, 4))
    with pytest.raises(ArgumentError, match=r"of one length, got 2 and 1"):
        select_batch([query, query], [rows], k=3)
    with pytest.raises(ArgumentError, match=r"k must be .* got 0"):
        select_batch([query], [rows], k=0)
    with pytest.raises(EmbeddingError, match=r"query has 4 dimensions .* 3"):
        select_batch([query, query], [rows, rows[:, :3]], k=3)
    with pytest.raises(EmbeddingError, match="row 1"):
        select_batch([query], [np.vstack([rows[0], np.zeros(4)])], k=3)
