"""Define the settings of one call and check them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langchain_core.callbacks import BaseRunManager
from langchain_core.documents import Document

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.batches import AnswerGroup, Place
from langchain_sift.language_models.call_adapters import KeptAdapter
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.context import Render
from langchain_sift.language_models.modes import Retriever
from langchain_sift.language_models.runs import INTERNAL_ARGUMENTS
from langchain_sift.retrievers import SIFTRetriever
from langchain_sift.ttft import AdapterCache, Engine, Reservation, TrainedAdapter
from langchain_sift.ttft.model.tokens import (
    max_token_count,
    max_training_tokens,
    training_tokens,
)

FINETUNE_SETTINGS = (
    "objective",
    "learning_rate",
    "steps_per_document",
    "max_documents",
    "max_train_tokens",
    "max_train_seconds",
    "min_gain",
)
GENERATION_SETTINGS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
)
CALL_SETTINGS = (
    "documents",
    "context",
    "retriever",
    "adapter",
    "k",
    "filter",
    *GENERATION_SETTINGS,
    "stop",
    "logprobs",
    "top_logprobs",
    "timeout",
    "reservation",
    *FINETUNE_SETTINGS,
)
"""Arguments of a call; each takes precedence over the field or the config of the same name."""

# Number of documents to reserve training tokens for if the retriever's `k` is unknown.
_UNKNOWN_K = 16


@contextmanager
def released_on_error(call: Mapping[str, object]) -> Iterator[None]:
    """Release the reservation that a call passed if its arguments are refused in the block."""
    try:
        yield
    except BaseException:
        reservation = call.get("reservation")
        if isinstance(reservation, Reservation):
            reservation.release()
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """The settings of one call, checked."""

    documents: Sequence[Document] | None
    """The documents to train on. None means those of the retriever."""

    context: Sequence[Document]
    """Documents for the prompt, most informative first. As many as fit are in it, in reverse."""

    context_record: Mapping[str, object] | None
    """What became of documents that the caller has put into the prompt."""

    prompt_with: Render | None = None
    """Renders such a prompt with other documents. None means that the caller has put in none."""

    retriever: Retriever | None
    """The retriever of the documents; None if they are given or there are none."""

    retrieval: Mapping[str, object]
    """Settings for the call of the retriever."""

    adapter: TrainedAdapter | None
    """The adapter to answer with instead of training. None means to train."""

    finetune: FineTuneConfig
    generation: GenerationConfig

    template: TemplateArguments | None
    """Arguments for the chat template, if the model is a chat model."""

    conversation: bool
    """If True, the prompt is a conversation: reasoning is separated from the answer, which also
    ends where the chat template would go on with another turn."""

    timeout: float | None
    """Seconds until the last token. None means no limit."""

    started: float | None = None
    """Their beginning, by `time.perf_counter`. None means the beginning of the call."""

    top_scores: int | None
    """Number of likeliest tokens to list for each token. None means that no token is scored."""

    score_prompt: bool = False
    """If True, the tokens of the prompt are scored as well."""

    cache: AdapterCache | None
    """Stores trained adapters. None means none."""

    kept: KeptAdapter | None = None
    """Gets the trained adapter, for further calls."""

    reservation: Reservation | None = None
    """A reservation of the engine. None means that the call makes one."""

    run: BaseRunManager | None = None
    """The LangChain run of the call."""

    group: AnswerGroup | None = None
    """The answers that are cancelled with this one."""

    place: Place = field(default_factory=Place)
    """The place in a batch, whose answers wait for each other."""

    @property
    def beginning(self) -> float:
        """The beginning of the timeout: now if the call does not set it."""
        return time.perf_counter() if self.started is None else self.started

    def admit(self, engine: Engine) -> Reservation:
        """Reserve capacity, unless the caller has; in a batch, wait for it.

        Raises:
            EngineOverloaded: If there is none.
        """
        reserve = partial(engine.admission.admit, self.max_training_tokens())
        return self.reservation or self.place.admit(reserve)

    async def aadmit(self, engine: Engine) -> Reservation:
        """Do the same without blocking the event loop."""
        reserve = partial(engine.admission.admit, self.max_training_tokens())
        return self.reservation or await self.place.aadmit(reserve)

    def max_training_tokens(self) -> int:
        """Return an upper bound of the training tokens, before any text is tokenized."""
        if self.documents is not None and self.finetune.objective == "text":
            max_length = self.finetune.max_length
            lengths = [max_token_count(doc.page_content, max_length) for doc in self.documents]
            return training_tokens(lengths, self.finetune)
        count = len(self.documents or ())
        if self.retriever is not None:
            count = self._max_documents(self.retriever)
        return max_training_tokens(count, self.finetune)

    def _max_documents(self, retriever: Retriever) -> int:
        if isinstance(retriever, SIFTRetriever):
            k = {"k": retriever.k, **retriever.search_kwargs, **self.retrieval}["k"]
            if isinstance(k, int):  # otherwise the retriever will raise an error
                return k
        return _UNKNOWN_K


def check_documents(documents: Iterable[Document], source: str) -> list[Document]:
    """Return the documents as a list.

    Args:
        documents: Any iterable.
        source: The origin of the documents, for the message.

    Raises:
        ArgumentError: If `documents` is not an iterable of documents. The message has the index
            and the type, but no text.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise ArgumentError(
            f"{source} must be a sequence of Documents, got one {type(documents).__name__}"
        )
    checked = list(documents)
    for index, document in enumerate(checked):
        text = document.page_content if isinstance(document, Document) else None
        if not isinstance(text, str):
            kind = type(document if text is None else text).__name__
            raise ArgumentError(
                f"{source} must be Documents with a text each, got {kind} at index {index}"
            )
    return checked


def check_arguments(call: Mapping[str, Any]) -> list[Document] | None:
    """Check the names of the arguments of a call, and return its documents, if it has any.

    Raises:
        ArgumentError: If a name is unknown; the message lists those that exist. If `documents` is
            not an iterable of documents.
    """
    for name in call:
        if name not in (*CALL_SETTINGS, *INTERNAL_ARGUMENTS):
            raise ArgumentError(
                f"{name!r} is no setting of a call: use one of {list(CALL_SETTINGS)}"
            )
    documents = call.get("documents")
    return None if documents is None else check_documents(documents, "documents")


def read_iterators(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of several calls, with lists in the place of iterators of documents.

    An iterator can be read only once, and would be empty for the second prompt.
    """
    return {
        name: list(value)
        if name in {"documents", "context"} and isinstance(value, Iterator)
        else value
        for name, value in call.items()
    }
