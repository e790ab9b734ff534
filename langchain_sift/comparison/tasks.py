"""What is asked with, what stands before the answer, and what is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.tokens import beginning, plain_tokens

SEPARATOR = "\n\n"
"""Between documents in a context, and between them and the prompt."""

_PLACE_OF_THE_MESSAGE = "MESSAGE-OF-THE-USER"


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt under one protocol."""

    query: str
    """What documents are retrieved with."""

    context: str
    """What stands before the scored text, whatever the method."""

    target: str | None
    """What is scored; None where nothing is known that could be."""

    asks: bool = False
    """Whether an answer is generated."""

    choices: tuple[str, ...] = ()
    """What the likeliest is found among, after the same context."""


def document_task(prompt: Prompt) -> Task:
    """Retrieve with the document, score the same document (arXiv 2410.08020, section 6)."""
    return Task(query=prompt.text, context="", target=prompt.text)


def continuation_task(prompt: Prompt) -> Task:
    """Retrieve with the first half, score the second half after the first: nothing leaks.

    Raises:
        ArgumentError: If the text cannot be halved between two words.
    """
    text = prompt.text
    middle = len(text) // 2
    places = [i for i in range(1, len(text)) if text[i].isspace() and not text[i - 1].isspace()]
    if not places:
        raise ArgumentError("the text is a single word: a continuation needs at least two")
    cut = min(places, key=lambda place: abs(place - middle))
    return Task(query=text[:cut], context=text[:cut], target=text[cut:])


def question_task(prompt: Prompt) -> Task:
    """Retrieve with the question, generate an answer, score the reference after the question."""
    return Task(
        query=prompt.text,
        context=f"Question: {prompt.text.strip()}\nAnswer:",
        target=f" {prompt.answers[0]}" if prompt.answers else None,
        asks=True,
        choices=tuple(f" {choice}" for choice in prompt.choices),
    )


PROTOCOLS: Mapping[str, Callable[[Prompt], Task]] = MappingProxyType(
    {"document": document_task, "continuation": continuation_task, "qa": question_task}
)


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The token ids of a task, the same for every method."""

    start: tuple[int, ...]
    """What a text begins with, and a chat's turn."""

    context: tuple[int, ...]
    target: tuple[int, ...]
    """Empty where nothing is scored."""

    target_bytes: int
    choices: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(
        cls, task: Task, tokenizer: PreTrainedTokenizerBase, window: int, *, answer: int = 0
    ) -> ScoredText:
        """Tokenize, leaving at least a quarter of the model's window for documents.

        The target is cut at half the window, and of the context its end is kept, at most a
        quarter of the window. A question to a chat model goes into its template, as the user's.

        Args:
            task: What to tokenize.
            tokenizer: The model's.
            window: Of the model, in tokens.
            answer: Tokens to leave for an answer.

        Raises:
            ArgumentError: If nothing is left to score, or the question is too long.
        """
        start, after = _frame(tokenizer) if task.asks else (beginning(tokenizer), [])
        context = [*plain_tokens(tokenizer, task.context), *after]
        whole = plain_tokens(tokenizer, task.target or "")
        if not start and not context:
            # Without a token to begin with, the first token cannot be predicted.
            start, whole = whole[:1], whole[1:]
        target = whole[: window // 2]
        if not target and not task.asks:
            raise ArgumentError("there is no token to score: the prompt is too short")
        if task.asks and len(start) + len(context) + answer > window // 2:
            raise ArgumentError(
                f"the question has {len(context)} tokens: with an answer of {answer} it takes more "
                f"than half of the model's context of {window}"
            )
        scored = task.target if len(target) == len(whole) else tokenizer.decode(target)
        return cls(
            start=tuple(start),
            context=tuple(context if task.asks else context[-(window // 4) :]),
            target=tuple(target),
            target_bytes=len(str(scored or "").encode("utf-8", "surrogatepass")),
            choices=tuple(
                tuple(plain_tokens(tokenizer, choice)[: window // 4]) for choice in task.choices
            ),
        )

    @property
    def longest(self) -> int:
        """The most tokens that are scored at once."""
        return max(map(len, (self.target, *self.choices)))

    def pairs(self, context: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Return what the engine scores: the target, where there is one, then the choices."""
        targets = [*([self.target] if self.target else []), *self.choices]
        return [(context, target) for target in targets]

    def without_documents(self) -> list[int]:
        """Return the context of a model that reads no documents."""
        return [*self.start, *self.context]

    def with_documents(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        window: int,
        max_length: int,
        answer: int = 0,
    ) -> tuple[list[int], list[int]]:
        """Return the context with documents before it, and the indices of those that fitted.

        Args:
            texts: Most informative first; each is cut at `max_length` tokens, as in training.
            tokenizer: The model's.
            window: Of the model, in tokens.
            max_length: Tokens of a document.
            answer: Tokens to leave for an answer.
        """
        separator = plain_tokens(tokenizer, SEPARATOR)
        room = window - len(self.start) - len(self.context) - max(answer, self.longest)
        before: list[int] = []
        fitted: list[int] = []
        for index, text in enumerate(texts):
            block = plain_tokens(tokenizer, text)[:max_length] + separator
            if len(before) + len(block) <= room:
                before += block
                fitted.append(index)
        return [*self.start, *before, *self.context], fitted


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return what a chat template has before and after a user's message; else how texts begin."""
    if not tokenizer.chat_template:
        return beginning(tokenizer), []
    rendered = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": _PLACE_OF_THE_MESSAGE}],
            tokenize=False,
            add_generation_prompt=True,
        )
    )
    before, _, after = rendered.partition(_PLACE_OF_THE_MESSAGE)
    return [
        tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for part in (before, after)
    ]  # type: ignore[return-value]


def named_protocols(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once.

    Raises:
        ArgumentError: If there is no such protocol.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise ArgumentError(
                f"there is no protocol {name!r}: use some of {', '.join(PROTOCOLS)}"
            )
    return tuple(dict.fromkeys(names))
