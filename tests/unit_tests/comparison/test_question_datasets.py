"""Rows of common datasets are read as lm-evaluation-harness asks them, in each form they have.

The rows follow the published schemas: those of the Hugging Face hub, and those of the makers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pyarrow import Table
from pyarrow.parquet import write_table

from langchain_sift.comparison.prompts import Prompt, read_prompts
from langchain_sift.comparison.question_files import names_question
from langchain_sift.errors import CorpusError
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.questions.question_lists import questions_in

Asked = tuple[str, tuple[str, ...], tuple[str, ...], int | None]
"""The text, the answers, the choices and the index of the correct one."""

PASSAGE = "All birds fly. Pingu is a bird."
ABCD = ("a1", "b2", "c3", "d4")
ARC = {"text": [*ABCD], "label": ["A", "B", "C", "D"]}
STEM = [{"label": label, "text": text} for label, text in zip("ABCD", ABCD, strict=True)]
TYPES = {"text": "Who?", "tokens": ["Who", "?"]}

ROWS: dict[str, tuple[Mapping[str, object], Asked]] = {
    # A premise, situation or body is asked too.
    "COPA": (
        {
            "premise": "He fell.",
            "choice1": "It hurt.",
            "choice2": "Ice was there.",
            "question": "cause",
            "idx": 0,
            "label": 1,
        },
        (
            "He fell.\n\nWhat was the cause of this?",
            (),
            ("It hurt.", "Ice was there."),
            1,
        ),
    ),
    "XCOPA": (
        {
            "premise": "L'uomo cadde.",
            "choice1": "x",
            "choice2": "y",
            "question": "effect",
            "label": 0,
            "idx": 7,
            "changed": False,
        },
        ("L'uomo cadde.\n\nWhat happened as a result?", (), ("x", "y"), 0),
    ),
    "Social IQa": (
        {
            "context": "Kai was late.",
            "question": "How does Kai feel?",
            "answerA": "x",
            "answerB": "y",
            "answerC": "z",
            "label": "1",
        },
        ("Kai was late.\n\nHow does Kai feel?", (), ("x", "y", "z"), 0),
    ),
    "Social IQa 1.4": (
        {"context": "c", "question": "q?", "answerA": "x", "answerB": "y", "correct": "B"},
        ("c\n\nq?", (), ("x", "y"), 1),
    ),
    "Social IQa with gaps": (
        {"context": "c", "question": "q?", "answerA": "x", "answerB": "y", "label": 1.0},
        ("c\n\nq?", (), ("x", "y"), 0),
    ),
    "COPA in KoBEST": (
        {
            "premise": "p",
            "question": "원인",
            "alternative_1": "x",
            "alternative_2": "y",
            "label": 1,
        },
        ("p\n\n원인", (), ("x", "y"), 1),
    ),
    "DREAM": (
        {"dialogue": ["W: Hi.", "M: Hi."], "question": "Who?", "choice": [*ABCD], "answer": "c3"},
        ("W: Hi.\nM: Hi.\n\nWho?", ("c3",), ABCD, 2),
    ),
    "SVAMP": (
        {"ID": "c-1", "Body": "Ann has 3 pens.", "Question": "How many pens?", "Answer": 3.0},
        ("Ann has 3 pens.\n\nHow many pens?", ("3",), (), None),
    ),
    # A passage is asked with choices. Without, it is a document of the store.
    "LogiQA": (
        {"label": "b", "context": PASSAGE, "question": "So?", "options": [*ABCD]},
        (f"{PASSAGE}\n\nSo?", (), ABCD, 1),
    ),
    "LogiQA, other columns": (
        {"context": PASSAGE, "query": "So?", "options": [*ABCD], "correct_option": 0},
        (f"{PASSAGE}\n\nSo?", (), ABCD, 0),
    ),
    "LogiQA 2": (
        {"id": 1, "answer": 3, "text": PASSAGE, "question": "So?", "options": [*ABCD]},
        (f"{PASSAGE}\n\nSo?", (), ABCD, 3),
    ),
    "RACE": (
        {
            "example_id": "high1.txt",
            "article": PASSAGE,
            "answer": "C",
            "question": "Pingu _ .",
            "options": [*ABCD],
        },
        (f"{PASSAGE}\n\nPingu _ .", (), ABCD, 2),
    ),
    "ReClor": (
        {"context": PASSAGE, "question": "So?", "answers": [*ABCD], "label": 2, "id_string": "t"},
        (f"{PASSAGE}\n\nSo?", (), ABCD, 2),
    ),
    "CosmosQA": (
        {
            "id": "1",
            "context": PASSAGE,
            "question": "So?",
            "answer0": "a1",
            "answer1": "b2",
            "answer2": "c3",
            "answer3": "d4",
            "label": 3,
        },
        (f"{PASSAGE}\n\nSo?", (), ABCD, 3),
    ),
    "BBQ": (
        {"context": PASSAGE, "question": "Who?", "ans0": "x", "ans1": "y", "ans2": "z", "label": 2},
        (f"{PASSAGE}\n\nWho?", (), ("x", "y", "z"), 2),
    ),
    "Belebele": (
        {
            "flores_passage": PASSAGE,
            "question": "So?",
            "mc_answer1": "a1",
            "mc_answer2": "b2",
            "mc_answer3": "c3",
            "mc_answer4": "d4",
            "correct_answer_num": "1",
        },
        (f"{PASSAGE}\n\nSo?", (), ABCD, 0),
    ),
    "AGIEval, LSAT": (
        {
            "passage": PASSAGE,
            "question": "So?",
            "options": ["(A)x", "(B)y"],
            "label": "B",
            "answer": None,
        },
        (f"{PASSAGE}\n\nSo?", (), ("(A)x", "(B)y"), 1),
    ),
    "AGIEval, MATH": (
        {"passage": None, "question": "1+1?", "options": None, "label": None, "answer": "2"},
        ("1+1?", ("2",), (), None),
    ),
    "AGIEval of lm-evaluation-harness": (
        {"query": "So?", "choices": ["(A)x", "(B)y"], "gold": [0]},
        ("So?", (), ("(A)x", "(B)y"), 0),
    ),
    "AGIEval with several correct ones": (
        {"query": "So?", "choices": ["x", "y", "z"], "gold": [0, 2]},
        ("So?", ("x", "z"), ("x", "y", "z"), None),
    ),
    "BoolQ": (
        {"question": "do birds fly", "answer": False, "passage": PASSAGE},
        ("do birds fly", ("no", "false"), (), None),
    ),
    "DROP": (
        {
            "section_id": "nfl_1",
            "query_id": "q1",
            "passage": PASSAGE,
            "question": "Who?",
            "answers_spans": {"spans": ["Pingu"], "types": ["span"]},
        },
        ("Who?", ("Pingu",), (), None),
    ),
    "DROP of lm-evaluation-harness, a number": (
        {
            "passage": PASSAGE,
            "question": "How many?",
            "answer": {
                "number": "4",
                "date": {"day": "", "month": "", "year": ""},
                "spans": [],
                "worker_id": "",
            },
            "validated_answers": {
                "number": ["", "5"],
                "date": [{"day": "3", "month": "May", "year": "1999"}, {"day": "", "month": ""}],
                "spans": [[], []],
            },
        },
        ("How many?", ("4", "3 May 1999", "5"), (), None),
    ),
    "DROP of lm-evaluation-harness, several spans": (
        {
            "passage": PASSAGE,
            "question": "Who?",
            "answer": {
                "number": "",
                "date": {"day": "", "month": "", "year": ""},
                "spans": ["x", "y"],
            },
        },
        ("Who?", ("x, y",), (), None),
    ),
    "PubMedQA": (
        {
            "pubid": 1,
            "question": "Does it?",
            "context": {"contexts": [PASSAGE], "labels": ["BACKGROUND"]},
            "long_answer": "It does.",
            "final_decision": "maybe",
        },
        ("Does it?", ("maybe",), (), None),
    ),
    "HotpotQA": (
        {
            "id": "5a",
            "question": "Who?",
            "answer": "Pingu",
            "type": "bridge",
            "level": "hard",
            "context": {"title": ["A"], "sentences": [[PASSAGE]]},
        },
        ("Who?", ("Pingu",), (), None),
    ),
    "2WikiMultihopQA": (
        {
            "_id": "8",
            "type": "comparison",
            "question": "Who?",
            "context": [["A", [PASSAGE]]],
            "evidences": [["A", "b", "c"]],
            "answer": "Pingu",
        },
        ("Who?", ("Pingu",), (), None),
    ),
    "MuSiQue": (
        {
            "id": "2hop__1",
            "paragraphs": [{"idx": 0, "title": "A", "paragraph_text": PASSAGE}],
            "question": "Who?",
            "question_decomposition": [{"id": 1, "question": "x >> y", "answer": "z"}],
            "answer": "New York City",
            "answer_aliases": ["NYC"],
            "answerable": True,
        },
        ("Who?", ("New York City", "NYC"), (), None),
    ),
    "NarrativeQA": (
        {"document": {"id": "d"}, "question": TYPES, "answers": [{"text": "I"}, {"text": "me"}]},
        ("Who?", ("I", "me"), (), None),
    ),
    "NarrativeQA of its makers": (
        {"document_id": "d", "set": "test", "question": "Who?", "answer1": "I", "answer2": "me"},
        ("Who?", ("I", "me"), (), None),
    ),
    # Choices in several forms.
    "ARC, numbered": (
        {
            "question": "Who?",
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
            "answerKey": "1",
        },
        ("Who?", (), ("x", "y"), 0),
    ),
    "OpenBookQA": (
        {"question_stem": "The sun", "choices": ARC, "answerKey": "D", "fact1": "a fact"},
        ("The sun", (), ABCD, 3),
    ),
    "CommonsenseQA of its makers": (
        {
            "answerKey": "A",
            "id": "1",
            "question": {"question_concept": "x", "choices": STEM, "stem": "Who?"},
        },
        ("Who?", (), ABCD, 0),
    ),
    "QASC": (
        {"question": "Who?", "choices": ARC, "answerKey": "B", "fact1": "f", "combinedfact": "g"},
        ("Who?", (), ABCD, 1),
    ),
    "SciQ": (
        {
            "question": "Who?",
            "distractor1": "x",
            "distractor2": "y",
            "distractor3": "z",
            "correct_answer": "w",
            "support": PASSAGE,
        },
        ("Who?", ("w",), ("x", "y", "z", "w"), 3),
    ),
    "GPQA": (
        {
            "Pre-Revision Question": "Hm?",
            "Pre-Revision Correct Answer": "v",
            "Question": "Who?",
            "Correct Answer": "w",
            "Incorrect Answer 1": "x",
            "Incorrect Answer 2": "y",
            "Incorrect Answer 3": "z",
            "Explanation": "e",
        },
        ("Who?", ("w",), ("x", "y", "z", "w"), 3),
    ),
    "SWAG": (
        {
            "video-id": "v",
            "startphrase": "He sits. He",
            "sent1": "He sits.",
            "sent2": "He",
            "gold-source": "gold",
            "ending0": "x",
            "ending1": "y",
            "ending2": "z",
            "ending3": "w",
            "label": 0,
        },
        ("He sits. He", (), ("x", "y", "z", "w"), 0),
    ),
    "MedQA in the form of SWAG": (
        {"id": "1", "sent1": "Who?", "sent2": "", "ending0": "x", "ending1": "y", "label": 1},
        ("Who?", (), ("x", "y"), 1),
    ),
    "MedQA of BigBIO": (
        {
            "meta_info": "step1",
            "question": "Who?",
            "answer_idx": "B",
            "answer": "y",
            "options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}],
        },
        ("Who?", ("y",), ("x", "y"), 1),
    ),
    "HellaSwag": (
        {
            "activity_label": "Sport",
            "ctx_a": "He sits.",
            "ctx_b": "he",
            "ctx": "He sits. he",
            "endings": [*ABCD],
            "label": "3",
        },
        ("He sits. he", (), ABCD, 3),
    ),
    "C-Eval": (
        {"id": 0, "question": "Who?", "A": "a1", "B": "b2", "C": "c3", "D": "d4", "answer": "C"},
        ("Who?", (), ABCD, 2),
    ),
    "MMLU": (
        {"question": "Who?", "subject": "law", "choices": [*ABCD], "answer": 1},
        ("Who?", (), ABCD, 1),
    ),
    "MMLU-Pro": (
        {
            "question_id": 70,
            "question": "Who?",
            "options": [*ABCD],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "",
            "category": "law",
        },
        ("Who?", (), ABCD, 1),
    ),
    "TruthfulQA": (
        {
            "question": "Who?",
            "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["x", "z", "y"], "labels": [1, 1, 0]},
        },
        ("Who?", (), ("x", "y"), 0),
    ),
    "BIG-bench": (
        {
            "idx": 0,
            "inputs": "Who?",
            "targets": ["y"],
            "multiple_choice_targets": ["x", "y"],
            "multiple_choice_scores": [0, 1],
        },
        ("Who?", ("y",), ("x", "y"), 1),
    ),
    "BIG-bench without choices": (
        {
            "inputs": "Who?",
            "targets": ["I", "me"],
            "multiple_choice_targets": [],
            "multiple_choice_scores": [],
        },
        ("Who?", ("I", "me"), (), None),
    ),
    "BIG-bench with several correct ones": (
        {"input": "Who?", "target_scores": {"x": 1, "y": 0, "z": 1}},
        ("Who?", ("x", "z"), ("x", "y", "z"), None),
    ),
    "BIG-bench Hard": (
        {"input": "Who?\nOptions:\n(A) x\n(B) y", "target": "(B)"},
        ("Who?\nOptions:\n(A) x\n(B) y", ("(B)",), (), None),
    ),
    "WinoGrande": (
        {"sentence": "Ann met _ .", "option1": "x", "option2": "y", "answer": "2"},
        ("Ann met _ .", (), ("x", "y"), 1),
    ),
    "PIQA": (
        {"goal": "How?", "sol1": "x", "sol2": "y", "label": 1},
        ("How?", (), ("x", "y"), 1),
    ),
    "StrategyQA": (
        {"qid": "1", "term": "T", "question": "Is it?", "answer": True, "facts": ["f"]},
        ("Is it?", ("yes", "true"), (), None),
    ),
    "MGSM": (
        {"question": "How many?", "answer": None, "answer_number": 18},
        ("How many?", ("18",), (), None),
    ),
    "GSM8K": (
        {"question": "How many?", "answer": "It is <<1+1=2>>2.\n#### 2"},
        ("How many?", ("2",), (), None),
    ),
    "TriviaQA": (
        {"question": "Who?", "answer": {"aliases": ["me"], "value": "I", "type": "Entity"}},
        ("Who?", ("I", "me"), (), None),
    ),
    "SQuAD of Haystack's annotation tool": (
        {
            "question": "Who?",
            "id": 1,
            "answers": [{"answer_id": 2, "text": "me", "answer_start": 1}],
            "is_impossible": False,
            "annotations": [{"question": "Who?", "answer": "me"}],
        },
        ("Who?", ("me",), (), None),
    ),
    "DeepEval": (
        {"input": "Who?", "actual_output": "you", "expected_output": "me", "context": [PASSAGE]},
        ("Who?", ("me",), (), None),
    ),
    "NQ-open": ({"question": "who", "answer": ["I", "me"]}, ("who", ("I", "me"), (), None)),
    "Natural Questions of its makers": (
        {
            "question_text": "who",
            "document_text": "<P> It was the cat . </P>",
            "annotations": [
                {
                    "short_answers": [{"start_token": 3, "end_token": 5}],
                    "yes_no_answer": "NONE",
                    "annotation_id": 5,
                }
            ],
        },
        ("who", ("the cat",), (), None),
    ),
    "Natural Questions, yes or no": (
        {
            "question": {"text": "is it", "tokens": ["is", "it"]},
            "annotations": {
                "id": ["1", "2"],
                "short_answers": [{"text": []}, {"text": []}],
                "yes_no_answer": [1, -1],
            },
        },
        ("is it", ("yes",), (), None),
    ),
    "Ten choices": (
        {"question": "Who?", **{f"option{n}": f"c{n}" for n in range(1, 11)}, "answer": 10},
        ("Who?", (), tuple(f"c{n}" for n in range(1, 11)), 9),
    ),
    "WebQuestions": (
        {"url": "u", "question": "who", "answers": ["I", "me"]},
        ("who", ("I", "me"), (), None),
    ),
}


def write_lines(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_list(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.write_text(json.dumps(rows), encoding="utf-8")


def write_object(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows under their ids, as the makers of PubMedQA and DROP do."""
    file.write_text(json.dumps({f"key{n}": row for n, row in enumerate(rows)}), encoding="utf-8")


