"""Embed texts with the served model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import RequestTimeout
from langchain_sift.serving.admitted import TenantView
from langchain_sift.serving.error_responses import Failure, RequestRejected
from langchain_sift.serving.options import Count
from langchain_sift.serving.request_parts import Prompt, Strict, check_prompt, list_of_prompts
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import text_tokens

_MOST_TEXTS = 2048  # as OpenAI
_PART_CHARACTERS = 16_384
# One part at a time, of all requests in turn, in a thread that no other work waits for.
_EXECUTOR = ThreadPoolExecutor(1, thread_name_prefix="langchain-sift-embed")


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model: str
    input: Annotated[Prompt, BeforeValidator(check_prompt)] = Field(
        description="A text, its token ids, or a list of texts or of lists of token ids."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64: of float32 numbers, little-endian."
    )
    dimensions: Count | None = Field(default=None, description="Only that of the model.")
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


async def embed(body: EmbeddingRequest, view: TenantView, timeout: float) -> EmbeddingList:
    """Return the vectors of the texts, of unit norm.

    A cancelled request, or one whose time is up, embeds at most the texts of its current part.

    Args:
        body: The request.
        view: The tenant's models and embeddings.
        timeout: Seconds until the deadline, from now.

    Raises:
        RequestRejected: With status 400, for too many texts or other dimensions.
        RequestTimeout: If the deadline has passed.
    """
    prompts, mean = list_of_prompts(body.input), view.embeddings.fitted_mean()
    if len(prompts) > _MOST_TEXTS:
        raise _rejected(f"at most {_MOST_TEXTS} texts, got {len(prompts)}", "input")
    if body.dimensions not in (None, len(mean)):
        raise _rejected(f"the model's vectors have {len(mean)}", "dimensions")
    run = asyncio.get_running_loop().run_in_executor
    vectors: list[npt.NDArray[np.float32]] = []
    tokens = 0
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            texts = await run(_EXECUTOR, _texts, prompts, view)
            for part in _parts(texts):
                new, count = await run(_EXECUTOR, _embed, view.embeddings, part)
                vectors.extend(new)
                tokens += count
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise RequestTimeout(f"the texts were not embedded within {timeout} s") from error
    encode = _base64 if body.encoding_format == "base64" else _floats
    return EmbeddingList(
        data=[Embedding(index=n, embedding=encode(vector)) for n, vector in enumerate(vectors)],
        model=body.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def served_embeddings(served: LanguageModel, of_store: object) -> HiddenStateEmbeddings:
    """Return the embeddings of the served model.

    They are those of the collection, centred on its mean, if the served model has embedded it.
    Otherwise they are not centred.

    Args:
        served: The model.
        of_store: The embeddings of the collection.
    """
    if isinstance(of_store, HiddenStateEmbeddings) and of_store.tokenizer is served.tokenizer:
        return of_store
    plain = HiddenStateEmbeddings(served)
    plain.mean = np.zeros(plain.hidden_states([""]).shape[1], dtype=np.float32)
    return plain


def _texts(prompts: Sequence[str | list[int]], view: TenantView) -> list[str]:
    return [prompt if isinstance(prompt, str) else view.llm.text_of(prompt) for prompt in prompts]


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in parts of a few seconds of work."""
    part: list[str] = []
    for text in texts:
        if part and sum(map(len, part)) + len(text) > _PART_CHARACTERS:
            yield part
            part = []
        part.append(text)
    yield part


def _embed(
    embeddings: HiddenStateEmbeddings, texts: list[str]
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the vectors, and the number of tokens that were read."""
    tokenizer = embeddings.tokenizer
    lengths = [min(len(text_tokens(tokenizer, text)), embeddings.max_length) for text in texts]
    return np.array(embeddings.embed_documents(texts), dtype="<f4"), sum(lengths)


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.tobytes()).decode("ascii")


def _floats(vector: npt.NDArray[np.float32]) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers


def _rejected(message: str, param: str) -> RequestRejected:
    failure = Failure(HTTPStatus.BAD_REQUEST, f"{param}: {message}", "invalid_value", param)
    return RequestRejected(failure)
