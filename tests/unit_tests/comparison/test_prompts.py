"""Prompts come from files, each with an id of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langchain_sift.comparison.prompts import Prompt, as_prompts, read_prompts
from langchain_sift.errors import CorpusError


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_prompts_are_filed_under_their_group_or_domain(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(
        lines({"text": "a", "group": "g"}, {"text": "b", "domain": "d"}, {"text": "c"})
    )
    assert [prompt.group for prompt in read_prompts(file)] == ["g", "d", "all"]
    file.write_bytes(b"\n")
    with pytest.raises(CorpusError, match="no prompt"):
        read_prompts(file)


def test_questions_bring_their_answers_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_bytes(
        lines(
            {"id": 7, "question": "Who?", "answers": ["I", "me"], "source": "s"},
            {"question": "What?", "answer": 3, "choices": ["a", "b"], "correct": 1},
        )
    )
    first, second = read_prompts(file)
    assert first == Prompt("7", "Who?", source="s", answers=("I", "me"))
    assert (second.answers, second.choices, second.correct) == (("3",), ("a", "b"), 1)
    file.write_bytes(lines({"question": "What?", "choices": ["a"], "correct": 1}))
    with pytest.raises(CorpusError, match=r"correct.*1 choices.*got 1"):
        read_prompts(file)


def test_a_text_file_is_a_prompt_or_a_list_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("Who?\n\n  What? \n", encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(file)] == ["Who?\n\n  What? \n"]
    found = read_prompts(file, lines=True)
    assert [prompt.text for prompt in found] == ["Who?", "What?"]
    assert len({prompt.id for prompt in found}) == 2


def test_prompts_need_ids_of_their_own() -> None:
    assert [prompt.id for prompt in as_prompts(["a", Prompt("x", "b")])] == ["1", "x"]
    with pytest.raises(CorpusError, match="two prompts have the id '1'"):
        as_prompts(["a", Prompt("1", "b")])
    with pytest.raises(CorpusError, match="no prompt"):
        as_prompts([])
