"""The handbook of the demo answers its questions, and has near-copies as real folders do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
EARLIER = HANDBOOK / "documents" / "2022"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HANDBOOK / name).read_text(encoding="utf-8").splitlines()]


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def documents() -> dict[Path, str]:
    files = sorted((HANDBOOK / "documents").rglob("*.md"))
    return {file: words_of(file.read_text(encoding="utf-8")) for file in files}


@pytest.mark.parametrize("name", ["questions.jsonl", "tuning_questions.jsonl"])
def test_a_document_of_today_holds_an_answer_to_each_question(
    name: str, documents: dict[Path, str]
) -> None:
    today = [text for file, text in documents.items() if EARLIER not in file.parents]
    for row in rows(name):
        assert any(answer in text for answer in row["answers"] for text in today), row["id"]


def test_the_settings_were_chosen_on_other_questions() -> None:
    shown, tuning = rows("questions.jsonl"), rows("tuning_questions.jsonl")
    assert (len(shown), len(tuning)) == (12, 24)
    for key in ("id", "question"):
        assert len({row[key] for row in shown + tuning}) == 36


def test_most_paragraphs_of_the_earlier_edition_are_there_twice(
    documents: dict[Path, str],
) -> None:
    today = " ".join(text for file, text in documents.items() if EARLIER not in file.parents)
    sentences = [
        sentence
        for file, text in documents.items()
        if EARLIER in file.parents
        for sentence in text.split(". ")
        if len(sentence) > 40
    ]
    assert sum(sentence in today for sentence in sentences) > 0.5 * len(sentences) > 100


def test_the_documents_are_plain_text(documents: dict[Path, str]) -> None:
    assert 50 < len(documents) < 150
    assert sum(map(len, documents.values())) < 1_000_000
    for file, text in documents.items():
        assert "{%" not in text, file
        assert "](" not in text, file
