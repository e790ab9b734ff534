"""The strategies of pyversity choose as pyversity does, and report the variances that remain."""

from __future__ import annotations

import numpy as np
import pytest
import pyversity
from reference import posterior_variance

from langchain_sift.comparison import diversification
from langchain_sift.comparison.diversification import DIVERSIFIERS
from langchain_sift.comparison.methods import parse_methods
from langchain_sift.errors import ArgumentError
from langchain_sift.selection import mmr, nearest_neighbors


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(41, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[0], rows[1:]


@pytest.mark.parametrize("name", DIVERSIFIERS)
@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.5, 1.0])
def test_the_choice_is_that_of_pyversity(name: str, diversity: float) -> None:
    query, rows = problem(round(10 * diversity))
    (method,) = parse_methods([f"{name}:diversity={diversity}"], base=False)
    for k in (1, 5, 12, 40):
        ours = method.selector(query, rows, k=k, noise_variance=0.1, kernel="linear")
        strategy = name.removeprefix("pyversity-")
        theirs = pyversity.diversify(rows, rows @ query, k, strategy, diversity).indices
        assert ours.indices.tolist() == theirs.tolist()
        variances = [
            posterior_variance(query[None], rows[ours.indices[:n]], 0.1)
            for n in range(1, len(ours.indices) + 1)
        ]
        assert ours.posterior_variances == pytest.approx(variances, abs=1e-9)


def test_without_diversity_they_are_nearest_neighbours() -> None:
    query, rows = problem(3)
    expected = nearest_neighbors(query, rows, k=6).indices.tolist()
    for name, selector in DIVERSIFIERS.items():
        chosen = selector(query, rows, k=6, diversity=0.0, replace=True).indices.tolist()
        assert chosen == expected, name
    (method,) = parse_methods(["mmr:lambda_mult=1"], base=False)
    assert method.selector(query, rows, k=6).indices.tolist() == expected
    (method,) = parse_methods(["mmr:lambda_mult=0.3"], base=False)
    assert (
        method.selector(query, rows, k=6).indices.tolist()
        == mmr(query, rows, k=6, lambda_mult=0.3).indices.tolist()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pyversity-dpp:diversity=1.5", "is no option of pyversity-dpp: use .*diversity=0..1"),
        ("rag:pyversity-dpq", "did you mean rag:pyversity-dpp"),
        ("mmr:diversity=0.5", "is no option of mmr: use .*lambda_mult=0..1"),
        ("sift:lambda_mult=0.5", "is no option of sift"),
    ],
)
def test_a_mistake_is_named(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_methods([name])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversification, "find_spec", lambda _: None)
    parse_methods(["sift"])
    with pytest.raises(ArgumentError, match="needs the package pyversity: pip install pyversity"):
        parse_methods(["pyversity-ssd"])