def write_parquet(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_table(Table.from_pylist([dict(row) for row in rows]), file)


FILES = {
    "rows.jsonl": write_lines,
    "rows.json": write_list,
    "keys.json": write_object,
    "rows.parquet": write_parquet,
}


def read(tmp_path: Path, *rows: Mapping[str, object], name: str = "rows.jsonl") -> list[Prompt]:
    """Return the prompts of a file, which a text beside it does not hide."""
    FILES[name](tmp_path / name, rows)
    prompts = read_prompts(tmp_path / name)
    assert names_question(SourceFile.of(tmp_path / name))
    return prompts


def asked(prompt: Prompt) -> Asked:
    return prompt.text, prompt.answers, prompt.choices, prompt.correct


@pytest.mark.parametrize(
    ("dataset", "name"),
    # A list of a text and a list is no column of Parquet.
    [(d, n) for d in ROWS for n in FILES if (d, n) != ("2WikiMultihopQA", "rows.parquet")],
)
def test_rows_of_datasets(tmp_path: Path, dataset: str, name: str) -> None:
    row, expected = ROWS[dataset]
    (prompt,) = read(tmp_path, row, name=name)
    assert asked(prompt) == expected


# Several questions about one text.
STORY = "Cotton is a kitten. She lives in a barn."
TURNS = (
    f"{STORY}\n\nWho is Cotton?",
    f"{STORY}\n\nQuestion: Who is Cotton?\nAnswer: a kitten\n\nWhere does she live?",
)
ANSWERS = (("a kitten", "kitten"), ("in a barn", "a barn"))


def spans(*texts: str) -> list[dict[str, object]]:
    return [
        {"span_start": 0, "span_text": STORY, "input_text": text, "turn_id": turn}
        for turn, text in enumerate(texts, start=1)
    ]


def columns(*texts: str) -> dict[str, object]:
    return {"input_text": [*texts], "answer_start": [0, 1], "answer_end": [2, 3]}


COQA = {"source": "mctest", "id": "s1", "story": STORY}
CONVERSATIONS: dict[str, tuple[dict[str, object], tuple[tuple[str, ...], ...], str]] = {
    "CoQA of its makers": (
        {
            **COQA,
            "filename": "mc.txt",
            "name": "mc.txt",
            "questions": [
                {"input_text": "Who is Cotton?", "turn_id": 1},
                {"input_text": "Where does she live?", "turn_id": 2},
            ],
            "answers": spans("a kitten", "in a barn"),
            "additional_answers": {"0": spans("kitten", "a barn")},
        },
        ANSWERS,
        "s1",
    ),
    "CoQA of lm-evaluation-harness": (
        {
            **COQA,
            "questions": {
                "input_text": ["Who is Cotton?", "Where does she live?"],
                "turn_id": [1, 2],
            },
            "answers": columns("a kitten", "in a barn"),
            "additional_answers": {"0": columns("kitten", "a barn")},
        },
        ANSWERS,
        "s1",
    ),
    "CoQA of the hub": (
        {
            "source": "mctest",
            "story": STORY,
            "questions": ["Who is Cotton?", "Where does she live?"],
            "answers": columns("a kitten", "in a barn"),
        },
        (("a kitten",), ("in a barn",)),
        "",
    ),
    "QuAC of the hub": (
        {
            "dialogue_id": "C_1",
            "wikipedia_page_title": "Cotton",
            "background": "b",
            "section_title": "s",
            "context": STORY,
            "turn_ids": ["C_1_q#0", "C_1_q#1"],
            "questions": ["Who is Cotton?", "Where does she live?"],
            "followups": [0, 1],
            "yesnos": [2, 2],
            "answers": {
                "texts": [["a kitten", "kitten"], ["in a barn", "a barn"]],
                "answer_starts": [[0, 0], [1, 1]],
            },
            "orig_answers": {"texts": ["a kitten", "in a barn"], "answer_starts": [0, 1]},
        },
        ANSWERS,
        "C_1",
    ),
    "QuAC of its makers": (
        {
            "title": "Cotton",
            "background": "b",
            "section_title": "s",
            "paragraphs": [
                {
                    "context": STORY,
                    "id": "C_1",
                    "qas": [
                        {
                            "id": "C_1_q#0",
                            "question": "Who is Cotton?",
                            "followup": "y",
                            "yesno": "x",
                            "answers": [{"text": text, "answer_start": 0} for text in ANSWERS[0]],
                            "orig_answer": {"text": "a kitten", "answer_start": 0},
                        },
                        {
                            "id": "C_1_q#1",
                            "question": "Where does she live?",
                            "followup": "n",
                            "yesno": "x",
                            "answers": [{"text": text, "answer_start": 1} for text in ANSWERS[1]],
                            "orig_answer": {"text": "in a barn", "answer_start": 1},
                        },
                    ],
                }
            ],
        },
        ANSWERS,
        "Cotton",
    ),
}


@pytest.mark.parametrize("name", [name for name in FILES if name != "keys.json"])
@pytest.mark.parametrize("dataset", CONVERSATIONS)
def test_turns_of_a_conversation_follow_its_story(tmp_path: Path, dataset: str, name: str) -> None:
    row, answers, source = CONVERSATIONS[dataset]
    prompts = read(tmp_path, row, name=name)
    assert tuple(prompt.text for prompt in prompts) == TURNS
    assert tuple(prompt.answers for prompt in prompts) == answers
    assert {prompt.source for prompt in prompts} == {source or f"{name}:1"}
    assert len({prompt.id for prompt in prompts}) == 2


PROBLEMS = [
    {"question": "So?", "answer": "B", "options": [*ABCD]},
    {"question": "Pingu _ .", "answer": "D", "options": [*ABCD]},
]
PASSAGES_WITH_QUESTIONS: dict[str, dict[str, object]] = {
    "RACE of its makers": {
        "article": PASSAGE,
        "id": "high1.txt",
        "questions": ["So?", "Pingu _ ."],
        "options": [[*ABCD], [*ABCD]],
        "answers": ["B", "D"],
    },
    "RACE of lm-evaluation-harness": {"article": PASSAGE, "problems": str(PROBLEMS)},
    "QuALITY": {
        "article_id": "7",
        "title": "Birds",
        "article": PASSAGE,
        "questions": [
            {"question": "So?", "question_unique_id": "7_1", "options": [*ABCD], "gold_label": 2},
            {
                "question": "Pingu _ .",
                "question_unique_id": "7_2",
                "options": [*ABCD],
                "gold_label": 4,
            },
        ],
    },
}


@pytest.mark.parametrize("name", [name for name in FILES if name != "keys.json"])
@pytest.mark.parametrize("dataset", PASSAGES_WITH_QUESTIONS)
def test_questions_with_choices_share_a_passage(tmp_path: Path, dataset: str, name: str) -> None:
    first, second = read(tmp_path, PASSAGES_WITH_QUESTIONS[dataset], name=name)
    assert asked(first) == (f"{PASSAGE}\n\nSo?", (), ABCD, 1)
    assert asked(second) == (f"{PASSAGE}\n\nPingu _ .", (), ABCD, 3)
    assert first.source == second.source != ""
    assert first.id != second.id


def test_questions_of_an_object_have_its_source(tmp_path: Path) -> None:
    questions = [{"question": "So?", "answer": "yes"}, {"question": "No?", "answer": "no"}]
    named = {"source": "a.md", "title": "A", "id": "x", "questions": questions}
    for row, source in (
        (named, "a.md"),
        ({**named, "source": ""}, "A"),
        ({"id": "x", "questions": questions}, "x"),
        ({"title": "A", "paragraphs": [{"qas": questions}]}, "A"),
        ({"source": "a.md", "paragraphs": [{"qas": questions}]}, "a.md"),
    ):
        assert {prompt.source for prompt in read(tmp_path, row)} == {source}


def test_the_trial_of_cmrc(tmp_path: Path) -> None:
    asked_one = {"query_text": "Who?", "query_id": "TRIAL_0_QUERY_0", "answers": ["me", "I"]}
    row = {"context_id": "TRIAL_0", "context_text": PASSAGE, "qas": [asked_one], "title": "T"}
    for name in ("rows.json", "rows.jsonl"):
        assert read(tmp_path, row, name=name) == [
            Prompt("TRIAL_0_QUERY_0", "Who?", source="T", answers=("me", "I"))
        ]


def test_a_file_may_be_one_object(tmp_path: Path) -> None:
    for row in PASSAGES_WITH_QUESTIONS.values():
        (tmp_path / "one.json").write_text(json.dumps(row), encoding="utf-8")
        texts = [prompt.text for prompt in read_prompts(tmp_path / "one.json")]
        assert texts == [f"{PASSAGE}\n\nSo?", f"{PASSAGE}\n\nPingu _ ."]


def test_objects_in_a_text_file_are_no_questions(tmp_path: Path) -> None:
    file = tmp_path / "high1.txt"
    file.write_text(json.dumps(PASSAGES_WITH_QUESTIONS["RACE of its makers"]), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"high1\.txt: the lines are JSON: name the file \.json"):
        read_prompts(file, lines=True)


def test_drop_of_its_makers(tmp_path: Path) -> None:
    answer = {"number": "", "date": {"day": "", "month": "", "year": "1999"}, "spans": []}
    pairs = [
        {"question": "When?", "answer": answer, "query_id": "q1", "validated_answers": [answer]},
        {"question": "How many?", "answer": {**answer, "number": "0"}, "query_id": "q2"},
    ]
    entry = {"passage": PASSAGE, "wiki_url": "u", "qa_pairs": pairs}
    assert read(tmp_path, entry, name="keys.json") == [
        Prompt("q1", "When?", source="key0", answers=("1999",)),
        Prompt("q2", "How many?", source="key0", answers=("0",)),
    ]


KLUE: dict[str, object] = {
    "title": "T",
    "context": "c",
    "news_category": "n",
    "question_type": 3,
    "question": "누구?",
    "answers": {"text": ["김"], "answer_start": [0]},
}


def test_plausible_answers_of_a_question_without_an_answer_are_none(tmp_path: Path) -> None:
    rows = [{**KLUE, "is_impossible": is_impossible} for is_impossible in (False, True)]
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    for prompts in (
        *(read(tmp_path, *rows, name=name) for name in FILES),
        read_prompts(tmp_path / "rows.csv"),
    ):
        assert [prompt.answers for prompt in prompts] == [("김",), ()]


def test_pubmedqa_of_its_makers(tmp_path: Path) -> None:
    row = {"QUESTION": "Does it?", "CONTEXTS": ["c"], "final_decision": "no", "LONG_ANSWER": "l"}
    assert read(tmp_path, row, name="keys.json") == [Prompt("key0", "Does it?", answers=("no",))]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("indices", "expected"),
    [((0, 3, 1), (0, 3, 1)), ((1, 4, 2), (0, 3, 1)), ((0, 2, -1), (0, 2, None))],
)
def test_the_questions_of_a_file_show_from_where_medmcqa_counts(
    tmp_path: Path, indices: tuple[int, ...], expected: tuple[int | None, ...], name: str
) -> None:
    options = dict(zip(("opa", "opb", "opc", "opd"), ABCD, strict=True))
    rows = [{"question": "Which?", **options, "cop": index} for index in indices]
    prompts = read(tmp_path, *rows, name=name)
    assert tuple(prompt.correct for prompt in prompts) == expected
    assert {prompt.choices for prompt in prompts} == {ABCD}


