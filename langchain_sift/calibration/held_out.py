"""Hold out documents of a store as prompts, with the candidates to train on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import PROTOCOLS, Task
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.selection import Selection
from langchain_sift.selection.arguments import Array, as_matrices
from langchain_sift.selection.opposites import choose_for_retrieval
from langchain_sift.selection.settings import Kernel, SelectionSettings
from langchain_sift.stores import embed_query, fetch_candidates
from langchain_sift.stores.calls import run
from langchain_sift.stores.interface import blocking_adapter_for
from langchain_sift.stores.sampling import sampled_rows
from langchain_sift.stores.unit_vectors import unit_vector
from langchain_sift.ttft import LanguageModel

CALIBRATION_PROTOCOLS = ("document", "continuation")
"""The protocols that need only a text."""

MIN_DOCUMENTS = 10
_SAMPLED_PER_PROMPT = 4  # some documents are too short to be held out
_SEARCH_SECONDS = 30.0  # time limit of each search for candidates


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A held-out text, and the candidates to train on."""

    text: str
    tokens: ScoredText
    query: Array
    """Unit vector of the query, shape (d,)."""

    documents: tuple[Document, ...]
    """The n candidates, nearest first."""

    embeddings: Array
    """Vectors of the candidates, shape (n, d)."""

    kernel: Kernel = field(default_factory=Kernel)
    """Kernel of SIFT."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the candidates."""
        return tuple(document.page_content for document in self.documents)

    def choose(self, k: int, noise_variance: float) -> tuple[int, ...]:
        """Choose k candidates as `SIFTRetriever` does; return their indices."""
        return tuple(self._select(k, noise_variance).indices.tolist())

    def uncertainty(self, k: int, noise_variance: float) -> float:
        """Return σ of the query after k documents, its posterior standard deviation."""
        return math.sqrt(self._select(k, noise_variance).posterior_variances[-1])

    def _select(self, k: int, noise_variance: float) -> Selection:
        settings = SelectionSettings(
            k=min(k, len(self.documents)),
            noise_variance=noise_variance,
            kernel=self.kernel.name,
            length_scale=self.kernel.length_scale,
        )
        return choose_for_retrieval(as_matrices(self.query, self.embeddings), settings)


def hold_out(
    vectorstore: VectorStore,
    language_model: LanguageModel,
    *,
    prompts: int,
    protocol: str,
    fetch_k: int,
    seed: int,
    kernel: Kernel | None = None,
    timeout: float = 300.0,
    on_prompt: Callable[[int], None] = lambda _: None,
) -> list[HeldOut]:
    """Hold out documents of a store as prompts; see `calibrate` for the arguments and errors."""
    adapter = blocking_adapter_for(vectorstore)
    count = max(_SAMPLED_PER_PROMPT * prompts, MIN_DOCUMENTS)
    sample = run(sampled_rows(count, seed), adapter, timeout=timeout, arguments={})
    documents = [row.document for row in sample]
    if len(documents) < MIN_DOCUMENTS:
        raise CorpusError(
            f"the store has {len(documents)} different texts, and calibration needs at least "
            f"{MIN_DOCUMENTS}: index more documents, or open the collection that has them"
        )
    held_out: list[HeldOut] = []
    for document in documents:
        if len(held_out) == prompts:
            break
        try:
            prompt = as_prompt(
                vectorstore, document, language_model, protocol=protocol, fetch_k=fetch_k
            )
        except ArgumentError:  # the text is too short to be predicted
            continue
        if prompt.documents:
            held_out.append(replace(prompt, kernel=kernel or prompt.kernel))
            on_prompt(len(held_out))
    if not held_out:
        raise CorpusError(
            f"no document can be held out: the {len(documents)} that were tried are too short, or "
            "all have the same source in their metadata, which leaves nothing to train on"
        )
    return held_out


