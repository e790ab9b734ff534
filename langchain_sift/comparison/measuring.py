"""Base model, retrieval-augmented generation or test-time fine-tuning: which serves better?"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.corpus import Prompt
from langchain_sift.comparison.protocols import PROTOCOLS, ScoredText, Task
from langchain_sift.comparison.results import BASE, ChosenDocument, Report, Row, write_row
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.selection import SELECTORS
from langchain_sift.selection.greedy import check_arguments
from langchain_sift.stores import Candidates, embed_query, fetch_candidates
from langchain_sift.stores.candidates import unit_vector
from langchain_sift.ttft import (
    Engine,
    LanguageModel,
    Scoring,
    load_language_model,
    shared_engine,
)

logger = logging.getLogger(__name__)

DEFAULT_METHODS = (BASE, "rag:nearest", "rag:sift", "ttft:nearest", "ttft:sift")
_MODES = ("rag", "ttft")
# For these the paper's choice is with repeats: one more gradient step on the same document.
_REPEATING = ("sift", "uncertainty", "nearest-repeated")
_SHOWN_CHARACTERS = 600


def compare(
    prompts: Sequence[Prompt | str],
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    model: Any,
    vectorstore: VectorStore,
    tokenizer: Any = None,
    protocols: Sequence[str] = ("document",),
    k: int = 20,
    fetch_k: int = 200,
    noise_variance: float = 0.01,
    finetune: FineTuneConfig | None = None,
    out: Path | None = None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Report:
    """Score every method on every prompt, in bits per byte.

    Args:
        prompts: Texts that are not in the store.
        methods: "base", and "rag:" or "ttft:" followed by a way to choose: "sift", "nearest",
            "nearest-repeated", "uncertainty", "mmr" or "random". "base" is always measured.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        vectorstore: Where the documents are, a `langchain_chroma.Chroma`.
        tokenizer: Required with a loaded model.
        protocols: "document" retrieves with the prompt and scores the same text, as in arXiv
            2410.08020; "continuation" retrieves with its first half and scores the second.
        k: Documents chosen for a prompt. Fine-tuning takes a step on each; RAG puts as many
            different ones before the prompt as fit the model's context, in order.
        fetch_k: Candidates they are chosen from; raised to `k`.
        noise_variance: λ' of SIFT, see `SIFTRetriever`.
        finetune: How the model learns; its `max_length` also cuts the documents of RAG.
        out: A folder: each row is appended to `results.jsonl` in it as soon as it is there.
        on_row: Called with each row.

    Returns:
        The rows, and their summaries. A method that fails on a prompt leaves a row with the
        reason, and the comparison goes on.

    Raises:
        ArgumentError: If a method or protocol is unknown or a number is out of range.
        ModelLoadError: If there is no such model.
    """
    check_arguments(k, noise_variance, None)
    parsed, checked = parse_methods(methods), _check_protocols(protocols)
    recipe = finetune or FineTuneConfig()
    language_model = _language_model(model, tokenizer)
    settings = {
        "methods": [method.name for method in parsed],
        "protocols": list(checked),
        "k": k,
        "fetch_k": max(fetch_k, k),
        "noise_variance": noise_variance,
        "model": language_model.name,
        **asdict(recipe),
    }
    comparison = _Comparison(
        engine=shared_engine(language_model, recipe),
        vectorstore=vectorstore,
        methods=parsed,
        k=k,
        fetch_k=max(fetch_k, k),
        noise_variance=noise_variance,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.jsonl").unlink(missing_ok=True)
    rows = []
    for row in comparison.rows(_as_prompts(prompts), protocols):
        rows.append(row)
        if out is not None:
            write_row(out / "results.jsonl", row)
        on_row(row)
    return Report(rows=tuple(rows), settings=settings)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer: a mode, and how it chooses documents."""

    name: str
    mode: str
    selection: str | None

    @property
    def repeats(self) -> bool:
        """Whether a document may be chosen again: where it is one more gradient step."""
        return self.mode == "ttft" and self.selection in _REPEATING


def parse_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """Return the methods by their names, each once, the base model first.

    Raises:
        ArgumentError: If there is no such method.
    """
    return tuple(_parse_method(name) for name in dict.fromkeys((BASE, *names)))


def _parse_method(name: str) -> Method:
    if name == BASE:
        return Method(BASE, BASE, None)
    mode, _, selection = name.partition(":")
    if mode not in _MODES or selection not in SELECTORS:
        allowed = [BASE, *(f"{mode}:{selection}" for mode in _MODES for selection in SELECTORS)]
        msg = f"there is no method {name!r}: use some of {', '.join(allowed)}"
        raise ArgumentError(msg)
    return Method(name, mode, selection)