def test_a_dataset_of_the_hub_counts_from_0(tmp_path: Path) -> None:
    row = {"question": "Which?", **dict(zip(("opa", "opb", "opc", "opd"), ABCD, strict=True))}
    (prompt,) = read(tmp_path, {**row, "cop": 2}, name="rows.parquet")
    assert prompt.correct == 2


@pytest.mark.parametrize("index", [2, "2", 2.0, "2.0"])
def test_an_index_that_may_count_from_0_or_1_is_an_error(tmp_path: Path, index: object) -> None:
    options = dict(zip(("opa", "opb", "opc", "opd"), ABCD, strict=True))
    with pytest.raises(CorpusError, match=r'line 1: "cop" is 2: .* name it "correct" and count'):
        read(tmp_path, {"question": "Which?", **options, "cop": index})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        # SuperGLUE's BoolQ and WikiQA: the names of the labels are not in the file.
        ({"question": "q", "passage": "p", "label": 1}, '"label" names the .* no "choices"'),
        ({"question": "q", "passage": "p", "label": "1"}, '"label" names the .* no "choices"'),
        ({"question": "q", "answer": "a sentence", "label": 0}, '"label" names the .*"choices"'),
        # A number is no index where the choices have numbers.
        ({"sentence": "_", "option1": "x", "option2": "y", "answer": "0"}, '"answer" must be'),
        ({"question": "q", "answerA": "x", "answerB": "y", "label": "0"}, '"label" must be'),
        ({"question": "q", "choices": ["x", "y"], "gold": [0, 2]}, '"gold" must be the index'),
        ({"questions": ["q", "r"], "answers": ["a"]}, '"questions" has 2 elements, "answers" 1'),
        ({"story": "s", "questions": ["q", 1]}, '"questions" must be texts'),
        ({"article": "a", "problems": "[{"}, '"problems" must be a list, got str'),
        ({"premise": "p", "hypothesis": "h", "label": 0}, 'there is no "question"'),
        # KMMLU counts from 1.
        (
            {"question": "q", "A": "a1", "B": "b2", "answer": 2},
            '"answer" must .* got 2: if the file counts from 1, give the letter .* \\(A for 1\\)',
        ),
        (
            {"question": "q", "choices": ["x1", "y1"], "answer_index": 1, "answer": "x1"},
            "\"answer_index\" names 'y1', \"answer\" names 'x1': .*count from 0",
        ),
        ({"premise": "p", "question": "", "label": "x"}, '"question" is empty'),
    ],
)
def test_what_can_be_read_in_two_ways_is_an_error(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    with pytest.raises(CorpusError, match=f"line 1: {message}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        (",startphrase,sent1,ending0,ending1,label", "0,He,He.,x,y,1", ("He", (), ("x", "y"), 1)),
        (
            "context,question,answerA,answerB,answerC,label",
            "Kai left.,Why?,x,y,z,3",
            ("Kai left.\n\nWhy?", (), ("x", "y", "z"), 2),
        ),
        (
            "document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized",
            "d,test,Who?,I,me,Who ?,I",
            ("Who?", ("I", "me"), (), None),
        ),
        # pandas writes a column with gaps as decimals.
        ("question,choices,label", "Who?,\"['x', 'y']\",1.0", ("Who?", (), ("x", "y"), 1)),
        ("goal,sol1,sol2,label", "Who?,x,y,1.0", ("Who?", (), ("x", "y"), 1)),
        ("question,answerA,answerB,label", "Who?,x,y,1.0", ("Who?", (), ("x", "y"), 0)),
        ("question,opa,opb,opc,opd,cop", "Who?,x,y,z,w,4.0", ("Who?", (), ("x", "y", "z", "w"), 3)),
        ("goal,sol1,sol2,label", "Who?,x,y,-1.0", ("Who?", (), ("x", "y"), None)),
        ("prompt,A,B,answer", "Who?,x,y,B", ("Who?", (), ("x", "y"), 1)),
        ("question,Option A,Option B,Correct Answer", "Who?,I,me,B", ("Who?", (), ("I", "me"), 1)),
        ("question,option1,option2,correct_answer", "Who?,x,y,y", ("Who?", ("y",), ("x", "y"), 1)),
        ("question,option1,option2,answer", "Who?,x,y,option2", ("Who?", (), ("x", "y"), 1)),
        ("question,option1,option2,label", "Who?,x,y,Option 1", ("Who?", (), ("x", "y"), 0)),
        ("question,answer1,answer2,answer", "Who?,x1,y1,2", ("Who?", (), ("x1", "y1"), 1)),
        ("question,answer1,answer2,correct_answer", "Who?,x,y,2", ("Who?", (), ("x", "y"), 1)),
        ("question,answer_a,answer_b,winner", "Who?,x,y,a", ("Who?", (), ("x", "y"), None)),
        ("question,answer,answer_2,answer_3", "Who?,me,I,us", ("Who?", ("me",), (), None)),
        ("question,choices,correct_answer", "Who?,\"['x', 'y']\",1", ("Who?", (), ("x", "y"), 1)),
        (
            "question,choices,answer",
            "When?,\"['1999', '2000']\",2000",
            ("When?", ("2000",), ("1999", "2000"), 1),
        ),
        ("question,answer,ground_truth", "Who?,you,me", ("Who?", ("me",), (), None)),
    ],
)
def test_files_of_commas(tmp_path: Path, header: str, cells: str, expected: Asked) -> None:
    (tmp_path / "q.csv").write_text(f"{header}\n{cells}\n", encoding="utf-8")
    (prompt,) = read_prompts(tmp_path / "q.csv")
    assert asked(prompt) == expected


