"""Hold out documents of a store as prompts, with the candidates to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import PROTOCOLS
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.selection import select
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import Kernel
from langchain_sift.stores import embed_query, fetch_candidates
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import unit_vector
from langchain_sift.stores.interface import blocking_adapter_for
from langchain_sift.stores.sampling import sampled_rows
from langchain_sift.ttft import LanguageModel

CALIBRATION_PROTOCOLS = ("document", "continuation")
"""The protocols that need only a text."""

MIN_DOCUMENTS = 10
_SAMPLED_PER_PROMPT = 4  # some documents are too short to be held out


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A held-out text, and the candidates to train on."""

    text: str
    tokens: ScoredText
    query: Array
    """Unit vector of the query, shape (d,)."""

    texts: tuple[str, ...]
    """Texts of the n candidates, nearest first."""

    embeddings: Array
    """Vectors of the candidates, shape (n, d)."""

    kernel: Kernel = field(default_factory=Kernel)
    """Kernel of SIFT."""

    def choose(self, k: int, noise_variance: float) -> tuple[int, ...]:
        """Choose candidates with SIFT for fine-tuning; return their indices, with repeats."""
        selection = select(
            self.query,
            self.embeddings,
            k=k,
            noise_variance=noise_variance,
            kernel=self.kernel.name,
            length_scale=self.kernel.length_scale,
            replace=True,
        )
        return tuple(selection.indices.tolist())


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
        if prompt.texts:
            held_out.append(replace(prompt, kernel=kernel or prompt.kernel))
            on_prompt(len(held_out))
    if not held_out:
        raise CorpusError(
            f"no document can be held out: the {len(documents)} that were tried are too short, or "
            "all have the same source in their metadata, which leaves nothing to train on"
        )
    return held_out


def as_prompt(
    vectorstore: VectorStore,
    document: Document,
    language_model: LanguageModel,
    *,
    protocol: str,
    fetch_k: int,
    timeout: float = 30.0,
) -> HeldOut:
    """Make a prompt of a document, with candidates of other texts and other sources.

    Args:
        vectorstore: The store of the candidates.
        document: The document; the store need not contain it.
        language_model: The model that predicts the text.
        protocol: One of `CALIBRATION_PROTOCOLS`.
        fetch_k: Maximum number of candidates.
        timeout: Time limit of each call of the store, in seconds.

    Raises:
        ArgumentError: If no token is left to predict.
        StoreError: If the store does not answer.
    """
    text = document.page_content
    task = PROTOCOLS[protocol](Prompt(id="", text=text))
    tokens = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
    query = unit_vector(embed_query(vectorstore, task.query))
    count = fetch_k + 1
    while True:
        candidates = fetch_candidates(vectorstore, query, fetch_k=count, timeout=timeout)
        documents = candidates.documents
        others = [n for n, other in enumerate(documents) if not _is_related(document, other)]
        if len(others) >= fetch_k or len(documents) < count:
            break
        count *= 2
    kept = others[:fetch_k]
    return HeldOut(
        text=text,
        tokens=tokens,
        query=query,
        texts=tuple(documents[n].page_content for n in kept),
        embeddings=candidates.embeddings[kept],
    )


def _is_related(document: Document, other: Document) -> bool:
    """Return True if another document has the same text or the same source."""
    source = document.metadata.get("source")
    return other.page_content == document.page_content or (
        source not in (None, "") and other.metadata.get("source") == source
    )
