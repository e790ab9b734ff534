"""Test the metrics of a ranking against the programs of TREC, through ir_measures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.report.ranking import Judgments, alpha_ndcg, ndcg, ranking_scores

MEASURES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "hit": "Success"}
INTENT_MEASURES = {"alpha_ndcg": "alpha_nDCG", "intent_recall": "StRecall"}


def theirs(
    names: Mapping[str, str], qrels: list[ir_measures.Qrel], ranking: Sequence[str], k: int
) -> dict[str, float]:
    run = [ir_measures.ScoredDoc("q", name, -float(rank)) for rank, name in enumerate(ranking)]
    measures = {ir_measures.parse_measure(f"{name}@{k}"): ours for ours, name in names.items()}
    results = ir_measures.iter_calc(measures, qrels, run)
    return {measures[result.measure]: result.value for result in results}


@pytest.mark.parametrize("seed", range(60))
def test_graded_judgments_agree_with_trec_eval(seed: int) -> None:
    rng = random.Random(seed)
    ids = [f"d{n:02}" for n in range(30)]
    grades = {name: rng.randint(0, 3) for name in rng.sample(ids, rng.randint(1, 20))}
    grades[rng.choice(ids)] = rng.randint(1, 3)
    grades["not in the store"] = rng.randint(0, 2)
    ranking = rng.sample(ids, rng.randint(0, 30))
    qrels = [ir_measures.Qrel("q", name, grade) for name, grade in grades.items()]
    relevant = {name: grade for name, grade in grades.items() if grade}
    for k in (1, 3, 10, 25):
        scores = ranking_scores(ranking, Judgments(relevant), k)
        if not ranking:
            assert set(scores.values()) == {0.0}
            continue
        assert scores == pytest.approx(theirs(MEASURES, qrels, ranking, k), abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_intents_agree_with_ndeval(seed: int) -> None:
    rng = random.Random(seed)
    ids = [f"d{n:02}" for n in range(20)]
    intents = [rng.sample(ids, rng.randint(1, 6)) for _ in range(rng.randint(1, 5))]
    qrels = [
        ir_measures.Qrel("q", name, 1, str(number))
        for number, intent in enumerate(intents, start=1)
        for name in intent
    ]
    ranking = rng.sample(ids, rng.randint(1, 20))
    judgments = Judgments(
        {name: 1 for intent in intents for name in intent}, tuple(map(frozenset, intents))
    )
    for k in (1, 4, 10, 20):
        scores = ranking_scores(ranking, judgments, k)
        expected = theirs(INTENT_MEASURES, qrels, ranking, k)
        assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(1, 12))
def test_scores_are_between_0_and_1_and_a_repeat_finds_nothing(ranking: list[str], k: int) -> None:
    judgments = Judgments({"a": 3, "b": 1, "c": 1}, (frozenset("ab"), frozenset("c")))
    scores = ranking_scores(ranking, judgments, k)
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    places = [name if name not in ranking[:n] else f"repeat {n}" for n, name in enumerate(ranking)]
    assert scores == ranking_scores(places, judgments, k)


def test_the_ideal_ranking_has_the_score_1() -> None:
    judgments = Judgments({"a": 3, "b": 1}, (frozenset("a"), frozenset("b")))
    for k in (1, 2, 5):
        assert set(ranking_scores(["a", "b"], judgments, 2).values()) == {1.0}
        assert ndcg(["a", "b", "x", "y", "z"], judgments, k) == 1.0
    # A second document for the same intent gains half.
    same = Judgments({"a": 1, "b": 1, "c": 1}, (frozenset("ab"), frozenset("c")))
    assert alpha_ndcg(["a", "c"], same, 2) == 1.0
    assert 0 < alpha_ndcg(["a", "b"], same, 2) < 1
