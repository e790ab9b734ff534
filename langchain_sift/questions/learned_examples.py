"""Record what an adapter has learned, next to its weights.

The other commands read it: `serve` and `compare` show as many documents by default, and `compare`
reports prompts that the adapter has learned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from langchain_core.documents import Document

from langchain_sift.checks import check_integer, strings
from langchain_sift.errors import ArgumentError
from langchain_sift.report.leak_notices import LEARNED
from langchain_sift.report.words import words_of

_FILE = "learned_examples.json"


@dataclass(frozen=True, slots=True)
class LearnedExamples:
    """The questions that an adapter has learned, and the number of documents it saw with them."""

    k: int
    """Largest number of documents of an example, and at least 1."""

    digests: tuple[str, ...]
    """A digest of each question, which does not tell its text."""

    @classmethod
    def of(cls, documents: Sequence[Document], before: LearnedExamples | None) -> LearnedExamples:
        """Return the record of an adapter.

        Args:
            documents: The examples, as `example_documents` returns them.
            before: What its base model has learned, if that is an adapter too.
        """
        digests = {_digest(document.metadata["question"]) for document in documents}
        if before is not None:
            digests.update(before.digests)
        shown = max((len(document.metadata["context"]) for document in documents), default=0)
        return cls(max(shown, 1), tuple(sorted(digests)))

    @classmethod
    def read(cls, model: str | None) -> LearnedExamples | None:
        """Return what a model has learned; None if it is no adapter with such a record.

        Args:
            model: A name, as `load_language_model` takes it.

        Raises:
            ArgumentError: If the record is damaged.
        """
        if model is None or not (file := Path(model, _FILE)).is_file():
            return None
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            check_integer("k", fields["k"], 1)
            learned = cls(fields["k"], strings("digests", fields["digests"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ArgumentError(
                f"{file} is damaged: learn the examples again, or remove the file, so that learned "
                "questions are no longer noticed"
            ) from error
        return learned

    def save(self, folder: Path) -> None:
        """Write the record into the folder of the adapter."""
        (folder / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def leaks(self, questions: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of the learned questions, with the description of the leak."""
        digests = set(self.digests)
        return {key: LEARNED for key, text in questions.items() if _digest(text) in digests}


def learned_k(model: str | None) -> int | None:
    """Return the number of documents that a model saw with each example it learned, if any.

    Args:
        model: A name, as `load_language_model` takes it. None means a model without a name.

    Raises:
        ArgumentError: If the record is damaged.
    """
    learned = LearnedExamples.read(model)
    return None if learned is None else learned.k


def _digest(question: str) -> str:
    """Return a digest of the words of a question, without regard to case and punctuation."""
    return hashlib.sha256(" ".join(words_of(question)).encode()).hexdigest()
