"""Make queries from the texts of a store, with the documents that are relevant to them.

A query of the first kind is a sentence of a text that is held out. The texts nearest to the whole
text are relevant: the rest of the text stands for what the user of such a query wants to know. A
query of the second kind joins two sentences of different texts, which are relevant themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibration.trial_queries import TrialQuery
from langchain_sift.comparison.judgments import Label
from langchain_sift.comparison.selection import identifier
from langchain_sift.report.ranking import Judgments
from langchain_sift.selection.arguments import Array
from langchain_sift.stores import embed_query, fetch_candidates
from langchain_sift.stores.candidates import Candidates
from langchain_sift.stores.sampling import SampledRow
from langchain_sift.stores.unit_vectors import unit_vector

NEAR_DUPLICATE_SIMILARITY = 0.95
"""Cosine from which on a text counts as a near duplicate of another."""

_RELEVANT = 10  # groups of near duplicates that are relevant to a sentence
_NEIGHBOURS = 50  # texts among which they are looked for
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")
_MIN_CHARACTERS = 25


def made_queries(
    vectorstore: VectorStore, sample: Sequence[SampledRow], *, fetch_k: int, seed: int
) -> Iterator[tuple[TrialQuery, TrialQuery] | None]:
    """Yield two queries for each sampled text: a sentence of it, and two sentences joined.

    None stands for a text without neighbours.

    Args:
        vectorstore: The store of the sample, with embeddings.
        sample: Texts of the store with their vectors, at least two.
        fetch_k: Number of candidates for a query.
        seed: Seed of the sentences.

    Raises:
        StoreError: If the store does not answer.
        EmbeddingError: If the embeddings do not fit the vectors of the store.
    """
    random = Random(seed)  # noqa: S311 - no secret
    sentences = [random.choice(sentences_of(row.document.page_content)) for row in sample]
    for number, (row, sentence) in enumerate(zip(sample, sentences, strict=True)):
        one = _of_sentence(vectorstore, row, sentence, fetch_k)
        # Hashes order the sample: the next text has nothing to do with this one.
        other = (number + 1) % len(sample)
        pair = ((row, sentence), (sample[other], sentences[other]))
        two = _of_two_sentences(vectorstore, pair, fetch_k)
        yield (one, two) if one.label.judgments.grades else None


def sentences_of(text: str) -> list[str]:
    """Split a text into its sentences and lines of at least 25 characters.

    A text without any is halved: the first half is its only sentence.
    """
    found = [part.strip() for part in _SENTENCE_END.split(text)]
    return [part for part in found if len(part) >= _MIN_CHARACTERS and part != text.strip()] or [
        text[: (len(text) + 1) // 2]
    ]


def _of_sentence(
    vectorstore: VectorStore, row: SampledRow, sentence: str, fetch_k: int
) -> TrialQuery:
    """Return a query whose relevant texts are the nearest to the whole text.

    The text itself and its near duplicates are no candidates: they contain the query.
    """
    whole = unit_vector(row.vector)
    near = fetch_candidates(vectorstore, row.vector, fetch_k=_NEIGHBOURS)
    others = near.take(_different(near, row.document, whole))
    groups = _groups(others.embeddings)
    heads = list(dict.fromkeys(groups.tolist()))[:_RELEVANT]
    intents = tuple(
        frozenset(map(identifier, others.take(np.flatnonzero(groups == head)).documents))
        for head in heads
    )
    query = unit_vector(embed_query(vectorstore, sentence))
    candidates = fetch_candidates(vectorstore, query, fetch_k=fetch_k)
    candidates = candidates.take(_different(candidates, row.document, whole))
    return _trial(row, query, candidates, intents, "alpha_ndcg")


def _of_two_sentences(
    vectorstore: VectorStore, pair: Sequence[tuple[SampledRow, str]], fetch_k: int
) -> TrialQuery:
    """Return a query of two sentences, each of which the texts that contain it answer."""
    query = unit_vector(embed_query(vectorstore, " ".join(sentence for _, sentence in pair)))
    candidates = fetch_candidates(vectorstore, query, fetch_k=fetch_k)
    intents = []
    for row, sentence in pair:
        alike = candidates.embeddings @ unit_vector(row.vector) >= NEAR_DUPLICATE_SIMILARITY
        contains = [sentence in document.page_content for document in candidates.documents]
        answering = candidates.take(np.flatnonzero(alike | np.array(contains, dtype=bool)))
        # A text that is no candidate cannot be chosen; its intent still counts.
        intents.append(frozenset(map(identifier, (row.document, *answering.documents))))
    return _trial(pair[0][0], query, candidates, tuple(intents), "intent_recall")


def _different(candidates: Candidates, document: Document, whole: Array) -> npt.NDArray[np.int64]:
    """Return the candidates that are neither the document nor a near duplicate of it."""
    alike = candidates.embeddings @ whole >= NEAR_DUPLICATE_SIMILARITY
    same = [other.page_content == document.page_content for other in candidates.documents]
    different: npt.NDArray[np.int64] = np.flatnonzero(~(alike | np.array(same, dtype=bool)))
    return different


def _groups(embeddings: Array) -> npt.NDArray[np.int64]:
    """Return for each row, shape (n,), the first row that it is a near duplicate of, or itself."""
    groups = np.arange(len(embeddings))
    for row in range(len(embeddings)):
        if groups[row] == row:
            alike = embeddings[row + 1 :] @ embeddings[row] >= NEAR_DUPLICATE_SIMILARITY
            later = row + 1 + np.flatnonzero(alike)
            groups[later[groups[later] == later]] = row
    return groups


def _trial(
    row: SampledRow,
    query: Array,
    candidates: Candidates,
    intents: tuple[frozenset[str], ...],
    metric: str,
) -> TrialQuery:
    grades = {name: 1 for intent in intents for name in sorted(intent)}
    documents = candidates.documents
    return TrialQuery(
        source=row.document.page_content,
        query=query,
        names=tuple(map(identifier, documents)),
        texts=tuple(document.page_content for document in documents),
        embeddings=candidates.embeddings,
        label=Label(Judgments(grades, intents)),
        metric=metric,
    )
