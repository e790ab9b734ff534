"""The questions of a file show together what each alone leaves open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from langchain_sift.comparison.prompts import Prompt, read_prompts
from langchain_sift.errors import CorpusError

BOTH = {"question": "Who?", "answer": "system"}
Rows = Sequence[dict[str, object]]


def of_lines(folder: Path, rows: Rows) -> list[Prompt]:
    file = folder / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_prompts(file)


def of_csv(folder: Path, *lines: str) -> list[Prompt]:
    file = folder / "q.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_prompts(file)


def as_csv(rows: Rows) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [",".join(names)] + [
        ",".join(str(row.get(name) or "") for name in names) for row in rows
    ]


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        # A reference is blank, and the answer beside it is the system's, as in other rows.
        ([{**BOTH, "ground_truth": "I"}, {**BOTH, "ground_truth": None}], [("I",), ()]),
        ([{**BOTH, "ground_truth": "I"}, BOTH], [("I",), ()]),
        ([{**BOTH, "gold_answer": None}], [()]),
        ([{**BOTH, "ground_truth": ""}, BOTH], [(), ()]),
        # Rows of different datasets.
        (
            [{"question": "Who?", "ground_truth": "I", "answer": None}, {**BOTH, "answer": "me"}],
            [("I",), ("me",)],
        ),
        ([BOTH, BOTH], [("system",), ("system",)]),
    ],
)
def test_the_answer_of_a_system_is_no_reference(
    tmp_path: Path, rows: Rows, answers: list[tuple[str, ...]]
) -> None:
    assert [prompt.answers for prompt in of_lines(tmp_path, rows)] == answers
    assert [prompt.answers for prompt in of_csv(tmp_path, *as_csv(rows))] == answers


def test_ragas_has_references_beside_responses(tmp_path: Path) -> None:
    asked = {"user_input": "Who?", "response": "system"}
    rows = [{**asked, "reference": "I"}, {**asked, "reference": ""}]
    expected = [("Who?", ("I",)), ("Who?", ())]
    for found in (of_lines(tmp_path, [*rows, asked])[:2], of_csv(tmp_path, *as_csv(rows))):
        assert [(prompt.text, prompt.answers) for prompt in found] == expected
    (alone,) = of_csv(tmp_path, *as_csv(rows[1:]))
    assert alone.answers == ()
    (cited,) = of_lines(tmp_path, [{"question": "Who?", "answer": "I", "reference": "p. 3"}])
    assert cited.answers == ("I",)


@pytest.mark.parametrize(
    ("row", "text", "answer"),
    [
        # Alpaca: the text is the instruction with the response.
        (
            {"instruction": "Name it.", "input": "", "output": "Paris", "text": "Name it. Paris"},
            "Name it.",
            "Paris",
        ),
        ({"query": "Who?", "text": "Goethe wrote it.", "answers": ["Goethe"]}, "Who?", "Goethe"),
        ({"text": "Who?", "answer": "I"}, "Who?", "I"),
        ({"question": "Who?", "input": "Goethe wrote it.", "answer": "I"}, "Who?", "I"),
    ],
)
def test_a_text_beside_a_question_is_not_the_question(
    tmp_path: Path, row: dict[str, object], text: str, answer: str
) -> None:
    (found,) = of_lines(tmp_path, [row])
    assert (found.text, found.reference) == (text, answer)


@pytest.mark.parametrize(
    ("rows", "blank"),
    [
        ([{"question": "", "text": "A passage.", "answer": "I"}], ("question", 1)),
        (
            [
                {"query": "Who?", "text": "A passage.", "answer": "I"},
                {"query": "", "text": "A passage.", "answer": "I"},
            ],
            ("query", 2),
        ),
        (
            [
                {"query": "Who?", "text": "A passage.", "answer": "I"},
                {"query": None, "text": "A passage.", "answer": "I"},
            ],
            ("query", 2),
        ),
        ([{"question": "", "answer": "I"}], ("question", 1)),
        # Nothing shows that a field of another name is not the question.
        ([{"query": "", "text": "Who?", "answer": "I"}], None),
        # Rows of different datasets.
        ([{"query": "Who?", "text": ""}, {"query": "", "text": "Who?"}], None),
        ([{"question": "Who?", "text": None}, {"question": None, "text": "Who?"}], None),
    ],
)
def test_no_other_field_replaces_a_blank_question(
    tmp_path: Path, rows: Rows, blank: tuple[str, int] | None
) -> None:
    if blank is None:
        assert {prompt.text for prompt in of_lines(tmp_path, rows)} == {"Who?"}
        assert {prompt.text for prompt in of_csv(tmp_path, *as_csv(rows))} == {"Who?"}
        return
    name, number = blank
    for read, place in (
        (of_lines, "line"),
        (lambda folder, rows: of_csv(folder, *as_csv(rows)), "row"),
    ):
        with pytest.raises(
            CorpusError, match=f'{place} {number}: "{name}" is empty: give it a text'
        ):
            read(tmp_path, rows)


@pytest.mark.parametrize(
    "answer",
    [
        '["rice", "field"]',
        '{"text": "rice", "n": 3}',
        '{"value": 5, "unit": "m"}',
        '{"name": "Ann"}',
    ],
)
def test_an_answer_that_is_json_stays_a_text(tmp_path: Path, answer: str) -> None:
    for name in ("answer", "output", "response", "target"):
        (found,) = of_lines(tmp_path, [{"question": "Which?", name: answer}])
        assert found.answers == (answer,)


def test_a_cell_lists_answers(tmp_path: Path) -> None:
    first, second, third = of_csv(
        tmp_path,
        "question,answer",
        "Who?,\"['I', 'me']\"",
        'Who?,"{""name"": ""Ann""}"',
        "Who?,\"{'text': ['I'], 'answer_start': [0]}\"",
    )
    assert first.answers == ("I", "me")
    assert second.answers == ('{"name": "Ann"}',)
    assert third.answers == ("I",)


def test_a_truth_value_that_is_a_choice_or_a_question_is_a_text(tmp_path: Path) -> None:
    (choices,) = of_csv(tmp_path, "question,A,B,answer", "Is it?,true,false,TRUE")
    assert (choices.choices, choices.correct, choices.answers) == (("true", "false"), 0, ())
    (question,) = of_csv(tmp_path, "question,answer", "True,yes")
    assert question.text == "True"


def test_a_number_that_a_table_reads_in_two_ways_is_an_error(tmp_path: Path) -> None:
    lines = ("Which?,1,2,3,4,2", "Which?,5,6,7,8,3", "Which?,5,6,7,8,8")
    with pytest.raises(CorpusError, match=r"row 1: the answer '2' is the index .*name the column"):
        of_csv(tmp_path, "question,A,B,C,D,answer", *lines)
    # In JSON, a text is a text.
    rows = [
        {"question": "Which?", "choices": ["1", "2", "3", "4"], "answer": "2"},
        {"question": "Which?", "choices": ["5", "6", "7", "8"], "answer": "3"},
    ]
    assert [prompt.correct for prompt in of_lines(tmp_path, rows)] == [1, 3]


@pytest.mark.parametrize("truth", ["True", "TRUE", "true"])
def test_a_truth_value_of_a_table_is_yes(tmp_path: Path, truth: str) -> None:
    (found,) = of_csv(tmp_path, "question,answer", f"Is it?,{truth}")
    assert found.answers == ("yes", "true")


@pytest.mark.parametrize(
    ("lines", "correct"),
    [
        # Each answer is an index, and one of them is also the text of another choice.
        (("What is 1+1?,1,2,3,4,1", "Which?,Rome,Paris,Bonn,Oslo,1"), [1, 1]),
        # Each answer is a choice of its question.
        (("What is 1+1?,1,2,3,4,2", "What is 1+0?,1,2,3,4,1"), [1, 0]),
        # An answer that is neither decides nothing.
        (("What is 1+1?,1,2,3,4,2", "Which?,Rome,Paris,Bonn,Oslo,B"), [1, 1]),
        # An answer that is both of the same choice decides nothing, and needs no decision.
        (("W?,0,1,2,3,1", "V?,a,b,c,d,2", "U?,5,6,7,8,7"), [1, 2, 2]),
        # pandas writes decimals to a column with gaps.
        (("What is 1+1?,1,2,3,4,2.0", "Which?,a,b,c,d,"), [1, None]),
        # Each answer can only be one of both.
        (("Which?,Rome,Paris,Bonn,Oslo,1", "Which?,Rome,Paris,Bonn,Oslo,Oslo"), [1, 3]),
        (("What is 1+1?,1,2,3,4,1", "Which?,Rome,Paris,Bonn,Oslo,"), [0, None]),
    ],
)
def test_numbers_of_a_file_are_all_indices_or_all_texts(
    tmp_path: Path, lines: tuple[str, ...], correct: list[int | None]
) -> None:
    found = of_csv(tmp_path, "question,A,B,C,D,answer", *lines)
    assert [prompt.correct for prompt in found] == correct


@pytest.mark.parametrize(
    "row",
    [
        {"sentence": "Who?", "option1": "x", "option2": "y", "answer": "1"},  # from 1
        {"question": "Which?", "choices": ["x", "y"], "answer": "B"},
        {"question": "Which?", "choices": ["1", "2"], "answer": "1"},
        {
            "question": "Which?",
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
            "answerKey": "1",
        },
    ],
)
def test_a_row_is_read_alike_alone_and_among_others(tmp_path: Path, row: dict[str, object]) -> None:
    (alone,) = of_lines(tmp_path, [row])
    for same in of_lines(tmp_path, [row, row]):
        assert (same.text, same.choices, same.correct) == (alone.text, alone.choices, alone.correct)


@pytest.mark.parametrize("header", ["question,Question,answer", "question,answer,Answer"])
def test_two_columns_of_one_name_are_an_error(tmp_path: Path, header: str) -> None:
    with pytest.raises(CorpusError, match=r"q\.csv: two columns are named '(question|answer)'"):
        of_csv(tmp_path, header, "a,b,c")
