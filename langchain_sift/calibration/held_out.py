"""Documents held out of a store: they are predicted, and what may be learned for them."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.tasks import PROTOCOLS, ScoredText
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.selection import select
from langchain_sift.selection.arguments import Array
from langchain_sift.stores import embed_query, fetch_candidates
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import unit_vector
from langchain_sift.stores.interface import ROWS_PER_CALL, Page, Rows, blocking_adapter_for
from langchain_sift.ttft import LanguageModel

CALIBRATION_PROTOCOLS = ("document", "continuation")
"""Those that need nothing but a text."""

FEWEST_DOCUMENTS = 10
# For each prompt that is needed, so many texts are looked at: some are too short.
_SPARE = 4


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A text to be predicted, and what may be learned for it."""

    text: str
    tokens: ScoredText
    query: Array
    """The unit vector that is asked with, shape (d,)."""

    texts: tuple[str, ...]
    """The candidates, nearest first."""

    embeddings: Array
    """Theirs, shape (n, d)."""

    def choose(self, k: int, noise_variance: float) -> tuple[int, ...]:
        """Return SIFT's choice for fine-tuning: places of candidates, repeats included."""
        chosen = select(
            self.query, self.embeddings, k=k, noise_variance=noise_variance, replace=True
        )
        return tuple(chosen.indices.tolist())


def hold_out(
    vectorstore: VectorStore,
    language_model: LanguageModel,
    *,
    prompts: int,
    protocol: str,
    fetch_k: int,
    seed: int,
    timeout: float = 300.0,
    on_prompt: Callable[[int], None] = lambda _: None,
) -> list[HeldOut]:
    """Return documents of the store as prompts; see `calibrate` for the arguments and errors."""
    adapter = blocking_adapter_for(vectorstore)
    wanted = max(_SPARE * prompts, FEWEST_DOCUMENTS)
    found = run(sampled(wanted, seed), adapter, timeout=timeout, arguments={})
    if len(found) < FEWEST_DOCUMENTS:
        raise CorpusError(
            f"the store has {len(found)} different texts, and calibration needs at least "
            f"{FEWEST_DOCUMENTS}: index more documents, or open the collection that has them"
        )
    held: list[HeldOut] = []
    for document in found:
        if len(held) == prompts:
            break
        try:
            one = held_out(
                vectorstore, document, language_model, protocol=protocol, fetch_k=fetch_k
            )
        except ArgumentError:  # too short to be predicted
            continue
        if one.texts:
            held.append(one)
            on_prompt(len(held))
    if not held:
        raise CorpusError(
            f"none of {len(found)} documents can be held out: they are too short, or all have the "
            "same source in their metadata, so that nothing is left to learn from"
        )
    return held


def sampled(count: int, seed: int) -> Generator[Page, tuple[Rows, Any], list[Document]]:
    """Read the store through, and return documents of different texts, drawn at random.

    Those with the smallest hashes of seed and text: the same ones however the store orders its
    rows, a text no likelier for having copies, and never more than `count` in memory.
    """
    smallest: list[tuple[int, str, Document]] = []  # a heap, the largest hash first
    texts: set[str] = set()
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, ROWS_PER_CALL)
        for document in rows.documents:
            text = document.page_content
            entry = (-_hash(seed, text), text, document)
            if text in texts or (len(smallest) == count and entry[:2] < smallest[0][:2]):
                continue
            texts.add(text)
            if len(smallest) < count:
                heapq.heappush(smallest, entry)
            else:
                texts.discard(heapq.heappushpop(smallest, entry)[1])
        if cursor is None:
            ordered = sorted(smallest, key=lambda entry: (-entry[0], entry[1]))
            return [document for _, _, document in ordered]


def _hash(seed: int, text: str) -> int:
    data = f"{seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def held_out(
    vectorstore: VectorStore,
    document: Document,
    language_model: LanguageModel,
    *,
    protocol: str,
    fetch_k: int,
    timeout: float = 30.0,
) -> HeldOut:
    """Return a document as a prompt, with candidates of other texts and other sources.

    Args:
        vectorstore: Where the candidates are.
        document: The prompt, whether or not the store has it.
        language_model: Scores it.
        protocol: One of `CALIBRATION_PROTOCOLS`.
        fetch_k: Candidates.
        timeout: Seconds that the store may take each time it is asked.

    Raises:
        ArgumentError: If there is nothing to score.
        StoreError: If the store cannot answer.
    """
    text = document.page_content
    task = PROTOCOLS[protocol](Prompt(id="", text=text))
    tokens = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
    query = unit_vector(embed_query(vectorstore, task.query))
    asked = fetch_k + 1
    while True:
        found = fetch_candidates(vectorstore, query, fetch_k=asked, timeout=timeout)
        others = [n for n, other in enumerate(found.documents) if not _is_own(document, other)]
        if len(others) >= fetch_k or len(found.documents) < asked:
            break
        asked *= 2
    kept = others[:fetch_k]
    return HeldOut(
        text=text,
        tokens=tokens,
        query=query,
        texts=tuple(found.documents[n].page_content for n in kept),
        embeddings=found.embeddings[kept],
    )


def _is_own(document: Document, other: Document) -> bool:
    source = document.metadata.get("source")
    return other.page_content == document.page_content or (
        source not in (None, "") and other.metadata.get("source") == source
    )
