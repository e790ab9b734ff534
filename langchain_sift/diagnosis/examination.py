"""Examine a store: read it once, and measure a sample of its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.vectorstores import VectorStore

from langchain_sift.calibration.retrieval import MIN_QUERIES, calibrate_on_sample
from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
from langchain_sift.checks import check_fraction, check_integer, check_timeout
from langchain_sift.diagnosis.advice import advice_for, problems_of
from langchain_sift.diagnosis.diagnosis import Diagnosis
from langchain_sift.diagnosis.languages import languages_of
from langchain_sift.diagnosis.lengths import measure_lengths
from langchain_sift.diagnosis.row_counts import RowCounter, RowCounts
from langchain_sift.diagnosis.similarities import measure_similarities
from langchain_sift.errors import CorpusError
from langchain_sift.stores.calls import run
from langchain_sift.stores.embedding_calls import query_vector
from langchain_sift.stores.interface import ROWS_PER_CALL, Page, Search, blocking_adapter_for
from langchain_sift.stores.sampling import RowSample, SampledRow

_Progress = Callable[[str, int, int], None]


def diagnose(
    vectorstore: VectorStore,
    *,
    sample: int = 500,
    queries: int = 100,
    k: int = 10,
    near_duplicate_similarity: float = 0.95,
    max_rows: int = 200_000,
    seed: int = 0,
    timeout: float = 600.0,
    on_progress: _Progress = lambda *_: None,
) -> Diagnosis:
    """Diagnose a store. It is only read.

    All rows are counted, up to `max_rows`; everything else is measured on a sample of its
    different texts. In memory are the sample, and 8 bytes for each row.

    Args:
        vectorstore: Any store whose documents can be listed. With embeddings, their limit of
            tokens is checked, and settings of SIFT are chosen.
        sample: Number of texts to sample.
        queries: Number of sampled texts to make queries of, from which settings are chosen.
        k: Number of documents for which settings are chosen.
        near_duplicate_similarity: Cosine from which on a text counts as a near duplicate.
        max_rows: Maximum number of rows to read, in the order of the store.
        seed: Seed of the sample.
        timeout: Time limit for reading the store, in seconds.
        on_progress: Called with the phase, the amount of it that is done, and the total.

    Raises:
        ArgumentError: If a number is out of range.
        CorpusError: If the store has no text with a vector that is neither zero nor NaN.
        StoreError: If the store does not answer, or its documents cannot be listed.
        EmbeddingError: If the embeddings fail.
    """
    for name, value in (("sample", sample), ("queries", queries), ("k", k), ("max_rows", max_rows)):
        check_integer(name, value, 1)
    check_integer("seed", seed, 0)
    check_fraction("near_duplicate_similarity", near_duplicate_similarity)
    check_timeout("timeout", timeout)
    adapter = blocking_adapter_for(vectorstore)
    reading = _read(max(sample, MIN_QUERIES), seed, max_rows, on_progress)
    counts, rows = run(reading, adapter, timeout=timeout, arguments={})
    if not rows:
        raise CorpusError("the store has no text with a usable vector: there is nothing to examine")
    rows = rows[:sample]
    texts = [row.document.page_content for row in rows]
    on_progress("searching neighbours", 0, len(rows))
    measuring = measure_similarities(rows, near_duplicate_similarity)
    similarities = run(measuring, adapter, timeout=timeout, arguments={})
    on_progress("detecting languages", 0, len(rows))
    languages = languages_of(texts)
    embeddings = vectorstore.embeddings
    lengths = measure_lengths(texts, embeddings)
    dimensions = None if embeddings is None else len(query_vector(embeddings, "a"))
    calibration = None
    if dimensions is not None and counts.dimensions == (dimensions,) and len(rows) >= MIN_QUERIES:
        asked = rows[: max(queries, MIN_QUERIES)]
        calibration = _calibrate(vectorstore, asked, k, seed, on_progress)
    return Diagnosis(
        rows=counts,
        similarities=similarities,
        languages=languages,
        lengths=lengths,
        calibration=calibration,
        problems=problems_of(counts, languages, lengths, dimensions),
        advice=advice_for(counts, similarities, calibration),
    )


def _read(
    count: int, seed: int, max_rows: int, on_progress: _Progress
) -> Search[tuple[RowCounts, list[SampledRow]]]:
    """Read the rows of a store, count them and sample their texts."""
    counter, sample = RowCounter(), RowSample(count, seed)
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, min(ROWS_PER_CALL, max_rows - counter.seen))
        counter.add(rows)
        sample.add(rows)
        on_progress("reading rows", counter.seen, max_rows)
        if cursor is None or counter.seen >= max_rows:
            return counter.counts(complete=cursor is None), sample.rows()


def _calibrate(
    vectorstore: VectorStore,
    rows: Sequence[SampledRow],
    k: int,
    seed: int,
    on_progress: _Progress,
) -> RetrievalCalibration | None:
    """Choose settings without labels; None if that is impossible."""
    try:
        return calibrate_on_sample(
            vectorstore, rows, k=k, fetch_k=200, seed=seed, on_progress=on_progress
        )
    except CorpusError:  # nearly all texts are copies of each other
        return None
