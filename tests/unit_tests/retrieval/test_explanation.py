"""Compare an explanation with the formulas, on repetitive texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from reference import posterior_variance

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.retrieval.explanation import STOPPING_ALPHAS, explain

if TYPE_CHECKING:
    from langchain_sift.retrieval.explanation import ExplainedChoice

NOISE = 0.1


class Words(Embeddings):
    """A text as its words, out of eight, and some noise."""

    WORDS = ("rice", "grows", "wet", "field", "autumn", "harvest", "knife", "dry")

    def embed_query(self, text: str) -> list[float]:
        own = np.random.default_rng(sum(map(ord, text))).normal(size=8) * 0.05
        return [
            float(word in text.lower()) + noise for word, noise in zip(self.WORDS, own, strict=True)
        ]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


TEXTS = [
    "Rice grows in a wet field.",
    "Rice grows in a wet field!",
    "Rice grows in a wet field?",
    "Rice: harvest in autumn.",
    "Rice: harvest in autumn!",
    "A knife is dry.",
]
QUERY = "rice grows in wet field, harvest in autumn"


@pytest.fixture
def store() -> InMemoryVectorStore:
    store = InMemoryVectorStore(Words())
    store.add_documents([Document(text, id=str(n)) for n, text in enumerate(TEXTS)])
    return store


def vectors(choices: tuple[ExplainedChoice, ...]) -> np.ndarray:
    rows = np.array(Words().embed_documents([choice.text for choice in choices]))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("way", ["sift", "nearest"])
def test_each_number_equals_the_dense_formula(store: InMemoryVectorStore, way: str) -> None:
    found = explain(store, QUERY, k=4, kernel="linear", noise_variance=NOISE)
    choices = getattr(found, way)
    query = np.array(Words().embed_query(QUERY))
    query /= np.linalg.norm(query)
    rows = vectors(choices)
    left = [float(posterior_variance(query[None], rows[:n], NOISE)) for n in range(5)]
    assert found.prior_variance == pytest.approx(left[0])
    for step, choice in enumerate(choices):
        assert choice.posterior_variance == pytest.approx(left[step + 1])
        assert choice.gain == pytest.approx(left[step] - left[step + 1])
        alone = left[0] - float(posterior_variance(query[None], rows[step : step + 1], NOISE))
        assert choice.gain_alone == pytest.approx(alone)
        assert choice.known == pytest.approx(max(0, 1 - choice.gain / alone), abs=1e-9)
        assert choice.similarity == pytest.approx(float(rows[step] @ query))
        if step:
            likeness = rows[:step] @ rows[step]
            assert choice.most_like == int(likeness.argmax())
            assert choice.likeness == pytest.approx(float(likeness.max()))
    assert choices[0].most_like is None
    assert choices[0].known == pytest.approx(0.0, abs=1e-9)


def test_the_choice_is_that_of_the_retriever(store: InMemoryVectorStore) -> None:
    found = explain(store, QUERY, k=4, kernel="linear", noise_variance=NOISE)
    retriever = SIFTRetriever(vectorstore=store, k=4, kernel="linear", noise_variance=NOISE)
    assert [choice.id for choice in found.sift] == [d.id for d in retriever.invoke(QUERY)]
    nearest = SIFTRetriever(vectorstore=store, k=4, search_type="similarity").invoke(QUERY)
    assert [choice.id for choice in found.nearest] == [document.id for document in nearest]


def test_the_stops_are_those_of_the_retriever(
    store: InMemoryVectorStore,
) -> None:
    k = 4
    found = explain(store, QUERY, k=k, kernel="linear", noise_variance=NOISE)
    retriever = SIFTRetriever(vectorstore=store, k=100, kernel="linear", noise_variance=NOISE)
    for alpha in STOPPING_ALPHAS:
        stopped = retriever.retrieve_with_scores(QUERY, stopping_alpha=alpha)
        count = len(stopped.choices)
        fired = stopped.posterior_std > 1.0 / (alpha * count)
        assert found.stops[alpha] == (count if fired and count <= k else None)
    assert None in found.stops.values()
    assert set(found.stops.values()) != {None}


def test_repetitions_are_known_already(store: InMemoryVectorStore) -> None:
    found = explain(store, QUERY, k=3, kernel="linear", noise_variance=NOISE)
    repeated = [choice for choice in found.nearest if choice.known > 0.5]
    assert repeated
    assert all(choice.likeness > 0.9 for choice in repeated)
    assert found.sift[1].known < repeated[0].known
    assert found.irreducible_variance <= found.sift[-1].posterior_variance


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_at_least_one(store: InMemoryVectorStore, k: int) -> None:
    with pytest.raises(ArgumentError, match=f"got {k}"):
        explain(store, QUERY, k=k)


def test_fetch_k_is_at_least_k(store: InMemoryVectorStore) -> None:
    assert explain(store, QUERY, k=5, fetch_k=2) == explain(store, QUERY, k=5, fetch_k=5)


def test_a_store_without_texts_is_an_error() -> None:
    with pytest.raises(CorpusError, match="no text with a usable vector"):
        explain(InMemoryVectorStore(Words()), QUERY)
