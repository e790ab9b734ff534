"""Prompts are read from files, each with a different id."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import Table
from pyarrow.parquet import write_table

from langchain_sift.comparison.prompt_files import PromptFiles
from langchain_sift.comparison.prompts import Prompt, as_prompts, read_prompts
from langchain_sift.comparison.tasks import alike_notes
from langchain_sift.errors import ArgumentError, CorpusError


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_the_group_of_a_prompt_is_its_group_or_domain(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(
        lines({"text": "a", "group": "g"}, {"text": "b", "domain": "d"}, {"text": "c"})
    )
    assert [prompt.group for prompt in read_prompts(file)] == ["g", "d", "all"]
    file.write_bytes(b"\n")
    with pytest.raises(CorpusError, match="no prompt"):
        read_prompts(file)


def test_questions_have_answers_and_choices(tmp_path: Path) -> None:
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


def test_a_field_that_is_null_is_missing_and_0_is_a_value(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    nothing = dict.fromkeys(("id", "group", "source", "answers", "choices", "correct"))
    zeros = {"id": 0, "group": 0, "source": 0, "answer": 0}
    file.write_bytes(
        lines({"text": "a", **nothing, "answer": "me"}, {"text": None, "question": "b", **zeros})
    )
    assert read_prompts(file) == [
        Prompt("prompts.jsonl:1", "a", answers=("me",)),
        Prompt("0", "b", "0", "0", ("0",)),
    ]


def test_answers_may_have_the_form_of_squad(tmp_path: Path) -> None:
    file = tmp_path / "squad.jsonl"
    known = {"text": ["in summer", "June"], "answer_start": [3, 9]}
    unknown = {"text": [], "answer_start": []}
    rows = [{"question": "When?", "answers": answers} for answers in (known, unknown)]
    file.write_bytes(lines(*rows))
    assert [prompt.answers for prompt in read_prompts(file)] == [("in summer", "June"), ()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": ["a"]}, '"question" must be a string with a text, got list'),
        ({"question": " "}, '"question" is empty: give it a text'),
        ({"answers": {"name": "x"}}, '"answers" must be a list of strings and numbers, got dict'),
        ({"answers": [{"value": "x"}]}, '"answers" must be .*, got dict'),
        ({"answers": ["x", None]}, '"answers" must be .*, got NoneType'),
        ({"choices": {"text": ["a"], "label": []}}, '"choices" has 1 texts and 0 labels'),
        ({"choices": 5}, '"choices" must be .*, got int'),
        ({"choices": "ab", "correct": 0}, '"choices" must be .*, got str'),
        ({"choices": ["a", "b"], "correct": "C"}, "\"correct\" must be the index .*got 'C'"),
        (
            {"choices": ["x", "y"], "answer": 2},
            '"answer" must be the index of one of .*got 2',
        ),
        ({"choices": ["x", "y"], "answer": -1}, '"answer" must be .*got -1'),
        ({"choices": ["x", "y"], "label": "D"}, "\"label\" must be .*got 'D'"),
        ({"choices": ["a", "b"], "correct": True}, '"correct" must be the index .*got True'),
    ],
)
def test_a_field_of_another_type_is_rejected_by_line(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(lines({"question": "Who?"}, {"question": "What?", **row}))
    with pytest.raises(CorpusError, match=f"^prompts.jsonl, line 2: {message}"):
        read_prompts(file)


def test_no_field_of_a_prompt_holds_half_a_character(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    row = {"id": "i", "text": "t", "group": "g", "source": "s", "answers": ["a"], "choices": ["c"]}
    text = json.dumps(row)
    for value in "itgsac":
        text = text.replace(f'"{value}"', rf'"{value}\ud83d"')
    file.write_text(text)
    (prompt,) = read_prompts(file)
    i, t, g, s, a, c = (f"{value}\N{REPLACEMENT CHARACTER}" for value in "itgsac")
    assert prompt == Prompt(i, t, g, s, (a,), (c,))


def test_a_text_file_is_a_prompt_or_a_list_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("Who?\n\n  What? \n", encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(file)] == ["Who?\n\n  What? \n"]
    prompts = read_prompts(file, lines=True)
    assert [prompt.text for prompt in prompts] == ["Who?", "What?"]
    assert len({prompt.id for prompt in prompts}) == 2
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    assert len(read_prompts(tmp_path)) == 1
    with pytest.raises(CorpusError, match=r"blank\.txt: no prompt in it"):
        read_prompts(tmp_path / "blank.txt")


@pytest.mark.parametrize("name", ["q.xml", "q.html"])
def test_a_file_of_another_format_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("question,answer\nWho?,I\n")
    with pytest.raises(CorpusError, match=rf"{name}: not a supported format.*\.jsonl, .*\.txt"):
        read_prompts(tmp_path / name)


PACKED = {
    "rows.ndjson": lines({"question": "Who?", "answer": "I"}),
    "rows.json": json.dumps([{"question": "Who?", "answer": "I"}]).encode(),
    "law_test.csv": b"Who?,I,you,A\n",
    "rows.tsv": b"question\tanswer\nWho?\tI\n",
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_has_the_prompts_of_the_file(tmp_path: Path, name: str) -> None:
    plain, packed = (tmp_path / kind / name for kind in ("plain", "packed"))
    for folder in (plain.parent, packed.parent):
        folder.mkdir()
    plain.write_bytes(PACKED[name])
    packed = packed.with_name(f"{name}.gz")
    packed.write_bytes(gzip.compress(PACKED[name]))
    (prompt,) = read_prompts(plain)
    same = replace(prompt, id=prompt.id.replace(name, packed.name))
    assert read_prompts(packed) == read_prompts(packed.parent) == [same]


def test_an_id_in_several_files_gets_the_name_of_its_file(tmp_path: Path) -> None:
    for name, ids in (("a.jsonl", (0, 1)), ("b.jsonl", (1, 2))):
        (tmp_path / name).write_bytes(lines(*({"id": n, "question": "?"} for n in ids)))
    assert [p.id for p in read_prompts(tmp_path)] == ["0", "a.jsonl: 1", "b.jsonl: 1", "2"]


def test_ids_of_a_file_must_differ(tmp_path: Path) -> None:
    row = {"id": "1", "question": "?"}
    (tmp_path / "a.jsonl").write_bytes(lines(row, row))
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 2: two prompts have the id '1'"):
        read_prompts(tmp_path / "a.jsonl")


def test_ids_of_prompts_must_differ() -> None:
    assert [prompt.id for prompt in as_prompts(["a", Prompt("x", "b")])] == ["1", "x"]
    with pytest.raises(CorpusError, match="two prompts have the id '1'"):
        as_prompts(["a", Prompt("1", "b")])
    with pytest.raises(CorpusError, match="no prompt"):
        as_prompts([])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": "wet fields"}, "answers must be a sequence of str, got one str"),
        ({"answers": (5,)}, "answers must be a sequence of str, got int at index 0"),
        ({"choices": "ab", "correct": 0}, "choices must be a sequence of str, got one str"),
        ({"text": None}, "text must be a string, got NoneType"),
        ({"id": 1}, "id must be a string, got int"),
        ({"source": None}, "source must be a string, got NoneType"),
        *(
            ({"choices": ("a", "b"), "correct": correct}, "index of one of the 2 choices, from 0")
            for correct in (2, -1, "b", True, 1.0)
        ),
        ({"correct": 0}, "index of one of the 0 choices"),
    ],
)
def test_a_prompt_of_other_types_is_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as raised:
        Prompt(**{"id": "p", "text": "?", **fields})
    assert "wet" not in str(raised.value)


def test_a_prompt_takes_lists_and_the_index_of_a_table() -> None:
    prompt = Prompt("p", "?", answers=["a"], choices=["a", "b"], correct=np.int64(1))  # type: ignore[arg-type]
    assert prompt == Prompt("p", "?", answers=("a",), choices=("a", "b"), correct=1)
    assert prompt.reference == "a"


@pytest.mark.parametrize("blank", ["", " \n", Prompt("", "\t")])
def test_a_prompt_has_a_text(blank: Prompt | str) -> None:
    with pytest.raises(CorpusError, match=r"the prompt '2?' has no text"):
        as_prompts([Prompt("a", "b"), blank])


def test_relevant_documents_have_three_forms(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    forms = [["a", 7], {"a": 2, "b": 0, "c": -1}, [["a", "b"], ["b"]], None, []]
    file.write_bytes(lines(*({"_id": n, "text": "t", "relevant": f} for n, f in enumerate(forms))))
    prompts = read_prompts(file)
    assert [prompt.id for prompt in prompts] == ["0", "1", "2", "3", "4"]
    assert [dict(prompt.judgments.grades) for prompt in prompts] == [
        {"a": 1, "7": 1},
        {"a": 2},
        {"a": 1, "b": 1},
        {},
        {},
    ]
    intents = [prompt.judgments.intents for prompt in prompts]
    assert intents == [(), (), (frozenset("ab"), frozenset("b")), (), ()]


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ("a", "must be a list of ids.*got str"),
        (["a", ["b"]], "each intent.*got 'a'"),
        ([["a"], []], r"each intent.*got \[\]"),
        ([1.5], "id in relevant must be a string, got 1.5"),
        ([""], "id in relevant must be a string, got ''"),
        ({"a": 0.5}, "grade of 'a'.*must be an integer, got 0.5"),
        ({"a": True}, "grade of 'a'.*got True"),
    ],
)
def test_other_forms_of_relevant_documents_are_rejected(
    relevant: object, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(lines({"text": "a"}, {"text": "t", "relevant": relevant}))
    with pytest.raises(CorpusError, match=f"line 2: .*{message}"):
        read_prompts(file)
    with pytest.raises(ArgumentError, match=message):
        Prompt("p", "t", relevant=relevant)


def test_qrels_choose_the_prompts(tmp_path: Path) -> None:
    table, qrels = tmp_path / "queries.tsv", tmp_path / "qrels.txt"
    table.write_text("q1\twhat is it?\n\nq2\twho\tis it?\nq3\twhere?\n")
    qrels.write_text("q2 0 d1 2\nq1 0 d1 0\nq9 0 d1 1\n")
    assert read_prompts(table, qrels=qrels) == [
        Prompt("q1", "what is it?", relevant={"d1": 0}),
        Prompt("q2", "who\tis it?", relevant={"d1": 2}),
    ]
    assert len(read_prompts(table)) == 3
    qrels.write_text("7 0 d1 1\n")
    with pytest.raises(CorpusError, match=r"judges none of the 3 prompts.*'7'.*'q1'"):
        read_prompts(table, qrels=qrels)
    table.write_text("what is it?\n")
    with pytest.raises(CorpusError, match="line 1: not an id, a tab and a question"):
        read_prompts(table)


def test_equal_prompts_are_one_observation() -> None:
    prompts = as_prompts(
        [
            "a",
            Prompt("b", "b", source="file"),
            " a\n",
            Prompt("c", "b"),
            Prompt("d", "a", choices=("x", "y")),
            Prompt("e", "a", source="another"),
            Prompt("f", "a", choices=["x", "y"], group="g"),  # type: ignore[arg-type]
        ]
    )
    sources = [prompt.source or prompt.id for prompt in prompts]
    assert sources == ["1", "file", "1", "file", "d", "another", "d"]
    assert [prompt.text for prompt in prompts[:3]] == ["a", "b", " a\n"]
    assert alike_notes(prompts) == (
        "3 of 7 prompts repeat an earlier one: equal prompts count as one observation.",
    )
    assert alike_notes(prompts[:2]) == ()


@pytest.mark.parametrize(("sources", "told"), [(1, 1), (7, 1), (8, 0), (12, 0)])
def test_a_note_tells_that_many_prompts_are_of_few_sources(sources: int, told: int) -> None:
    prompts = [Prompt(str(n), f"{n}?", source=f"paper {n % sources}") for n in range(12)]
    notes = [note for note in alike_notes(prompts) if "leave the field out" in note]
    assert len(notes) == told
    for note in notes:
        assert f"The 12 prompts are from {sources} source{'s' * (sources > 1)} (" in note


MMLU = "Which?,w,x,y,z,B\n"
ABOUT = ("README.txt", "LICENSE.md", "NOTICE", "LICENCE-MIT.txt", "sub/readme_zh.md")


@pytest.mark.parametrize(
    ("files", "read", "left_out"),
    [
        ({"test/a_test.csv": MMLU, "val/b_val.csv": MMLU}, ["test/a_test.csv", "val/b_val.csv"], 0),
        ({"a.jsonl": '{"question": "?"}\n', "Corpus.txt": "One.\nTwo.\n"}, ["a.jsonl"], 1),
        ({"a.jsonl": '{"question": "?"}\n', "a.csv": MMLU, "b.md": "b"}, ["a.jsonl"], 2),
        ({"d/q.json": '[{"question": "?"}]', "urls.txt": "https://e.org\n"}, ["d/q.json"], 1),
        ({"q.tsv": "id\tquestion\n1\tWho?\n", "b.txt": "b"}, ["q.tsv"], 1),
        ({"q.csv": "id,question\n1,Who?\n", "meta.csv": "a,b\nx,y\n"}, ["q.csv"], 1),
        ({"q.json": '[{"question": "?"}]', "q.jsonl": '{"a": 1}\n'}, ["q.json"], 1),
        ({"q.json": '[{"text": "?"}]', ".git/q.jsonl": '{"text": "x"}\n'}, ["q.json"], 0),
    ],
)
def test_the_texts_beside_the_questions_of_a_dataset_are_no_prompts(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files: dict[str, str],
    read: list[str],
    left_out: int,
) -> None:
    for name, text in {**dict.fromkeys(ABOUT, "A text.\n"), **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = PromptFiles.find(tmp_path)
    assert sorted(file.path for file in found.files) == [tmp_path / name for name in read]
    assert len(found.left_out) == left_out
    prompts = read_prompts(tmp_path, lines=True)
    alone = [prompt for name in read for prompt in read_prompts(tmp_path / name, lines=True)]
    assert [prompt.text for prompt in prompts] == [prompt.text for prompt in alone]
    assert len(caplog.messages) == min(left_out, 1)
    assert all(name in message for name in found.left_out for message in caplog.messages)
    assert [f"{tmp_path}: {note}" for note in found.notes] == caplog.messages


@pytest.mark.parametrize(
    ("good", "damaged"),
    [
        ({"a.json": '[{"question": "?"}]'}, {"b.json": '[{"question"'}),
        ({"train.jsonl": '{"question": "?"}\n'}, {"test.jsonl": '{"quest\n'}),
        ({"a.csv": "question,answer\n?,x\n"}, {"b.csv": "question,answer,Answer\n?,x,y\n"}),
        ({"q.csv": "question,answer\n?,x\n"}, {"q.parquet": "PAR1"}),
    ],
)
def test_a_damaged_file_beside_questions_of_its_kind_is_an_error(
    tmp_path: Path, good: dict[str, str], damaged: dict[str, str]
) -> None:
    for name, text in (good | damaged).items():
        (tmp_path / name).write_text(text)
    (name,) = damaged
    with pytest.raises(CorpusError, match=name):
        read_prompts(tmp_path)
    (tmp_path / name).unlink()
    assert len(read_prompts(tmp_path)) == 1


WITHOUT_QUESTIONS = {
    "metadata.csv": "file_name,year\nt0.txt,1999\n",
    "counts.csv": "",
    "meta.json": '{"name": "my texts", "version": 1}',
    "rows.json": '[{"title": "x"}]',
    "cut.json": '[{"question"',
    "package.json": '{"scripts": {"test": "make"}}',
    "dataset.jsonl": '{"license": "MIT"}\n',
    "qrels.tsv": "query-id\tcorpus-id\tscore\n1\td\t1\n",
}


@pytest.mark.parametrize("name", [*WITHOUT_QUESTIONS, "cut.parquet", "meta.parquet"])
def test_a_file_without_questions_does_not_replace_the_texts_beside_it(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    if name == "meta.parquet":
        write_table(Table.from_pylist([{"title": "x", "year": 1999}]), file)
    else:
        file.write_text(WITHOUT_QUESTIONS.get(name, "PAR1"), encoding="utf-8")
    with pytest.raises(CorpusError):  # that of the file, or that it holds no prompts
        read_prompts(tmp_path)
    texts = {f"t{n}.txt": f"Text {n}." for n in range(3)}
    for other, text in texts.items():
        (tmp_path / other).write_text(text)
    assert [prompt.text for prompt in read_prompts(tmp_path)] == [*texts.values()]
    (note,) = PromptFiles.find(tmp_path).notes
    assert f"those of the .txt files, without {name}: " in note


def test_a_text_whose_name_begins_as_that_of_a_licence_is_a_prompt(tmp_path: Path) -> None:
    read = ["license_plates.md", "copying-machines.txt", "readme_first.txt", "license.d.md"]
    about = ["changelog.md", "LICENSE-APACHE-2.0.txt", "README.zh-Hans.md", "COPYING.LESSER.txt"]
    for name in (*read, *about):
        (tmp_path / name).write_text(name)
    assert {prompt.text for prompt in read_prompts(tmp_path)} == {*read}
    found = PromptFiles.find(tmp_path)
    assert {*found.left_out} == {*about}
    (note,) = found.notes
    assert note.startswith("the prompts are those of the .txt and .md files, without ")


def test_a_folder_with_texts_about_a_dataset_alone_has_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("MIT")
    with pytest.raises(CorpusError, match=r"none of its files holds prompts: .*\.jsonl"):
        read_prompts(tmp_path)
    assert len(read_prompts(tmp_path / "LICENSE.txt")) == 1
    with pytest.raises(ArgumentError, match="a path is empty"):
        read_prompts("")
