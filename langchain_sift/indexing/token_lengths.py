"""Measure texts in the tokens of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError
from langchain_sift.indexing.chunks import Chunking
from langchain_sift.retrieval.constraints import tokenizer_of

_NO_LIMIT = 10**9  # tokenizers without a limit name 10**30
_MOST_TOKENS = 512
_CHARACTERS = 2000
_WORDS = 2**16  # whose lengths are remembered: a splitter asks for each several times


@dataclass(frozen=True, slots=True)
class ChunkLengths:
    """The lengths of chunks, in tokens of the embeddings or in characters."""

    tokens: int | None = None
    """Maximum number of tokens. None means as many as the embeddings read, but no more than 512;
    and 2000 characters if they show no tokenizer."""

    characters: int | None = None
    """Maximum number of characters, in place of tokens. A chunk may hold several short sections
    then; otherwise each heading begins a chunk."""

    overlap: int = 0
    """Maximum length that two neighbours share."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: If a number is out of range, or both sizes are given.
        """
        if self.tokens is not None and self.characters is not None:
            raise ArgumentError(
                "give either --chunk-tokens or --chunk-size, the maximum number of characters"
            )
        size = self.tokens if self.tokens is not None else self.characters
        Chunking(max(1, self.overlap + 1) if size is None else size, self.overlap)

    def chunking(self, load: Callable[[], object]) -> Chunking:
        """Return the lengths for embeddings, which are loaded if they count.

        Args:
            load: Returns the embeddings, or a model whose hidden states are the embeddings.

        Raises:
            ArgumentError: If the overlap is not below the size, or `tokens` are given and the
                embeddings show no tokenizer.
        """
        if self.characters is not None:
            return Chunking(self.characters, self.overlap)
        embeddings = _with_limit(load())
        tokenizer = tokenizer_of(embeddings)
        if tokenizer is None:
            if self.tokens is not None:
                raise ArgumentError(
                    f"the embeddings ({type(embeddings).__name__}) show no tokenizer to count "
                    "tokens with: give the size in characters (--chunk-size)"
                )
            return Chunking(_CHARACTERS, self.overlap, at_headings=True)
        size = _room(embeddings, tokenizer) if self.tokens is None else self.tokens
        return Chunking(size, self.overlap, _counter(tokenizer), at_headings=True)


def cut_texts(
    embeddings: object,
    chunks: Sequence[Document],
    given: ChunkLengths = ChunkLengths(),
) -> str | None:
    """Return a warning if the embeddings do not read chunks to their ends; None if they do.

    Args:
        embeddings: The embeddings, or a model whose hidden states are the embeddings.
        chunks: The chunks to embed.
        given: The lengths of which they were made.
    """
    owner = _with_limit(embeddings)
    tokenizer = tokenizer_of(owner)
    limit = None if tokenizer is None else token_limit_of(owner, tokenizer)
    if tokenizer is None or limit is None:
        return None
    lengths = [len(tokenizer.encode(chunk.page_content, verbose=False)) for chunk in chunks]
    cut = [length for length in lengths if length > limit]
    if not cut:
        return None
    share = sum(length - limit for length in cut) / sum(lengths)
    room = _room(owner, tokenizer)
    fits = given.characters is None and (given.tokens is None or given.tokens <= room)
    # Two parts of a text may have fewer tokens than the text.
    size = max(1, (given.tokens or room) - (max(cut) - limit)) if fits else room
    cure = f"give --chunk-tokens {size}"
    if given.characters is not None:
        cure += " in place of --chunk-size"
    return (
        f"{len(cut)} of {len(chunks)} new chunks are longer than the {limit} tokens that the "
        f"embeddings read (the longest has {max(cut)}): {share:.1%} of their text is not found by "
        f"a search; {cure}"
    )


def token_limit_of(embeddings: object, tokenizer: object) -> int | None:
    """Return the number of tokens of a text that embeddings read; None if they show none.

    `HiddenStateEmbeddings` have the attribute `max_length`. Those of langchain-huggingface have a
    sentence-transformer with a `max_seq_length` as `_client`, those of langchain-community as
    `client`. Otherwise it is the tokenizer's `model_max_length`. The tokens of a prompt that the
    embeddings put before each document are not left for the text.
    """
    owners = (embeddings, getattr(embeddings, "_client", None), getattr(embeddings, "client", None))
    for owner, name in (
        *((owner, name) for owner in owners for name in ("max_length", "max_seq_length")),
        (tokenizer, "model_max_length"),
    ):
        limit = getattr(owner, name, None)
        if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < _NO_LIMIT:
            prompt = _document_prompt(embeddings)
            return max(1, limit - (_counter(tokenizer)(prompt) if prompt else 0))
    return None


def _document_prompt(embeddings: object) -> str:
    """Return the text that embeddings put before each document; "" without one.

    Sentence-transformers of this package have the attribute `document_prompt`, instructors of
    langchain-community `embed_instruction`. Others embed documents with the prompt that
    `encode_kwargs` name, or the default one of their model.
    """
    for name in ("document_prompt", "embed_instruction"):
        if isinstance(prompt := getattr(embeddings, name, None), str):
            return prompt
    given = getattr(embeddings, "encode_kwargs", None) or {}
    if isinstance(prompt := given.get("prompt"), str):
        return prompt
    client = getattr(embeddings, "_client", None) or getattr(embeddings, "client", None)
    chosen = given.get("prompt_name") or getattr(client, "default_prompt_name", None)
    return (getattr(client, "prompts", {}).get(chosen) if chosen else None) or ""


def _room(embeddings: object, tokenizer: Any) -> int:
    """Return the number of tokens of a text that the embeddings read, at most 512."""
    specials = len(tokenizer.encode("", verbose=False))
    limit = token_limit_of(embeddings, tokenizer)
    return max(1, _MOST_TOKENS if limit is None else min(_MOST_TOKENS, limit - specials))


def _with_limit(embeddings: object) -> object:
    """Return embeddings; those of a model's hidden states if it is a model."""
    if isinstance(embeddings, Embeddings) or not hasattr(embeddings, "context_length"):
        return embeddings
    return HiddenStateEmbeddings(embeddings)


def _counter(tokenizer: object) -> Callable[[str], int]:
    @lru_cache(maxsize=_WORDS)
    def count(text: str) -> int:
        """Return the number of tokens, without those that begin and end a text."""
        return len(tokenizer.encode(text, add_special_tokens=False, verbose=False))  # type: ignore[attr-defined]

    return count