def _check_protocols(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in PROTOCOLS:
            msg = f"there is no protocol {name!r}: use some of {', '.join(PROTOCOLS)}"
            raise ArgumentError(msg)
    return names


def _as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    return [
        Prompt(id=str(number), text=prompt) if isinstance(prompt, str) else prompt
        for number, prompt in enumerate(prompts, start=1)
    ]


def _language_model(model: Any, tokenizer: Any) -> LanguageModel:
    if isinstance(model, LanguageModel):
        return model
    return load_language_model(model, tokenizer)


@dataclass(frozen=True, slots=True)
class _Retrieved:
    """What the store holds for one query, and how long that took."""

    query_embedding: npt.NDArray[np.float64]
    candidates: Candidates
    seconds: float


@dataclass(frozen=True, slots=True)
class _Comparison:
    engine: Engine
    vectorstore: VectorStore
    methods: tuple[Method, ...]
    k: int
    fetch_k: int
    noise_variance: float

    def rows(self, prompts: Sequence[Prompt], protocols: Sequence[str]) -> Iterator[Row]:
        for protocol in protocols:
            for prompt in prompts:
                yield from self._rows_of(prompt, protocol)

    def _rows_of(self, prompt: Prompt, protocol: str) -> Iterator[Row]:
        retrieved: _Retrieved | None = None
        for method in self.methods:
            row = Row(protocol, prompt.id, prompt.group, method.name)
            try:
                task = PROTOCOLS[protocol](prompt.text)
                if method.selection is not None:
                    retrieved = retrieved or self._retrieve(task)
                yield self._measure(row, method, task, retrieved)
            # One prompt that cannot be measured must not cost the others their hours.
            except Exception as error:
                logger.warning("%s failed on prompt %s", method.name, prompt.id, exc_info=True)
                yield replace(row, failure=f"{type(error).__name__}: {error}")

    def _retrieve(self, task: Task) -> _Retrieved:
        began = time.perf_counter()
        query_embedding = unit_vector(embed_query(self.vectorstore, task.query))
        candidates = fetch_candidates(self.vectorstore, query_embedding, fetch_k=self.fetch_k)
        return _Retrieved(query_embedding, candidates, time.perf_counter() - began)

    def _measure(self, row: Row, method: Method, task: Task, retrieved: _Retrieved | None) -> Row:
        language_model = self.engine.language_model
        tokenizer, window = language_model.tokenizer, language_model.context_length
        scored = ScoredText.of(task, tokenizer, window)
        context = [*scored.start, *scored.context]
        texts: list[str] = []
        if method.selection is not None and retrieved is not None:
            row = self._choose(row, method, retrieved)
            by_id = {str(d.id): d.page_content for d in retrieved.candidates.documents}
            texts = [by_id[document.id] for document in row.chosen]
        if method.mode == "rag":
            context, fitted = scored.with_documents(
                texts, tokenizer, window=window, max_length=self.engine.config.max_length
            )
            row = replace(row, used_places=tuple(fitted))
        outcome = self.engine.outcome(
            self.engine.request(
                texts if method.mode == "ttft" else [], Scoring([(context, scored.target)])
            )
        )
        training = outcome.training
        if method.mode == "ttft":
            row = replace(
                row,
                used_places=training.trained,
                seconds_training=training.seconds,
                failure=training.fallback,
            )
        return replace(
            row,
            bits=outcome.nats[0] / math.log(2),
            bytes=scored.target_bytes,
            seconds_answering=outcome.seconds_task,
        )

    def _choose(self, row: Row, method: Method, retrieved: _Retrieved) -> Row:
        candidates = retrieved.candidates
        began = time.perf_counter()
        selection = SELECTORS[str(method.selection)](
            retrieved.query_embedding,
            candidates.embeddings,
            k=self.k,
            noise_variance=self.noise_variance,
            replace=method.repeats,
        )
        seconds = time.perf_counter() - began
        chosen = tuple(
            ChosenDocument(
                id=str(candidates.documents[index].id),
                text=candidates.documents[index].page_content[:_SHOWN_CHARACTERS],
                gain=float(gain),
                posterior_variance=float(variance),
                copies=candidates.copies[index],
            )
            for index, gain, variance in zip(
                selection.indices, selection.gains, selection.posterior_variances, strict=True
            )
        )
        return replace(
            row,
            chosen=chosen,
            prior_variance=selection.prior_variance,
            seconds_retrieval=retrieved.seconds + seconds,
        )
