"""Read objects that hold several questions: an article, or a story with a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.questions.field_names import CHOICES, PASSAGES, QUESTIONS, field_name
from langchain_sift.questions.literals import literal
from langchain_sift.questions.question_fields import text_of

_LISTS = ("paragraphs", "qas", "qa_pairs", "questions", "problems")
"""Names of the list of questions, the first of the articles of SQuAD, which hold further lists."""

_IDS = ("id", "_id", "dialogue_id", "example_id", "article_id")
_QUESTION_IDS = ("id", "qid", "query_id", "question_unique_id")
_TEXTS = ("input_text", "texts", "text")
_TURN = frozenset({"followup", "yesno"})
"""Fields of QuAC that only the turns of a conversation have."""

_CONVERSATION = frozenset({"story", "dialogue_id", "turn_ids", "followups", "yesnos"})
"""Fields of CoQA and QuAC that only a conversation has."""

Fields = Mapping[str, Any]


def list_name(entry: Fields) -> str | None:
    """Return the name of the list of questions in an object; None if it is a question."""
    given = {field_name(key) for key, value in entry.items() if value is not None}
    if given & {*QUESTIONS} - {"text"}:
        return None
    return next((key for key in _LISTS if _is_list(entry.get(key))), None)


def _is_list(value: object) -> bool:
    """Return True for a list, also as text (RACE) or in an object (CoQA)."""
    if isinstance(value, Mapping):
        return any(key in value for key in _TEXTS)
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def questions_in(place: object, entry: Fields, name: str) -> Iterator[Fields]:
    """Yield the questions of an object; the object itself, if it is one.

    A question has the other fields of the object, such as the passage and the source; the title,
    or else the id, is the source if there is none. The questions may be objects, or texts with
    their choices and answers in lists of the same length. Those of a conversation cannot be
    understood alone: each begins with the story and the questions and answers before it. A
    conversation has a "story", as CoQA, or a field of QuAC; any other questions about a text are
    asked one by one.

    Args:
        place: The location of the object, for messages of errors.
        entry: The object.
        name: The id of the object if it has none; it begins the ids of its questions.

    Raises:
        CorpusError: If the lists have different lengths or another form.
    """
    if (key := list_name(entry)) is None:
        yield entry
        return
    name = str(next((entry[one] for one in _IDS if entry.get(one) is not None), name))
    lists = ("answers", "additional_answers", *CHOICES, *_IDS, key)
    shared = {one: value for one, value in entry.items() if one not in lists}
    listed = _listed(entry[key])
    if entry[key] and not listed:
        raise CorpusError(f'{place}: "{key}" must be a list, got {type(entry[key]).__name__}')
    if key == "paragraphs":
        for number, part in enumerate(listed, start=1):
            yield from questions_in(place, {**shared, **_part(place, part)}, f"{name}:{number}")
        return
    own = "" if "story" in entry else entry.get("source")  # of CoQA it is the name of a corpus
    shared["source"] = own or entry.get("title") or name
    for number, question in enumerate(_questions(place, entry, key, listed), start=1):
        given = (question[one] for one in _QUESTION_IDS if question.get(one) is not None)
        yield {**shared, **question, "id": next(given, f"{name}:{number}")}


def _part(place: object, part: object) -> Fields:
    if not isinstance(part, Mapping) or list_name(part) is None:
        raise CorpusError(f'{place}: not the form of SQuAD: no "qas" in a paragraph')
    return part


def _questions(
    place: object, entry: Fields, key: str, listed: Sequence[Any]
) -> Sequence[Mapping[str, Any]]:
    """Return the questions of a list, those of a conversation after the turns before them."""
    if all(isinstance(one, Mapping) for one in listed):
        questions, is_conversation = listed, any(_TURN & {*one} for one in listed)
    else:
        questions = _in_columns(place, entry, key, listed)
        has_choices = any(entry.get(one) for one in CHOICES)
        is_conversation = bool(_CONVERSATION & {*entry}) and not has_choices
    if not is_conversation:
        return questions
    if not all(isinstance(question.get("question"), str) for question in questions):
        raise CorpusError(f'{place}: "{key}" must be texts, as they are a conversation')
    return _turns(entry, questions)


def _listed(value: object) -> Sequence[Any]:
    """Return the elements of a list that may be written as text, or be in an object."""
    value = literal(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value = next((value[key] for key in _TEXTS if key in value), None)
    if not isinstance(value, list):
        return ()
    return [one.get("input_text", one) if isinstance(one, Mapping) else one for one in value]


def _in_columns(
    place: object, entry: Fields, key: str, texts: Sequence[object]
) -> list[dict[str, object]]:
    """Return questions that are texts, with the choices and answers of each in other lists."""
    more = entry.get("additional_answers")  # a list by each further annotator
    others = [*more.values()] if isinstance(more, Mapping) else []
    lists = [(one, entry[one]) for one in ("answers", *CHOICES) if entry.get(one) is not None]
    lists += [("additional_answers", other) for other in others if other is not None]
    questions: list[dict[str, object]] = [{"question": text} for text in texts]
    for one, value in lists:
        column = _listed(value)
        if len(column) != len(texts):
            raise CorpusError(f'{place}: "{key}" has {len(texts)} elements, "{one}" {len(column)}')
        for question, cell in zip(questions, column, strict=True):
            if one == "additional_answers":
                question["answers"] = [*_as_list(question.get("answers")), *_as_list(cell)]
            else:
                question[one] = cell
    return questions


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _turns(entry: Fields, questions: Sequence[Fields]) -> list[dict[str, object]]:
    """Return the turns of a conversation, each after the story and the turns before it."""
    story = next((text for key in PASSAGES if (text := text_of(entry.get(key)))), "")
    turns, before = [], [story] if story else []
    for question in questions:
        text = "\n\n".join([*before, question["question"]])
        turns.append({**dict.fromkeys(PASSAGES), **question, "question": text})
        given = question.get("answers")
        first = next(iter(_listed(given) or _as_list(given)), None)
        answer = first.get("text") if isinstance(first, Mapping) else first
        known = f"\nAnswer: {answer}" if answer else ""
        before.append(f"Question: {question['question']}{known}")
    return turns
