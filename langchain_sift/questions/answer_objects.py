"""Read the answers that are objects with parts, in Natural Questions and DROP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_YES_OR_NO = {"YES": "yes", "NO": "no", "1": "yes", "0": "no"}


def is_of_drop(answer: object) -> bool:
    """Return True for an answer of DROP: a number, spans of the passage, or a date."""
    return isinstance(answer, Mapping) and {"number", "spans"} <= {*answer}


def answers_of_drop(answer: object, validated: object) -> list[str]:
    """Return the answer of DROP and those of the annotators who validated it, as texts.

    Several spans are one answer.
    """
    return [_text(one) for one in _rows([answer]) + _rows(validated)]


def answers_of_annotations(annotations: object, document: object) -> list[str]:
    """Return the short answers of Natural Questions, or yes or no.

    Args:
        annotations: As on the Hugging Face hub, with texts, or as in the makers' simplified file,
            with the places of tokens.
        document: The document, its tokens between spaces.
    """
    tokens = document.split(" ") if isinstance(document, str) else []
    found: list[str] = []
    for annotation in _rows(annotations):
        short = annotation.get("short_answers")
        for span in _rows(short if isinstance(short, list) else [short]):
            found += _spans(span, tokens)
        said = _YES_OR_NO.get(str(annotation.get("yes_no_answer")))
        found += [said] if said else []
    return found


def _spans(span: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[str]:
    texts = span.get("text")
    if isinstance(texts, list):
        yield from map(str, texts)
        return
    first, end = span.get("start_token"), span.get("end_token")
    if isinstance(first, int) and isinstance(end, int) and 0 <= first < end <= len(tokens):
        yield " ".join(tokens[first:end])


def _text(answer: Mapping[str, Any]) -> str:
    date: object = answer.get("date")
    spans: object = answer.get("spans")
    parts = [date.get(p) for p in ("day", "month", "year")] if isinstance(date, Mapping) else []
    texts = [
        str(answer.get("number") or ""),
        ", ".join(map(str, spans)) if isinstance(spans, list) else "",
        " ".join(str(part) for part in parts if part),
    ]
    return next(filter(None, texts), "")


def _rows(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list; also of an object with a list for each field, as in Parquet."""
    if isinstance(value, Mapping):
        columns = {key: cells for key, cells in value.items() if isinstance(cells, list)}
        cells = zip(*columns.values(), strict=False)
        return [dict(zip(columns, row, strict=True)) for row in cells]
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
