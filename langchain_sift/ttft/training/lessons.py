"""Describe the lessons that a teacher gives on documents: the objective "distill".

Context distillation: the teacher is the base model with documents in its context, the student the
model without them (Snell et al., arXiv 2209.15189; self-distillation, arXiv 2601.19897).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from langchain_sift.ttft.model.tokens import TokenizedDocument

QUESTION_TOKENS = 48
"""Maximum number of tokens of a question that the teacher asks."""

ANSWER_TOKENS = 64
"""Maximum number of tokens that the teacher writes after a prompt."""

AT_ONCE = 8
"""Maximum number of texts that the teacher writes together."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens before and after a question; together with it, a prompt."""

    before: tuple[int, ...]
    after: tuple[int, ...] = ()

    def around(self, question: Sequence[int]) -> tuple[int, ...]:
        """Return the prompt with a question."""
        return (*self.before, *question, *self.after)

    def __len__(self) -> int:
        """Return the number of tokens without a question."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text whose next tokens the student learns to predict as the teacher does."""

    document: int
    """Index of the document that the lesson is about; of several, the last."""

    teacher: Frame
    """The teacher's prompt, with documents."""

    student: Frame
    """The student's prompt."""

    text: tuple[int, ...] = ()
    """The text after both prompts. Without tokens, the teacher writes it."""

    ask: tuple[int, ...] = ()
    """A prompt to which the teacher answers with a question, to be put into both frames. Without
    tokens, there is no question."""

    truncated: bool = False
    """If True, the end of the document was cut off."""

    repeats: int = 1
    """Number of times that the student learns it."""

    @property
    def written(self) -> int:
        """Maximum number of tokens of the question and of the text."""
        return (QUESTION_TOKENS if self.ask else 0) + (len(self.text) or ANSWER_TOKENS)

    @property
    def is_written(self) -> bool:
        """True if the teacher writes the question or the text."""
        return bool(self.ask) or not self.text

    @property
    def tokens(self) -> int:
        """Maximum number of tokens that the student reads each time."""
        return len(self.student) + self.written

    @property
    def least_tokens(self) -> int:
        """Minimum number of tokens that the student reads each time."""
        return len(self.student) + bool(self.ask) + (len(self.text) or 1)


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """The documents to train on, as a teacher left them."""

    documents: Sequence[TokenizedDocument] = ()

    ended: str | None = None
    """Reason why the last lessons are missing. None means that the teacher got to all."""

    seconds: float = 0.0
    """Seconds in which the teacher wrote and read."""


class Teaching(Protocol):
    """Plans the lessons about documents."""

    @property
    def max_length(self) -> int:
        """Number of tokens at which a document is cut, so that the teacher's prompts fit."""

    def lessons(self, documents: Sequence[TokenizedDocument]) -> tuple[Lesson, ...]:
        """Return the lessons about documents, in the order of the training."""
