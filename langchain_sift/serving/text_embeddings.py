"""Embed texts with the served model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.serving.admitted import TenantView
from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.request_parts import Prompt, Strict, check_prompt, list_of_prompts
from langchain_sift.ttft.model.tokens import text_tokens

_MOST_TEXTS = 2048  # as OpenAI


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model: str
    input: Annotated[Prompt, BeforeValidator(check_prompt)] = Field(
        description="A text, its token ids, or a list of texts or of lists of token ids."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64: of float32 numbers, little-endian."
    )
    dimensions: int | None = Field(default=None, description="Only that of the model.")
    user: str | None = None


class Embedding(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Number of tokens of the texts, as far as they were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors of all texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


async def embed(body: EmbeddingRequest, view: TenantView) -> EmbeddingList:
    """Return the vectors of the texts, of unit norm.

    They are those of the collection, centred on its mean, if the served model has embedded it.
    Otherwise they are not centred.

    Args:
        body: The request.
        view: The tenant's models and its collection.
    """
    texts = [
        prompt if isinstance(prompt, str) else view.llm.text_of(prompt)
        for prompt in list_of_prompts(body.input)
    ]
    if len(texts) > _MOST_TEXTS:
        raise _rejected(f"at most {_MOST_TEXTS} texts, got {len(texts)}", "input")
    vectors, tokens = await asyncio.to_thread(_embed, view, texts)
    if body.dimensions not in (None, vectors.shape[1]):
        raise _rejected(f"the model's vectors have {vectors.shape[1]}", "dimensions")
    encode = _base64 if body.encoding_format == "base64" else _floats
    return EmbeddingList(
        data=[Embedding(index=n, embedding=encode(vector)) for n, vector in enumerate(vectors)],
        model=body.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _embed(view: TenantView, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], int]:
    """Return the vectors, and the number of tokens that were read."""
    embeddings = _embeddings(view)
    tokenizer = embeddings.tokenizer
    lengths = [min(len(text_tokens(tokenizer, text)), embeddings.max_length) for text in texts]
    return np.array(embeddings.embed_documents([*texts]), dtype="<f4"), sum(lengths)


def _embeddings(view: TenantView) -> HiddenStateEmbeddings:
    served, of_store = view.chat.engine.language_model, view.retriever.vectorstore.embeddings
    if isinstance(of_store, HiddenStateEmbeddings) and of_store.tokenizer is served.tokenizer:
        return of_store
    plain = HiddenStateEmbeddings(served)
    plain.mean = np.zeros(plain.hidden_states([""]).shape[1], dtype=np.float32)
    return plain


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.tobytes()).decode("ascii")


def _floats(vector: npt.NDArray[np.float32]) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers


def _rejected(message: str, param: str) -> RequestRejected:
    failure = Failure(HTTPStatus.BAD_REQUEST, f"{param}: {message}", "invalid_value", param)
    return RequestRejected(failure)
