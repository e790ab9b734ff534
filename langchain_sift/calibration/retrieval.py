"""Calibrate retrieval, without a language model: kernel, length scale, λ' and k."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.calibration.cross_validation import (
    Scores,
    choose,
    cross_validate,
    documents_counts,
)
from langchain_sift.calibration.labelled_queries import labelled_queries
from langchain_sift.calibration.made_queries import made_queries
from langchain_sift.calibration.retrieval_calibration import (
    DocumentsPoint,
    KernelPoint,
    RetrievalCalibration,
)
from langchain_sift.calibration.trial_queries import TrialQuery
from langchain_sift.checks import check_integer
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.report.intervals import Verdict, judge
from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS, KernelSettings, kernel_settings
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE
from langchain_sift.stores.calls import run
from langchain_sift.stores.embedding_calls import embeddings_of
from langchain_sift.stores.interface import blocking_adapter_for
from langchain_sift.stores.sampling import SampledRow, sampled_rows

_LENGTH_SCALES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0)
_KERNELS = (
    DEFAULT_SETTINGS,
    *(
        KernelSettings("linear", DEFAULT_LENGTH_SCALE, noise_variance)
        for noise_variance in (30.0, 10.0, 3.0, 1.0, 0.1, 0.01)
    ),
    *(
        KernelSettings("rbf", length_scale, noise_variance)
        for length_scale in _LENGTH_SCALES
        for noise_variance in (4.0, 1.0, 0.1)
    ),
)
MIN_QUERIES = 10
_FEW_QUERIES = 50


def calibrate_retrieval(
    vectorstore: VectorStore,
    queries: Sequence[Prompt] | None = None,
    *,
    metric: str | None = None,
    label_key: str | None = None,
    k: int = 10,
    fetch_k: int = 200,
    prompts: int = 200,
    seed: int = 0,
    timeout: float = 300.0,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> RetrievalCalibration:
    """Choose kernel, length scale, λ' and k for retrieval from a store.

    With labelled queries, this chooses the settings of the highest mean score. Without labels, it
    makes queries of the store's own texts: single sentences, whose relevant texts are those
    nearest to the whole text, and pairs of sentences, whose relevant texts are those they come
    from. It chooses the settings that find most of the pairs, among those that lose at most 8 % of
    the best score for single sentences. Such queries show how far the store's texts repeat each
    other, and not what its users ask: prefer labels. The reported gain over nearest neighbours is
    measured by cross-validation, on queries that had no part in the choice. The store is only
    read.

    Args:
        vectorstore: Any store that `SIFTRetriever` takes, with embeddings, whose documents can be
            listed. With labelled queries, all its documents are held in memory.
        queries: Queries with `relevant` ids, or with `answers` that a relevant text contains.
            Queries with neither are left out. None makes queries from the store.
        metric: The metric of labelled queries: "ndcg", "recall", "mrr" or "hit"; "alpha_ndcg" or
            "intent_recall" where `relevant` is grouped by intents; "answer_hit" for `answers`.
            None means "ndcg", or "answer_hit" if no query has `relevant` ids.
        label_key: Metadata key of the documents that `relevant` names, such as "source" if it
            names the files of chunks. None means their ids.
        k: Maximum number of documents. With labelled queries, powers of two below it are measured
            as well, and the smallest that is as good as `k` within a standard error is chosen.
        fetch_k: Number of candidates for a query, at least `k`.
        prompts: Number of texts to make queries of.
        seed: Seed of the sample, of the folds and of the intervals.
        timeout: Time limit for sampling the store, in seconds.
        on_progress: Called with the phase, the amount of it that is done, and the total.

    Raises:
        ArgumentError: If a number is out of range, the metric is unknown or belongs to other
            labels, the store has none of the relevant documents, or no settings find one.
        CorpusError: If there are fewer than 10 queries with a label, or as few different texts.
        StoreError: If the store does not answer, or its documents cannot be listed.
    """
    for name, value in (("k", k), ("fetch_k", fetch_k), ("prompts", prompts)):
        check_integer(name, value, 1)
    check_integer("seed", seed, 0)
    if queries is None:
        rows = sampled_rows(max(prompts, MIN_QUERIES), seed)
        sample = run(rows, blocking_adapter_for(vectorstore), timeout=timeout, arguments={})
        return calibrate_on_sample(
            vectorstore, sample, k=k, fetch_k=fetch_k, seed=seed, on_progress=on_progress
        )
    labelled = labelled_queries(
        vectorstore, queries, metric=metric, label_key=label_key, fetch_k=max(fetch_k, k)
    )
    counts, kernels = documents_counts(k), kernels_to_try(embeddings_of(vectorstore))
    measured = []
    for trial in labelled.trials:
        measured.append(_Measured.of(trial, kernels, counts))
        on_progress("measuring queries", len(measured), labelled.count)
    if not any(query.scores.any() for query in measured):
        raise ArgumentError(
            f"no settings find a relevant document for any query ({labelled.metric} is 0): check "
            f"that the labels belong to this store, or raise k, which is {k}"
        )
    return _calibrated(
        {labelled.metric: measured},
        kernels,
        counts,
        fetch_k=max(fetch_k, k),
        labelled=True,
        notes=labelled.notes,
        seed=seed,
    )


def calibrate_on_sample(
    vectorstore: VectorStore,
    sample: Sequence[SampledRow],
    *,
    k: int,
    fetch_k: int,
    seed: int,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> RetrievalCalibration:
    """Choose as `calibrate_retrieval` does without labels, with a sample of the store's texts."""
    _check_enough(len(sample), "different texts with a vector: index more documents")
    fetch_k = max(fetch_k, k)
    kinds: dict[str, list[_Measured]] = {"one sentence": [], "two sentences": []}
    kernels = kernels_to_try(embeddings_of(vectorstore))
    made = made_queries(vectorstore, sample, fetch_k=fetch_k, seed=seed)
    for done, queries in enumerate(made, start=1):
        if queries is not None:
            for measured, trial in zip(kinds.values(), queries, strict=True):
                measured.append(_Measured.of(trial, kernels, (k,)))
        on_progress("measuring queries", done, len(sample))
    return _calibrated(kinds, kernels, (k,), fetch_k=fetch_k, labelled=False, notes=(), seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """The scores of a query."""

    source: str
    scores: Array
    """Scores of nearest neighbours, then of each of the settings, shape (1 + settings, counts)."""

    @classmethod
    def of(
        cls, trial: TrialQuery, kernels: Sequence[KernelSettings], counts: Sequence[int]
    ) -> _Measured:
        """Score all choices for a query."""
        every = (None, *kernels)
        return cls(trial.source, np.array([trial.scores(kernel, counts) for kernel in every]))


def kernels_to_try(embeddings: object) -> tuple[KernelSettings, ...]:
    """Return the settings to choose from, the default of the embeddings first.

    Of equally good settings the first are chosen.
    """
    default = kernel_settings(embeddings)
    if default.kernel == "linear":  # the length scale has no effect
        default = replace(default, length_scale=DEFAULT_LENGTH_SCALE)
    return tuple(dict.fromkeys((default, *_KERNELS)))


def _check_enough(queries: int, named: str, reason: str = "") -> None:
    if queries < MIN_QUERIES:
        raise CorpusError(
            f"calibration needs at least {MIN_QUERIES} {named}; got {queries}{reason}"
        )


def _calibrated(
    kinds: Mapping[str, Sequence[_Measured]],
    kernels: Sequence[KernelSettings],
    counts: Sequence[int],
    *,
    fetch_k: int,
    labelled: bool,
    notes: tuple[str, ...],
    seed: int,
) -> RetrievalCalibration:
    """Choose the settings and report them; `kinds` are the queries of each kind."""
    first, last = next(iter(kinds.values())), list(kinds)[-1]
    sources = len({query.source for query in first})
    alike = f" among {len(first)} queries: equal ones count as one"
    _check_enough(sources, "queries of different sources", alike if sources < len(first) else "")
    scores = []
    for kind, measured in kinds.items():
        stacked = np.array([query.scores for query in measured])
        scores.append(Scores(kind, sift=stacked[:, 1:], nearest=stacked[:, 0]))
    settings, count = choose(scores)
    held_out = cross_validate(scores, [query.source for query in first], seed=seed)
    gain = held_out[-1].gain
    verdict = judge(
        "sift", "nearest", last, gain, prompts=len(first), lower_is_better=False, limit=1.0
    )
    return RetrievalCalibration(
        selection=_selection(kernels[settings], k=counts[count], fetch_k=fetch_k),
        labelled=labelled,
        queries=len(first),
        kernels=tuple(
            KernelPoint(kernel, tuple(float(kind.sift[:, n, -1].mean()) for kind in scores))
            for n, kernel in enumerate(kernels)
        ),
        nearest=tuple(float(kind.nearest[:, -1].mean()) for kind in scores),
        counts=tuple(
            DocumentsPoint(
                k,
                float(scores[-1].sift[:, settings, n].mean()),
                float(scores[-1].nearest[:, n].mean()),
            )
            for n, k in enumerate(counts)
        ),
        held_out=held_out,
        verdict=verdict.verdict,
        notes=(*notes, *_notes(len(first), verdict.verdict)),
    )


def _selection(kernel: KernelSettings, *, k: int, fetch_k: int) -> CalibratedSelection:
    linear = kernel.kernel == "linear"
    return CalibratedSelection(
        noise_variance=kernel.noise_variance,
        k=k,
        fetch_k=fetch_k,
        kernel=kernel.kernel,
        length_scale=None if linear else kernel.length_scale,
    )


def _notes(queries: int, verdict: Verdict) -> tuple[str, ...]:
    notes = []
    if queries < _FEW_QUERIES:
        notes.append(f"{queries} queries are few: the settings may be chosen by chance.")
    if verdict == "worse":
        notes.append(
            "SIFT finds less than nearest neighbours here, also with these settings: keep "
            "search_type='similarity'."
        )
    return tuple(notes)
