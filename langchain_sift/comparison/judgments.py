"""Read the relevant documents of a prompt, and find them in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from langchain_sift.errors import ArgumentError
from langchain_sift.report.metrics import ANSWER_HIT, contains_answer
from langchain_sift.report.ranking import Judgments, ranking_scores
from langchain_sift.report.words import normalized

if TYPE_CHECKING:
    from langchain_sift.comparison.prompts import Prompt
    from langchain_sift.comparison.selection import Corpus

Relevant: TypeAlias = Mapping[str, int] | Sequence[str] | Sequence[Sequence[str]]
"""The relevant documents of a prompt: ids, ids with grades, or the ids of each intent."""

Run: TypeAlias = tuple[str, ...]
"""Words that follow one another."""

_SHOWN_NAMES = 5  # in a note


def parse_relevant(relevant: object) -> Judgments:
    """Read the relevant documents in one of their three forms.

    Args:
        relevant: A list of ids; an object with the grade of each id, an integer, where 0 and less
            mean not relevant; or a list of lists, with the ids that serve each intent.

    Raises:
        ArgumentError: If it has another form.
    """
    if isinstance(relevant, Mapping):
        grades = {_id(document): _grade(document, grade) for document, grade in relevant.items()}
        return Judgments({document: grade for document, grade in grades.items() if grade > 0})
    if not isinstance(relevant, list | tuple):
        raise ArgumentError(
            f"relevant must be a list of ids, a list of lists, or an object of grades, got "
            f"{type(relevant).__name__}"
        )
    if not any(isinstance(part, list | tuple) for part in relevant):
        return Judgments(dict.fromkeys(map(_id, relevant), 1))
    intents = tuple(frozenset(map(_id, part)) for part in map(_intent, relevant))
    return Judgments({document: 1 for intent in intents for document in sorted(intent)}, intents)


def _intent(part: object) -> Sequence[object]:
    if isinstance(part, list | tuple) and part:
        return part
    raise ArgumentError(f"each intent of relevant must be a list of at least one id, got {part!r}")


def _id(value: object) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return str(value)
    raise ArgumentError(f"an id in relevant must be a string, got {value!r}")


def _grade(document: object, grade: object) -> int:
    if isinstance(grade, int) and not isinstance(grade, bool):
        return grade
    raise ArgumentError(f"the grade of {document!r} in relevant must be an integer, got {grade!r}")


@dataclass(frozen=True, slots=True)
class Label:
    """The label of a prompt, which its retrieved documents are scored with."""

    judgments: Judgments
    """The relevant documents, named as `Corpus.label_of` does. None are known for a prompt that has
    only answers."""

    answers: tuple[str, ...] = ()
    """Correct answers, which count if no relevant documents are known."""

    def scores(self, names: Sequence[str], texts: Sequence[str], k: int) -> dict[str, float]:
        """Compute the metrics of retrieved documents.

        Args:
            names: Their names, as `Corpus.label_of`, the first document first.
            texts: Their texts.
            k: Number of documents that were asked for.
        """
        if self.judgments.grades:
            return ranking_scores(names, self.judgments, k)
        found = (contains_answer(text, self.answers) for text in texts)
        return {ANSWER_HIT: max(found, default=0.0)}


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of all prompts, and notes on what is missing."""

    by_prompt: Mapping[str, Label] = field(default_factory=dict)
    """By the id of the prompt; a prompt without a label is not scored."""

    notes: tuple[str, ...] = ()
    """Numbers of prompts without a label, and of relevant documents and of answers that the store
    lacks."""

    relevant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The ids of the relevant documents of the store by the id of the prompt."""

    @classmethod
    def of(cls, prompts: Sequence[Prompt], corpus: Corpus) -> Labels:
        """Find the relevant documents of all prompts in a store.

        A relevant document that the store lacks stays relevant: no method can find it. Documents
        of the same text are one document, with the highest of their grades.

        Args:
            prompts: The prompts.
            corpus: The documents of the store.

        Raises:
            ArgumentError: If no prompt has a label, or the store has none of the documents.
        """
        labels = {
            prompt.id: Label(_in_store(prompt.judgments, corpus), prompt.answers)
            for prompt in prompts
            if prompt.judgments.grades or prompt.answers
        }
        if not labels:
            raise ArgumentError(
                'no prompt has "relevant" documents or "answers": the protocol retrieval needs '
                "them (in the prompts' file, or as --qrels)"
            )
        notes = []
        if len(labels) < len(prompts):
            notes.append(
                f"{len(prompts) - len(labels)} of {len(prompts)} prompts have neither relevant "
                "documents nor answers: the protocol retrieval leaves them out."
            )
        notes += [*_missing(labels.values(), corpus), *_unanswered(labels.values(), corpus)]
        ids = corpus.ids_by_label()
        relevant = {
            prompt: tuple(id for name in label.judgments.grades for id in ids.get(name, [name]))
            for prompt, label in labels.items()
            if label.judgments.grades
        }
        return cls(labels, tuple(notes), relevant)


def _in_store(judgments: Judgments, corpus: Corpus) -> Judgments:
    """Return judgments in which copies of a text have one id, if ids are named."""
    if corpus.label_key is not None:
        return judgments
    grades: dict[str, int] = {}
    for document, grade in judgments.grades.items():
        identifier = corpus.first_id(document)
        grades[identifier] = max(grade, grades.get(identifier, grade))
    intents = tuple(frozenset(map(corpus.first_id, intent)) for intent in judgments.intents)
    return Judgments(grades, intents)


def _missing(labels: Collection[Label], corpus: Corpus) -> list[str]:
    """Return a note on the relevant documents that a store lacks; none if it has all.

    Raises:
        ArgumentError: If it has none of them.
    """
    known = corpus.labels()
    relevant = dict.fromkeys(name for label in labels for name in label.judgments.grades)
    missing = dict.fromkeys(name for name in relevant if name not in known)
    if not missing:
        return []
    named = ", ".join(list(missing)[:_SHOWN_NAMES])
    named += ", ..." if len(missing) > _SHOWN_NAMES else ""
    if len(missing) == len(relevant):
        raise ArgumentError(
            f"the store has none of the {len(missing)} relevant documents ({named}): "
            f"{_example(known, missing, corpus)}; name documents as the store does, or name the "
            "metadata key that holds the names of the labels "
            f"(--label-key{_fitting_key(missing, corpus)})"
        )
    prompts = sum(not missing.keys().isdisjoint(label.judgments.grades) for label in labels)
    of = "1 prompt" if prompts == 1 else f"{prompts} prompts"
    return [
        f"{len(missing)} of {len(relevant)} relevant documents, of {of}, are not in the store "
        f"({named}); {_example(known, missing, corpus)}. They count as relevant, and no method can "
        "find them."
    ]


def _unanswered(labels: Collection[Label], corpus: Corpus) -> list[str]:
    """Return a note on the prompts whose answers no document contains; none without such prompts.

    Answers count where no relevant documents are known.
    """
    answers = [label.answers for label in labels if not label.judgments.grades]
    if not answers:
        return []
    words = [[tuple(normalized(one).split()) for one in each] for each in answers]
    texts = (one.page_content for one in corpus.candidates.documents)
    found = runs_in(texts, {one for each in words for one in each})
    lost = sum(found.isdisjoint(each) for each in words)
    if not lost:
        return []
    return [
        f"No document of the store contains an answer of {lost} of {len(answers)} prompts: no "
        "method can find one."
    ]


def runs_in(texts: Iterable[str], runs: Collection[Run]) -> set[Run]:
    """Return those of some runs of normalized words that are in a text.

    Each text is read once, however many runs there are.

    Args:
        texts: The texts.
        runs: The runs of words. An empty one is in no text.
    """
    lengths: dict[str, set[int]] = defaultdict(set)
    for run in filter(None, runs):
        lengths[run[0]].add(len(run))
    missing = {*runs}
    for text in texts:
        if not missing:
            break
        words = normalized(text).split()
        missing -= {
            tuple(words[start : start + length])
            for start, word in enumerate(words)
            for length in lengths.get(word, ())
        }
    return {*runs} - missing


def _fitting_key(names: Collection[str], corpus: Corpus) -> str:
    """Return " KEY" for a metadata key that holds one of the names; "" if there is none."""
    for document in corpus.candidates.documents:
        for key, value in document.metadata.items():
            if str(value) in names:
                return f" {key}"
    return ""


def _example(known: Collection[str], missing: Collection[str], corpus: Corpus) -> str:
    """Describe the names that the store's documents have, such as those of the rows of a file."""
    names = (name for name in known if name)
    begin = tuple(missing)
    example = min(names, key=lambda name: (not name.startswith(begin), name), default=None)
    if corpus.label_key is None:
        return f"its ids are such as {example!r}"
    if example is None:
        return f"no document has the metadata {corpus.label_key!r}"
    return f"the metadata {corpus.label_key!r} of its documents is such as {example!r}"
