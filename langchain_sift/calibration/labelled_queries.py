"""Turn prompts with labels into queries whose choices can be scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_core.vectorstores import VectorStore

from langchain_sift.calibration.trial_queries import TrialQuery
from langchain_sift.checks import check_choice
from langchain_sift.comparison.judgments import Label, Labels
from langchain_sift.comparison.prompts import Prompt, as_prompts
from langchain_sift.comparison.selection import Corpus
from langchain_sift.errors import ArgumentError
from langchain_sift.report.metrics import ANSWER_HIT, RETRIEVAL_METRICS
from langchain_sift.report.ranking import INTENT_METRICS, Judgments
from langchain_sift.stores.unit_vectors import unit_vector


@dataclass(frozen=True, slots=True, eq=False)
class LabelledQueries:
    """Queries with labels for one metric."""

    trials: Iterator[TrialQuery]
    """The queries; each is embedded when it is taken."""

    count: int
    metric: str
    notes: tuple[str, ...]
    """Numbers of queries that are left out, and of relevant documents that the store lacks."""


def labelled_queries(
    vectorstore: VectorStore,
    queries: Sequence[Prompt],
    *,
    metric: str | None,
    label_key: str | None,
    fetch_k: int,
) -> LabelledQueries:
    """Find the labels of queries in a store; see `calibrate_retrieval` for arguments and errors."""
    if metric is not None:
        check_choice("metric", metric, RETRIEVAL_METRICS)
    prompts = as_prompts(queries)
    corpus = Corpus.read(vectorstore, None, label_key=label_key)
    labels = Labels.of(prompts, corpus)
    knows_relevant = any(label.judgments.grades for label in labels.by_prompt.values())
    metric = metric or ("ndcg" if knows_relevant else ANSWER_HIT)
    chosen = {
        prompt.id: label
        for prompt in prompts
        if (label := _label(labels.by_prompt.get(prompt.id), metric)) is not None
    }
    if not chosen:
        raise ArgumentError(
            f"no query has the labels of the metric {metric!r}: ndcg, recall, mrr and hit need "
            '"relevant" ids, alpha_ndcg and intent_recall ids grouped by intents, answer_hit '
            '"answers"'
        )
    notes = labels.notes
    if len(chosen) < len(labels.by_prompt):
        others = len(labels.by_prompt) - len(chosen)
        notes = (*notes, f"{others} queries have other labels than those of {metric!r}: left out.")
    trials = (
        _trial(prompt, chosen[prompt.id], corpus, metric, fetch_k)
        for prompt in prompts
        if prompt.id in chosen
    )
    return LabelledQueries(trials, len(chosen), metric, notes)


def _label(label: Label | None, metric: str) -> Label | None:
    """Return the label with what the metric needs; None if it lacks that."""
    if label is None:
        return None
    if metric == ANSWER_HIT:
        return Label(Judgments({}), label.answers) if label.answers else None
    known = label.judgments.intents if metric in INTENT_METRICS else label.judgments.grades
    return label if known else None


def _trial(prompt: Prompt, label: Label, corpus: Corpus, metric: str, fetch_k: int) -> TrialQuery:
    query = unit_vector(corpus.embed(prompt.text))
    rows = corpus.index.nearest(query, fetch_k)
    candidates = corpus.candidates.take(rows)
    return TrialQuery(
        source=prompt.source or prompt.id,
        query=query,
        names=tuple(map(corpus.label_of, candidates.documents)),
        texts=tuple(document.page_content for document in candidates.documents),
        embeddings=candidates.embeddings,
        label=label,
        metric=metric,
    )
