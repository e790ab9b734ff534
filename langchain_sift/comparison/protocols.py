"""What is asked with, what is trained on, and what is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.tokens import beginning, plain_tokens

SEPARATOR = "\n\n"
"""Between documents in a context, and between them and the prompt."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt under one protocol."""

    query: str
    """What documents are retrieved with."""

    context: str
    """What stands before the scored text, whatever the method."""

    target: str
    """What is scored."""


def document_task(text: str) -> Task:
    """Retrieve with the document, score the same document (arXiv 2410.08020, section 6)."""
    return Task(query=text, context="", target=text)


def continuation_task(text: str) -> Task:
    """Retrieve with the first half, score the second half after the first: nothing leaks.

    Raises:
        ArgumentError: If the text cannot be halved between two words.
    """
    middle = len(text) // 2
    places = [i for i in range(1, len(text)) if text[i].isspace() and not text[i - 1].isspace()]
    if not places:
        msg = "the text is a single word: a continuation needs at least two"
        raise ArgumentError(msg)
    cut = min(places, key=lambda place: abs(place - middle))
    return Task(query=text[:cut], context=text[:cut], target=text[cut:])


PROTOCOLS: Mapping[str, Callable[[str], Task]] = MappingProxyType(
    {"document": document_task, "continuation": continuation_task}
)


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The token ids of a task, the same for every method."""

    start: tuple[int, ...]
    """What a text begins with."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    target_bytes: int

    @classmethod
    def of(cls, task: Task, tokenizer: PreTrainedTokenizerBase, window: int) -> ScoredText:
        """Tokenize, leaving at least a quarter of the model's window for documents.

        The target is cut at half the window, and of the context its end is kept, at most a
        quarter of the window.

        Raises:
            ArgumentError: If nothing is left to score.
        """
        start = beginning(tokenizer)
        context = plain_tokens(tokenizer, task.context)
        whole = plain_tokens(tokenizer, task.target)
        if not start and not context:
            # Without a token to begin with, the first token cannot be predicted.
            start, whole = whole[:1], whole[1:]
        target = whole[: window // 2]
        if not target:
            msg = "there is no token to score: the prompt is too short"
            raise ArgumentError(msg)
        uncut = len(target) == len(whole)
        scored = task.target if uncut else tokenizer.decode(target)
        return cls(
            start=tuple(start),
            context=tuple(context[-(window // 4) :]),
            target=tuple(target),
            target_bytes=len(str(scored).encode()),
        )

    def with_documents(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        window: int,
        max_length: int,
    ) -> tuple[list[int], list[int]]:
        """Return the context with documents before it, and the indices of those that fitted.

        Args:
            texts: Most informative first; each is cut at `max_length` tokens, as in training.
            tokenizer: The model's.
            window: Of the model, in tokens.
            max_length: Tokens of a document.
        """
        separator = plain_tokens(tokenizer, SEPARATOR)
        room = window - len(self.start) - len(self.context) - len(self.target)
        before: list[int] = []
        fitted: list[int] = []
        for index, text in enumerate(texts):
            block = plain_tokens(tokenizer, text)[:max_length] + separator
            if len(before) + len(block) <= room:
                before += block
                fitted.append(index)
        return [*self.start, *before, *self.context], fitted
