"""Questions are read in the forms in which common datasets are distributed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import Table
from pyarrow.parquet import write_table

from langchain_sift.comparison.prompts import Prompt, read_prompts
from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import Location
from langchain_sift.questions import question_fields as names
from langchain_sift.questions.question import Question
from langchain_sift.questions.question_fields import question_fields

CHOICES = ("red", "green", "blue")


def read(tmp_path: Path, row: object) -> Prompt:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (prompt,) = read_prompts(file)
    return prompt


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"choices": CHOICES, "correct": 1}, ()),
        ({"choices": CHOICES, "correct": "B"}, ()),
        ({"choices": CHOICES, "answer": 1}, ()),
        ({"choices": CHOICES, "answer": "1"}, ()),
        ({"choices": CHOICES, "answer": "b"}, ()),
        ({"choices": CHOICES, "answer": "(B)"}, ()),
        ({"choices": CHOICES, "answer": "B."}, ()),
        ({"choices": CHOICES, "answer": ["B"]}, ()),
        ({"choices": CHOICES, "target": "green"}, ("green",)),
        ({"choices": CHOICES, "answers": ["Green."]}, ("Green.",)),
        ({"options": CHOICES, "label": 1}, ()),
        ({"endings": CHOICES, "label": "1"}, ()),
        ({"options": dict(zip("ABC", CHOICES, strict=True)), "answer": "B"}, ()),
        ({"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answerKey": "2"}, ()),
        ({"choices": {"text": CHOICES, "label": ["A", "B", "C"]}, "answerKey": "B"}, ()),
        (
            {
                "choices": [
                    {"text": text, "label": label}
                    for text, label in zip(CHOICES, "ABC", strict=True)
                ],
                "answerKey": "B",
            },
            (),
        ),
        ({"choices": CHOICES, "correct": 1, "answer": "any shade of it"}, ("any shade of it",)),
    ],
)
def test_the_correct_choice_is_named_by_index_label_or_text(
    tmp_path: Path, fields: dict[str, object], answers: tuple[str, ...]
) -> None:
    prompt = read(tmp_path, {"question": "Which colour?", **fields})
    assert (prompt.choices, prompt.correct, prompt.answers) == (CHOICES, 1, answers)


@pytest.mark.parametrize(
    ("choices", "answer", "correct"),
    [
        ([1, 2, 3], 2, 1),  # the number itself
        (["1", "2", "3"], "2", 1),  # the text itself
        (["1", "2", "3"], 2, 2),  # an index
        (["B", "A"], "A", 1),
    ],
)
def test_a_choice_that_is_named_by_its_text_comes_before_an_index(
    tmp_path: Path, choices: list[object], answer: object, correct: int
) -> None:
    assert (
        read(tmp_path, {"question": "?", "choices": choices, "answer": answer}).correct == correct
    )


@pytest.mark.parametrize(
    ("fields", "correct"),
    [
        # ARC has questions with labels 1 to 4, and with numbers as choices.
        ({"choices": {"text": ["2", "4", "1"], "label": ["1", "2", "3"]}, "answerKey": "1"}, 0),
        ({"choices": {"1": "2", "2": "1"}, "answer": "1"}, 0),
        ({"choices": ["B", "A"], "answerKey": "A"}, 0),
        ({"choices": [1, 2, 3], "correct": 1}, 1),
        ({"choices": [1, 2, 3], "answerKey": "C"}, 2),
    ],
)
def test_a_label_or_an_index_comes_before_a_text_where_it_is_asked_for(
    tmp_path: Path, fields: dict[str, object], correct: int
) -> None:
    assert read(tmp_path, {"question": "?", **fields}).correct == correct


@pytest.mark.parametrize(
    ("row", "answers", "choices", "correct"),
    [
        ({"option1": "x", "option2": "y", "answer": "1"}, (), ("x", "y"), 0),  # WinoGrande
        ({"sol1": "x", "sol2": "y", "label": 1}, (), ("x", "y"), 1),  # PIQA
        (  # SciQ
            {"distractor2": "y", "distractor1": "x", "correct_answer": "z"},
            ("z",),
            ("x", "y", "z"),
            2,
        ),
        (  # TruthfulQA
            {
                "Best Answer": "z",
                "Correct Answers": "z; nothing, really",
                "Incorrect Answers": "x; y",
            },
            ("z", "nothing, really"),
            ("x", "y", "z"),
            2,
        ),
        ({"mc1_targets": {"choices": ["x", "y"], "labels": [0, 1]}}, (), ("x", "y"), 1),
        ({"target_scores": {"x": 1, "y": 0}}, (), ("x", "y"), 0),  # BIG-bench
        ({"options": ["x", "y"], "answer": "B", "answer_index": 1}, (), ("x", "y"), 1),  # MMLU-Pro
        (  # MedQA
            {"options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"},
            ("y",),
            ("x", "y"),
            1,
        ),
        ({"endings": ["x", "y"], "label": ""}, (), ("x", "y"), None),  # HellaSwag's test set
        ({"choices": ["x", "y"], "label": -1}, (), ("x", "y"), None),
        ({"choices": ["x", "y"], "label": 1.0}, (), ("x", "y"), 1),
        ({"choices": ["no", "yes"], "answer": True}, (), ("no", "yes"), 1),
        ({"choices": ["x", "y", "z"], "answer": ["A", "C"]}, ("x", "z"), ("x", "y", "z"), None),
        ({"answer": True}, ("yes", "true"), (), None),  # BoolQ
        ({"answer": 3.0}, ("3",), (), None),
        ({"answer": "48 / 2 = <<48/2=24>>24\n#### 1,024"}, ("1,024",), (), None),  # GSM8K
        (  # headings of Markdown
            {"answer": "Do this:\n\n#### First\nRun x.\n\n#### Then\nRun y.\n"},
            ("Do this:\n\n#### First\nRun x.\n\n#### Then\nRun y.\n",),
            (),
            None,
        ),
        ({"answer": {"value": "I", "aliases": ["me", "I"]}}, ("I", "me"), (), None),  # TriviaQA
        ({"answer": {"value": "I", "aliases": None}}, ("I",), (), None),
        ({"annotations": {"short_answers": None}}, (), (), None),
        ({"answers_spans": {"spans": ["a", "b"], "types": ["span"]}}, ("a", "b"), (), None),  # DROP
        (  # Natural Questions
            {"annotations": {"id": ["1", "2"], "short_answers": [{"text": ["a"]}, {"text": []}]}},
            ("a",),
            (),
            None,
        ),
        ({"possible_answers": '["a", "b"]'}, ("a", "b"), (), None),  # PopQA
        ({"answer": "[1, 2]"}, ("[1, 2]",), (), None),
        ({"answers": ["", "a"]}, ("a",), (), None),
        ({"answer": float("nan")}, (), (), None),
    ],
)
def test_rows_of_known_datasets(
    tmp_path: Path,
    row: dict[str, object],
    answers: tuple[str, ...],
    choices: tuple[str, ...],
    correct: int | None,
) -> None:
    prompt = read(tmp_path, {"question": "?", **row})
    assert (prompt.answers, prompt.choices, prompt.correct) == (answers, choices, correct)


@pytest.mark.parametrize(
    "row",
    [
        {"goal": "Why?"},
        {"sentence": "Why?"},
        {"question_stem": "Why?"},
        {"Question": "Why?"},
        {"problem": "Why?"},
        {"prompt": "Why?", "completion": "a"},
        {"question": {"text": "Why?", "tokens": ["Why", "?"]}},
        {"text": "A passage", "question": "Why?"},
        {"instruction": "Why?", "input": ""},
    ],
)
def test_the_question_has_the_name_of_its_dataset(tmp_path: Path, row: dict[str, object]) -> None:
    assert read(tmp_path, row).text == "Why?"


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        # As pandas and the datasets library write them.
        (
            "question,choices,answer",
            "Which?,\"['1' '2'\n '3']\",1",
            Prompt("q.csv:1", "Which?", choices=("1", "2", "3"), correct=1),
        ),
        (
            "question,choices,answerKey",
            "Which?,\"{'text': array(['x', \"\"y's\"\"], dtype=object), 'label': array(['A', 'B'], "
            'dtype=object)}",B',
            Prompt("q.csv:1", "Which?", choices=("x", "y's"), correct=1),
        ),
        (
            "title,context,question,answers",
            "T,c,Who?,\"{'text': ['I', 'me'], 'answer_start': [0, 1]}\"",
            Prompt("q.csv:1", "Who?", source="T", answers=("I", "me")),
        ),
        (
            "question,passage,answer",
            "Is it?,p,False",
            Prompt("q.csv:1", "Is it?", answers=("no", "false")),
        ),
        # CMMLU and MMMLU
        (
            ",Question,A,B,C,D,Answer,Subject",
            "0,Which?,x,,z,w,C,law",
            Prompt("q.csv:1", "Which?", "law", choices=("x", "z", "w"), correct=1),
        ),
    ],
)
def test_exports_to_csv(tmp_path: Path, header: str, cells: str, expected: Prompt) -> None:
    file = tmp_path / "q.csv"
    file.write_text(f"\ufeff{header}\r\n\r\n{cells}\r\n", encoding="utf-8", newline="")
    assert read_prompts(file) == [expected]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.json", '{"features": [{"name": "question"}], "rows": [{"row_idx": 0, "row": ROW}]}'),
        ("q.json", '{"Domain": "Web", "Data": [ROW]}'),
        ("q.json", '{"examples": [ROW], "canary": ""}'),
        ("q.json", "ROW\nROW\n"),
        ("q.json", "ROW\n"),
        ("q.json", "ROW"),
        ("q.jsonl", '{"header": {}}\n{"context": "c", "qas": [ROW, ROW]}\n'),  # MRQA
        ("q.tsv", "question\tanswer\nWho?\tI\n"),
        ("q.csv", "Who?\t['I']\nWho?\t['I']\n"),  # Natural Questions of DPR
        ("q.tsv", "Who?\t['I']\nWho?\t['I']\n"),
    ],
)
def test_files_hold_their_rows_in_several_ways(tmp_path: Path, name: str, content: str) -> None:
    row = json.dumps({"Question": "Who?", "Answer": "I"}) if "Data" in content else ""
    row = row or json.dumps({"question": "Who?", "answer": "I"})
    (tmp_path / name).write_text(content.replace("ROW", row), encoding="utf-8")
    found = read_prompts(tmp_path / name)
    assert {(p.text, p.answers) for p in found} == {("Who?", ("I",))}
    assert len(found) == max(1, content.count("ROW"), content.count("['I']"))


@pytest.mark.parametrize(
    "fields",
    [
        {"answers": ["two", "2"]},
        {"answers": {"text": ["two", "2"], "answer_start": [0, 9]}},
        {"answers": [{"text": "two", "answer_start": 0}, {"text": "2", "answer_start": 9}]},
        {"target": ["two", 2]},
    ],
)
def test_without_choices_answers_are_texts(tmp_path: Path, fields: dict[str, object]) -> None:
    assert read(tmp_path, {"question": "How many?", **fields}).answers == ("two", "2")


def test_arc_as_its_makers_distribute_it(tmp_path: Path) -> None:
    stem = {
        "stem": "Which is a mixture?",
        "choices": [{"text": "salt", "label": "A"}, {"text": "air", "label": "B"}],
    }
    prompt = read(tmp_path, {"id": "M_1", "question": stem, "answerKey": "B"})
    assert prompt == Prompt("M_1", "Which is a mixture?", choices=("salt", "air"), correct=1)


def test_mmlu_as_its_makers_distribute_it(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "college_physics_test.csv").write_text(
        'What is "c"?,speed of sound,"speed of light, in vacuum",a mass,a charge,B\n'
        "Which is 2?,1,2,3,4,B\n",
        encoding="utf-8",
    )
    (tmp_path / "test" / "virology_test.csv").write_text("Which?,a,b,c,d,D\n", encoding="utf-8")
    physics, number, virology = read_prompts(tmp_path / "test")
    assert (physics.group, physics.correct, physics.choices[1]) == (
        "college_physics",
        1,
        "speed of light, in vacuum",
    )
    assert (number.correct, virology.correct, virology.group) == (1, 3, "virology")


def test_csv_with_names(tmp_path: Path) -> None:
    file = tmp_path / "questions.csv"
    file.write_text(
        "id,Question,A,B,C,answer,group\n7,Which?,x,y,z,C,one\n8,Who?,,,,me,two\n", encoding="utf-8"
    )
    assert read_prompts(file) == [
        Prompt("7", "Which?", "one", choices=("x", "y", "z"), correct=2),
        Prompt("8", "Who?", "two", answers=("me",)),
    ]


def test_squad_as_its_makers_distribute_it(tmp_path: Path) -> None:
    answers = [{"text": "1815", "answer_start": 3}, {"text": "in 1815", "answer_start": 0}]
    questions = [
        {"id": "a1", "question": "When?", "answers": answers},
        {"id": "a2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    article = {"title": "Waterloo", "paragraphs": [{"context": "In 1815 ...", "qas": questions}]}
    file = tmp_path / "dev-v2.0.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [article]}), encoding="utf-8")
    assert read_prompts(file) == [
        Prompt("a1", "When?", source="Waterloo", answers=("1815", "in 1815")),
        Prompt("a2", "Why?", source="Waterloo"),
    ]


def test_a_list_of_objects(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    file.write_text('[{"question": "Who?", "answer": "I"}, {"text": "t"}]', encoding="utf-8")
    assert read_prompts(file) == [
        Prompt("questions.json:1", "Who?", answers=("I",)),
        Prompt("questions.json:2", "t"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.json", "{", "q.json: not JSON"),
        ("q.json", '{"version": 1}', "q.json: not a list of objects"),
        ("q.json", "[1]", "q.json: not a list of objects"),
        ("q.json", '[{"paragraphs": [{"context": "c"}]}]', "not the form of SQuAD"),
        ("q.json", '[{"question": "?"}, {"queston": "?"}]', "question 2: .* value are 'queston'$"),
        ("q.csv", "Who?,a,b,E\n", "line 1: not a question, its choices and the letter"),
        ("q.csv", "question,answer\n,x\n", 'row 1: "question" is empty'),
    ],
)
def test_a_file_in_another_form_is_rejected(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read_prompts(tmp_path / name)


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "choices": ["x", "y"], "answer": 1, "subject": "law"},
        {"question": "Who?", "choices": None, "answer": None, "subject": None},
    ]
    file = tmp_path / "test-00000-of-00001.parquet"
    write_table(Table.from_pylist(rows), file)
    expected = [
        Prompt(f"{file.name}:1", "Which?", "law", choices=("x", "y"), correct=1),
        Prompt(f"{file.name}:2", "Who?"),
    ]
    (tmp_path / "README.md").write_text("# A dataset\n", encoding="utf-8")
    assert read_prompts(file) == read_prompts(tmp_path) == expected
    file.write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match="not a Parquet file that can be read"):
        read_prompts(file)


def test_the_first_named_column_of_a_tsv_is_the_id(tmp_path: Path) -> None:
    file = tmp_path / "q.tsv"
    file.write_text("qid\tquery\n7\tWho?\n", encoding="utf-8")
    assert read_prompts(file) == [Prompt("7", "Who?")]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.sampled_from(["", "A", "x y", "['a' 'b']", "{'text': array(['a'])}", "[(", "[1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "label", "value", "aliases", "stem", "number", "spans"]), inner
        )
    ),
    max_leaves=4,
)
NAMES = [*names.CHOICES, *names.CORRECT, *names.ANSWERS, "mc1_targets", "option1", "option2"]
NAMES += ["annotations", "best_answer", "answers.text", "question", "context", "premise"]
NAMES += ["answer0", "answer1", "validated_answers", "answer_aliases", "multiple_choice_scores"]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_row_is_a_question_or_an_error_with_its_place(row: dict[str, object]) -> None:
    place = Location("q.jsonl", "line", 1)
    try:
        question = Question.of(place, question_fields(row))
    except CorpusError as error:
        assert str(error).startswith("q.jsonl, line 1: ")  # noqa: PT017
    else:
        assert question.correct is None or question.correct in range(len(question.choices))
        assert all(answer.strip() for answer in question.answers)