@pytest.mark.parametrize("name", ["choices", "options", "answers"])
@pytest.mark.parametrize("mark", ["correct", "is_correct", "isCorrect"])
@pytest.mark.parametrize(("right", "correct"), [("x", 0), ("y", 1), ("", None)])
def test_a_choice_may_say_that_it_is_correct(
    tmp_path: Path, name: str, mark: str, right: str, correct: int | None
) -> None:
    marked = [{"text": text, mark: text == right} for text in ("x", "y")]
    (prompt,) = read(tmp_path, {"question": "Who?", name: marked})
    assert asked(prompt) == ("Who?", (), ("x", "y"), correct)


def test_questions_about_a_text_are_no_conversation(tmp_path: Path) -> None:
    row = {"context": STORY, "questions": ["Who?", "Where?"], "answers": ["Cotton", "A barn"]}
    first, second = read(tmp_path, row)
    assert asked(first) == ("Who?", ("Cotton",), (), None)
    assert asked(second) == ("Where?", ("A barn",), (), None)


def test_the_answer_of_a_system_is_not_that_of_ragas(tmp_path: Path) -> None:
    row = {"question": "Who?", "contexts": ["c"], "answer": "you", "ground_truths": ["me", "I"]}
    assert [prompt.answers for prompt in read(tmp_path, row)] == [("me", "I")]


def test_a_turn_without_an_answer_is_a_part_of_the_history(tmp_path: Path) -> None:
    first, second = read(tmp_path, {"story": STORY, "questions": ["Who?", "Where?"]})
    assert first.text == f"{STORY}\n\nWho?"
    assert second.text == f"{STORY}\n\nQuestion: Who?\n\nWhere?"


NAMES = ["question", "context", "paragraphs", "qas", "questions", "answers", "options", "problems"]
VALUES = st.recursive(
    st.none() | st.integers(0, 1) | st.sampled_from(["", "A", "x y", "[{'question': 'q'}]", "[("]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "text", "input_text", "followup"]), inner)
    ),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*NAMES, "story", "additional_answers"]), VALUES))
def test_any_object_has_questions_or_is_an_error_with_its_place(row: dict[str, object]) -> None:
    try:
        questions = [*questions_in("q.jsonl, line 1", row, "n")]
    except CorpusError as error:
        assert str(error).startswith("q.jsonl, line 1: ")  # noqa: PT017
    else:
        assert questions == [row] or all("id" in question for question in questions)