def hold_out_questions(
    vectorstore: VectorStore,
    questions: Sequence[Prompt],
    language_model: LanguageModel,
    *,
    prompts: int,
    fetch_k: int,
    seed: int = 0,
    kernel: Kernel | None = None,
    on_prompt: Callable[[int], None] = lambda _: None,
) -> list[HeldOut]:
    """Make prompts of questions, whose first reference answers or correct choices are predicted.

    The questions are a sample in a random order: files often have those of one topic together.

    Args:
        vectorstore: The store of the candidates.
        questions: Questions with `answers` or a `correct` choice. Others are left out.
        language_model: The model that predicts the answers.
        prompts: Maximum number of questions.
        fetch_k: Maximum number of candidates.
        seed: Seed of the sample.
        kernel: Kernel of SIFT. None means the default.
        on_prompt: Called with the number of questions that are done.

    Raises:
        ArgumentError: If no question has an answer, or a question is too long.
        CorpusError: If the store has no documents.
        StoreError: If the store does not answer.
    """
    held_out: list[HeldOut] = []
    answered = with_answers(questions)
    sample = Random(seed).sample(answered, min(prompts, len(answered)))  # noqa: S311 - no secret
    for question in sample:
        task = PROTOCOLS["qa"](question)
        found = _candidates(vectorstore, task, lambda _: True, fetch_k=fetch_k)
        if not found.documents:
            raise CorpusError("the store has no documents to train on: index some first")
        text = f"{question.text} {question.answers[0]}"
        try:
            tokens = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
        except ArgumentError as error:
            raise ArgumentError(f"question {question.id}: {error}: leave it out") from error
        held_out.append(found.as_held_out(text, tokens, kernel or Kernel()))
        on_prompt(len(held_out))
    return held_out


def with_answers(questions: Sequence[Prompt]) -> list[Prompt]:
    """Return the questions that have an answer; of choices, the correct one is the answer.

    Raises:
        ArgumentError: If none has.
    """
    answered = [
        replace(each, answers=(each.reference,)) for each in questions if each.reference.strip()
    ]
    if not answered:
        raise ArgumentError(
            f"none of the {len(questions)} questions has an answer: give each its reference "
            'answers, as in {"question": "...", "answers": ["..."]}'
        )
    return answered


def as_prompt(
    vectorstore: VectorStore,
    document: Document,
    language_model: LanguageModel,
    *,
    protocol: str,
    fetch_k: int,
) -> HeldOut:
    """Make a prompt of a document, with candidates of other texts and other sources.

    Args:
        vectorstore: The store of the candidates.
        document: The document; the store need not contain it.
        language_model: The model that predicts the text.
        protocol: One of `CALIBRATION_PROTOCOLS`.
        fetch_k: Maximum number of candidates.

    Raises:
        ArgumentError: If no token is left to predict.
        StoreError: If the store does not answer.
    """
    text = document.page_content
    task = PROTOCOLS[protocol](Prompt(id="", text=text))
    tokens = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
    found = _candidates(
        vectorstore,
        task,
        lambda other: not _is_related(document, other),
        fetch_k=fetch_k,
    )
    return found.as_held_out(text, tokens, Kernel())


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The candidates of a query, as in `HeldOut`."""

    query: Array
    documents: tuple[Document, ...]
    embeddings: Array

    def as_held_out(self, text: str, tokens: ScoredText, kernel: Kernel) -> HeldOut:
        return HeldOut(text, tokens, self.query, self.documents, self.embeddings, kernel)


def _candidates(
    vectorstore: VectorStore,
    task: Task,
    is_wanted: Callable[[Document], bool],
    *,
    fetch_k: int,
) -> _Found:
    """Fetch the nearest documents that are wanted; fetch more until there are enough."""
    query = unit_vector(embed_query(vectorstore, task.query))
    count = fetch_k + 1
    while True:
        candidates = fetch_candidates(vectorstore, query, fetch_k=count, timeout=_SEARCH_SECONDS)
        documents = candidates.documents
        others = [n for n, other in enumerate(documents) if is_wanted(other)]
        if len(others) >= fetch_k or len(documents) < count:
            break
        count *= 2
    kept = others[:fetch_k]
    return _Found(query, tuple(documents[n] for n in kept), candidates.embeddings[kept])


def _is_related(document: Document, other: Document) -> bool:
    """Return True if another document has the same text or the same source."""
    source = document.metadata.get("source")
    return other.page_content == document.page_content or (
        source not in (None, "") and other.metadata.get("source") == source
    )
