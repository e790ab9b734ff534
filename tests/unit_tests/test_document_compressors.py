"""Compare `SIFTReranker` with brute force, over made-up vectors."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from pydantic import ValidationError
from reference import retrieval

from langchain_sift import SIFTReranker
from langchain_sift.errors import DimensionMismatch, EmbeddingError

QUERY = "Who repairs the broken clock near the border?"
DIMENSIONS = 24


class WordEmbeddings(Embeddings):
    """Embeds a text as the sum of random vectors of its words, of any length; records the calls."""

    def __init__(self):
        self.queries: list[str] = []
        self.documents: list[str] = []
        self.calls: list[str] = []

    def vector(self, text):
        words = text.lower().rstrip("?.").split()
        return np.sum(
            [
                np.random.default_rng(list(word.encode())).standard_normal(DIMENSIONS)
                for word in words
            ],
            axis=0,
        )

    def embed_query(self, text):
        self.calls.append("embed_query")
        self.queries.append(text)
        return self.vector(text).tolist()

    def embed_documents(self, texts):
        if not texts:
            raise ConnectionError("a service that refuses an empty list")
        self.calls.append("embed_documents")
        self.documents.extend(texts)
        return [self.vector(text).tolist() for text in texts]

    async def aembed_query(self, text):
        await asyncio.sleep(0)
        self.calls.append("aembed_query")
        self.queries.append(text)
        return self.vector(text).tolist()

    async def aembed_documents(self, texts):
        await asyncio.sleep(0)
        self.calls.append("aembed_documents")
        self.documents.extend(texts)
        return [self.vector(text).tolist() for text in texts]


class FixedEmbeddings(Embeddings):
    """Returns the same vector for every query, and the same vectors for every list of texts."""

    def __init__(self, query, documents):
        self.query, self.documents = query, documents

    def embed_query(self, text):
        del text
        return self.query

    def embed_documents(self, texts):
        del texts
        return self.documents


@pytest.fixture
def words():
    return WordEmbeddings()


@pytest.fixture
def documents(texts):
    return [
        Document(page_content=text, id=f"text-{number}", metadata={"number": number})
        for number, text in enumerate(texts)
    ]


def with_vectors(documents, embeddings, key="vector"):
    return [
        document.model_copy(
            update={
                "metadata": {
                    **document.metadata,
                    key: embeddings.vector(document.page_content).tolist(),
                }
            }
        )
        for document in documents
    ]


def by_formula(vectors, query, *, k, noise_variance=0.01):
    """Return the chosen indices and the gains, from vectors of any length."""
    rows = np.array(vectors)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.array(query) / np.linalg.norm(query)
    chosen, variances = retrieval(unit[None], units, k=k, noise_variance=noise_variance)
    return chosen, -np.diff(variances, prepend=1.0)


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.slow
@pytest.mark.parametrize("noise_variance", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("top_n", [1, 4, 12])
def test_it_chooses_what_the_formula_chooses_from_the_embedded_documents(
    words, documents, noise_variance, top_n
):
    reranker = SIFTReranker(
        embeddings=words, top_n=top_n, kernel="linear", noise_variance=noise_variance
    )
    vectors = [words.vector(document.page_content) for document in documents]
    chosen, _ = by_formula(vectors, words.vector(QUERY), k=top_n, noise_variance=noise_variance)
    found = reranker.compress_documents(documents, QUERY)
    assert ids(found) == [f"text-{index}" for index in chosen]


def test_it_keeps_four_by_default_and_all_if_there_are_fewer(words, documents):
    assert len(SIFTReranker(embeddings=words).compress_documents(documents, QUERY)) == 4
    few = SIFTReranker(embeddings=words, top_n=9).compress_documents(tuple(documents[:3]), QUERY)
    assert sorted(ids(few)) == ids(documents[:3])


def test_each_text_is_embedded_once_and_the_query_once(words, documents):
    SIFTReranker(embeddings=words).compress_documents([*documents, *documents], QUERY)
    assert words.queries == [QUERY]
    assert sorted(words.documents) == sorted(document.page_content for document in documents)


def test_ids_and_metadata_are_kept_and_the_input_is_not_changed(words, documents):
    given = [document.model_copy(deep=True) for document in documents]
    reranker = SIFTReranker(embeddings=words, top_n=6, gain_key="gain")
    for document in reranker.compress_documents(given, QUERY):
        original = documents[document.metadata.pop("number")]
        assert (document.id, document.page_content) == (original.id, original.page_content)
        assert list(document.metadata) == ["gain"]
    assert given == documents


def test_documents_without_ids_stay_without(words, documents):
    bare = [Document(page_content=document.page_content) for document in documents]
    found = SIFTReranker(embeddings=words).compress_documents(bare, QUERY)
    expected = SIFTReranker(embeddings=words).compress_documents(documents, QUERY)
    assert [document.page_content for document in found] == [
        document.page_content for document in expected
    ]
    assert ids(found) == [None] * 4


def test_of_documents_with_identical_text_the_first_is_kept(words, documents):
    copies = [document.model_copy(update={"id": f"copy-{document.id}"}) for document in documents]
    reranker = SIFTReranker(embeddings=words, top_n=500)
    found = reranker.compress_documents([*documents, *copies], QUERY)
    assert sorted(ids(found)) == sorted(ids(documents))


def test_vectors_in_the_metadata_are_removed_and_not_computed_again(words, documents):
    given = with_vectors(documents, words)
    reranker = SIFTReranker(embeddings=words, top_n=8, vector_key="vector")
    found = reranker.compress_documents(given, QUERY)
    assert words.calls == ["embed_query"]
    assert found == SIFTReranker(embeddings=words, top_n=8).compress_documents(documents, QUERY)
    assert all(list(document.metadata) == ["number"] for document in found)
    assert given == with_vectors(documents, words)


def test_the_choice_depends_on_the_vectors_in_the_metadata(words, documents):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((len(documents), DIMENSIONS))
    given = [
        document.model_copy(update={"metadata": {"vector": vector}})
        for document, vector in zip(documents, vectors, strict=True)
    ]
    reranker = SIFTReranker(embeddings=words, top_n=8, noise_variance=0.01, vector_key="vector")
    chosen, _ = by_formula(vectors, words.vector(QUERY), k=8)
    found = ids(reranker.compress_documents(given, QUERY))
    assert found == [f"text-{index}" for index in chosen]
    assert found != ids(SIFTReranker(embeddings=words, top_n=8).compress_documents(given, QUERY))


def test_of_documents_with_and_without_vectors_only_the_latter_are_embedded(words, documents):
    given = [*with_vectors(documents[::2], words), *documents[1::2]]
    reranker = SIFTReranker(embeddings=words, top_n=8, vector_key="vector")
    found = reranker.compress_documents(given, QUERY)
    assert words.documents == [document.page_content for document in documents[1::2]]
    assert found == SIFTReranker(embeddings=words, top_n=8).compress_documents(documents, QUERY)


def test_the_score_is_the_gain_as_a_python_float(words, documents):
    reranker = SIFTReranker(
        embeddings=words, top_n=8, kernel="linear", noise_variance=0.3, gain_key="gain"
    )
    found = reranker.compress_documents(documents, QUERY)
    vectors = [words.vector(document.page_content) for document in documents]
    _, gains = by_formula(vectors, words.vector(QUERY), k=8, noise_variance=0.3)
    scores = [document.metadata["gain"] for document in found]
    assert {type(score) for score in scores} == {float}
    assert scores == pytest.approx(gains, abs=1e-12)


def test_stopping_keeps_the_beginning_of_the_same_list_and_at_least_one(words, documents):
    settings = {"embeddings": words, "top_n": 20, "noise_variance": 1.0}
    whole = ids(SIFTReranker(**settings).compress_documents(documents, QUERY))
    lengths = []
    for alpha in (1e-6, 0.5, 1e6):
        reranker = SIFTReranker(**settings, stopping_alpha=alpha)
        found = ids(reranker.compress_documents(documents, QUERY))
        assert found == whole[: len(found)]
        lengths.append(len(found))
    assert lengths[0] == 20
    assert 1 < lengths[1] < 20
    assert lengths[2] == 1


@pytest.mark.parametrize("vector_key", [None, "vector"])
async def test_a_coroutine_returns_the_same_and_embeds_by_coroutines(words, documents, vector_key):
    given = [*with_vectors(documents[:20], words), *documents[20:]]
    settings = {"top_n": 8, "gain_key": "gain", "vector_key": vector_key}
    expected = SIFTReranker(embeddings=WordEmbeddings(), **settings).compress_documents(
        given, QUERY
    )
    found = await SIFTReranker(embeddings=words, **settings).acompress_documents(given, QUERY)
    assert [(d.id, d.metadata["gain"]) for d in found] == [
        (d.id, d.metadata["gain"]) for d in expected
    ]
    assert found == expected
    assert words.calls == ["aembed_query", "aembed_documents"]


async def test_a_coroutine_embeds_no_document_if_all_have_vectors(words, documents):
    reranker = SIFTReranker(embeddings=words, vector_key="vector")
    assert len(await reranker.acompress_documents(with_vectors(documents, words), QUERY)) == 4
    assert words.calls == ["aembed_query"]


async def test_without_documents_nothing_is_embedded(words):
    reranker = SIFTReranker(embeddings=words)
    assert list(reranker.compress_documents([], QUERY)) == []
    assert list(await reranker.acompress_documents([], QUERY)) == []
    assert words.calls == []


GOOD = [1.0, 2.0, 0.5]
WITHOUT_DIRECTION = {
    "zero": [0.0, 0.0, 0.0],
    "NaN": [np.nan, 1.0, 0.0],
    "infinite": [np.inf, 1.0, 0.0],
}
BAD_VECTORS = {
    "too short": [1.0, 2.0],
    "nested": [[1.0, 2.0, 0.5]],
    "empty": [],
    "a number": 1.0,
    "nothing": None,
    "text": "[1, 2, 0.5]",
    "words": ["one", "two", "three"],
}


@pytest.mark.parametrize("bad", BAD_VECTORS.values(), ids=BAD_VECTORS)
@pytest.mark.parametrize("others", [0, 2])
async def test_a_bad_vector_of_a_document_is_an_embedding_error(bad, others):
    vectors = [*[GOOD] * others, bad]
    given = [
        Document(page_content=f"secret {index}", metadata={"vector": vector})
        for index, vector in enumerate(vectors)
    ]
    with_vector_key = SIFTReranker(embeddings=FixedEmbeddings(GOOD, []), vector_key="vector")
    with_embeddings = SIFTReranker(embeddings=FixedEmbeddings(GOOD, vectors))
    for reranker in (with_vector_key, with_embeddings):
        with pytest.raises(EmbeddingError) as raised:
            reranker.compress_documents(given, QUERY)
        assert "secret" not in str(raised.value)
        with pytest.raises(EmbeddingError):
            await reranker.acompress_documents(given, QUERY)


@pytest.mark.parametrize(
    "bad",
    [*BAD_VECTORS.values(), *WITHOUT_DIRECTION.values()],
    ids=[*BAD_VECTORS, *WITHOUT_DIRECTION],
)
def test_a_bad_vector_of_the_query_is_an_embedding_error(bad):
    reranker = SIFTReranker(embeddings=FixedEmbeddings(bad, [GOOD]))
    with pytest.raises(EmbeddingError):
        reranker.compress_documents([Document(page_content="fact")], QUERY)


@pytest.mark.parametrize("bad", WITHOUT_DIRECTION.values(), ids=WITHOUT_DIRECTION)
async def test_a_document_without_a_direction_is_left_out_with_a_warning(bad):
    given = [Document(page_content=f"secret {name}", id=f"id-{name}") for name in "abc"]
    others = [given[0], given[2]]
    reranker = SIFTReranker(embeddings=FixedEmbeddings(GOOD, [GOOD, bad, [0.5, 1.0, 2.0]]))
    alone = SIFTReranker(embeddings=FixedEmbeddings(GOOD, [GOOD, [0.5, 1.0, 2.0]]))
    expected = alone.compress_documents(others, QUERY)
    message = (
        "^1 documents are left out, such as id-b: .*: embed their texts again, or remove them$"
    )
    with pytest.warns(UserWarning, match=message):
        assert reranker.compress_documents(given, QUERY) == expected
    with pytest.warns(UserWarning, match=message):
        assert await reranker.acompress_documents(given, QUERY) == expected
    none = SIFTReranker(embeddings=FixedEmbeddings(GOOD, [bad]))
    with pytest.warns(UserWarning, match="1 documents are left out"):
        assert none.compress_documents(given[:1], QUERY) == []


def test_both_dimensions_are_named_if_they_differ():
    reranker = SIFTReranker(embeddings=FixedEmbeddings([1.0, 2.0], [GOOD]))
    with pytest.raises(DimensionMismatch, match=r"2 dimensions.*have 3: embed both with the same"):
        reranker.compress_documents([Document(page_content="fact")], QUERY)


def test_too_few_vectors_for_the_texts_are_an_embedding_error():
    reranker = SIFTReranker(embeddings=FixedEmbeddings(GOOD, [GOOD]))
    with pytest.raises(EmbeddingError, match="1 vectors for 2 texts"):
        reranker.compress_documents([Document(page_content=text) for text in "ab"], QUERY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_m": 3}, "top_m"),
        ({"k": 3}, "k"),
        ({"top_n": 0}, "top_n must be an integer of at least 1, got 0"),
        ({"top_n": -2}, "top_n must be an integer of at least 1, got -2"),
        ({"top_n": 2.0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"noise_variance": 0.0}, "noise_variance must be positive and finite, got 0.0"),
        ({"noise_variance": float("nan")}, "noise_variance must be positive and finite, got nan"),
        ({"stopping_alpha": 0.0}, "stopping_alpha must be positive and finite, or None, got 0.0"),
        ({"stopping_alpha": float("inf")}, "stopping_alpha must be .* got inf"),
        ({"embeddings": "a name"}, "embeddings"),
    ],
)
def test_a_setting_unknown_or_out_of_range_is_an_error_at_construction(words, settings, message):
    with pytest.raises(ValidationError, match=message):
        SIFTReranker(**{"embeddings": words, **settings})


def test_embeddings_are_required():
    with pytest.raises(ValidationError, match="embeddings"):
        SIFTReranker()


@pytest.mark.parametrize("query", [None, 3, ["a"]])
async def test_a_query_must_be_a_string(query):
    reranker = SIFTReranker(embeddings=WordEmbeddings())
    problem = f"the query must be a string, got {type(query).__name__}: in a chain"
    with pytest.raises(TypeError, match=problem):
        reranker.compress_documents([Document("a clock")], query)
    with pytest.raises(TypeError, match=problem):
        await reranker.acompress_documents([Document("a clock")], query)
