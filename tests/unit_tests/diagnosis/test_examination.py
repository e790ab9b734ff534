"""Diagnose stores whose state is known: copies, faults, languages, and what SIFT brings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift import SIFTRetriever
from langchain_sift.diagnosis import diagnose
from langchain_sift.errors import ArgumentError, CorpusError, EmbeddingError

pytestmark = pytest.mark.slow

GERMAN = "Der alte König trägt im Winter warmes Brot über die Brücke zum Hafen, Nummer {}."


def in_memory(texts: list[str], dimensions: int = 48) -> InMemoryVectorStore:
    store = InMemoryVectorStore(WordEmbeddings(dimensions))
    store.add_documents([Document(text, id=str(n)) for n, text in enumerate(texts)])
    return store


def test_copies_and_lengths_of_a_store_are_reported_and_settings_advised(texts: list[str]) -> None:
    near = [f"{text} {filler}" for text in texts for filler in ("indeed", "also", "thus")]
    store = Chroma("doctor", WordEmbeddings(), collection_metadata={"hnsw:space": "cosine"})
    try:
        store.add_texts([*texts, *near, *texts[:20]])
        phases = []
        found = diagnose(store, queries=30, on_progress=lambda phase, *_: phases.append(phase))
        assert store._collection.count() == 260
    finally:
        store.delete_collection()
    assert (found.rows.rows, found.rows.texts, found.rows.most_copies) == (260, 240, 2)
    assert found.rows.complete
    assert found.similarities.near_duplicates > 0.5
    assert next(iter(found.languages)) == "en"
    assert found.lengths.unit == "characters"
    assert found.problems == ()
    assert found.calibration is not None
    assert found.calibration.held_out[-1].gain.low > 0
    assert found.advice.startswith("SIFT will pay. ")
    chosen = found.calibration.selection
    assert f"kernel={chosen.kernel}" in found.advice
    assert f"noise_variance={chosen.noise_variance:g}" in found.advice
    assert list(dict.fromkeys(phases)) == [
        "reading rows",
        "searching neighbours",
        "detecting languages",
        "measuring queries",
    ]
    json.dumps(found.to_json(), allow_nan=False)


def test_a_store_whose_texts_are_stored_five_times_repeats_itself(texts: list[str]) -> None:
    store = in_memory(texts * 5)
    found = diagnose(store, queries=30, k=5)
    assert found.rows.exact_copies == pytest.approx(0.8)
    assert found.advice.startswith("SIFT will pay")
    assert "80% of the rows repeat the text of another" in found.advice
    # What the advice says, for a query that is one of the texts.
    for search_type in ("sift", "similarity"):
        retriever = SIFTRetriever(vectorstore=store, search_type=search_type, k=5)
        assert len({one.page_content for one in retriever.invoke(texts[0])}) == 5
    assert {one.page_content for one in store.similarity_search(texts[0], k=5)} == {texts[0]}


@pytest.mark.filterwarnings("error")
def test_faults_are_named_with_a_cure(texts: list[str]) -> None:
    store = in_memory([*texts, *map(GERMAN.format, range(40)), " "])
    rows = list(store.store.values())
    rows[0]["vector"] = [0.0] * 48
    rows[1]["vector"] = [float("nan"), *[1.0] * 47]
    rows[2]["vector"] = [3.0 * value for value in rows[2]["vector"]]
    with pytest.warns(UserWarning, match="2 documents are left out"):
        found = diagnose(store, sample=1000)
    problems = " ".join(found.problems)
    assert "vectors that are zero, NaN or infinite: 2; retrieval leaves their" in problems
    assert "the norms of the vectors range from 1 to 3" in problems
    assert "rows without a text: 0, with a blank one: 1" in problems
    assert "the texts are in en, de" in problems
    assert found.similarities.texts == len(texts) + 41 - 2
    assert found.calibration is not None  # a search leaves the faulty vectors out


def test_embeddings_that_do_not_fit_are_a_fault_and_none_are_no_obstacle(texts: list[str]) -> None:
    store = in_memory(texts)
    store.embedding = WordEmbeddings(16)
    found = diagnose(store)
    assert "the vectors have 48 dimensions, and the embeddings make 16" in found.problems[0]
    assert found.calibration is None
    filled = Chroma("without", WordEmbeddings())
    try:
        filled.add_texts(texts)
        found = diagnose(Chroma("without", create_collection_if_not_exists=False))
    finally:
        filled.delete_collection()
    assert (found.calibration, found.problems) == (None, ())
    assert "needs embeddings that fit the store" in found.advice


def test_embeddings_that_fail_midway_are_an_error_and_no_fault_of_the_store(
    texts: list[str],
) -> None:
    class Limited(WordEmbeddings):
        left: int | None = None

        def embed_query(self, text: str) -> list[float]:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise ConnectionError("quota exhausted")
            return super().embed_query(text)

    store = in_memory(texts)
    store.embedding = limited = Limited(48)
    limited.left = 1  # for the dimensions; the queries fail
    with pytest.raises(EmbeddingError, match="ConnectionError: quota exhausted"):
        diagnose(store, queries=30)


def test_only_so_many_rows_are_read(texts: list[str]) -> None:
    store = Chroma("large", WordEmbeddings())
    try:
        store.add_texts(texts)
        found = diagnose(store, max_rows=25, queries=10)
        assert (found.rows.rows, found.rows.complete) == (25, False)
        assert found.similarities.texts == 25
        assert diagnose(store, sample=12, queries=10).similarities.texts == 12
    finally:
        store.delete_collection()


def test_a_store_of_copies_and_an_empty_one(texts: list[str]) -> None:
    found = diagnose(in_memory([texts[0]] * 30))
    assert (found.rows.exact_copies, found.calibration) == (pytest.approx(29 / 30), None)
    alike = [f"{texts[0] * 5} {n}" for n in range(30)]  # near duplicates without other neighbours
    found = diagnose(in_memory(alike))
    assert (found.similarities.near_duplicates, found.calibration) == (1.0, None)
    assert (
        "at least 10 different texts, and 3 were examined" in diagnose(in_memory(texts[:3])).advice
    )
    with pytest.raises(CorpusError, match="no text with a usable vector"):
        diagnose(in_memory([]))


def test_bad_arguments_are_named(texts: list[str]) -> None:
    store = in_memory(texts[:3])
    for change, message in (
        ({"sample": 0}, "sample must be"),
        ({"queries": 0}, "queries must be"),
        ({"k": 0}, "k must be"),
        ({"max_rows": 0}, "max_rows must be"),
        ({"seed": -1}, "seed must be"),
        ({"near_duplicate_similarity": 1.5}, "near_duplicate_similarity must be"),
        ({"timeout": 0}, "timeout must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            diagnose(store, **change)


def test_a_store_is_diagnosed_without_pytorch() -> None:
    code = (
        "import sys; from langchain_core.embeddings import DeterministicFakeEmbedding; "
        "from langchain_core.vectorstores import InMemoryVectorStore; "
        "from langchain_sift.diagnosis import diagnose; "
        "texts = [f'text {n}' for n in range(30)]; "
        "store = InMemoryVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=8)); "
        "diagnose(store, queries=10); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
