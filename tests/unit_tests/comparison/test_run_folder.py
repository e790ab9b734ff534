"""No kill loses or repeats a row, and rows of different comparisons are never mixed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from langchain_sift.comparison.run_folder import RunFolder, read_report
from langchain_sift.errors import ArgumentError
from langchain_sift.report.files import write_report
from langchain_sift.report.rows import ChosenDocument, Row

SETTINGS = {"protocols": ["document"], "methods": ["base", "x"], "k": [1], "rate": 0.1}


def rows(count: int) -> list[Row]:
    chosen = (ChosenDocument("d\n1", 0.5, math.nan, 2),)
    return [
        Row("document", str(n), "g", "x", k=1, bits=1.5 * n, chosen=chosen, used_indices=(0,))
        for n in range(count)
    ]


def open_run(path: Path, *, resume: bool = False, overwrite: bool = False, **more: object):
    folder = RunFolder(path, resume=resume, overwrite=overwrite)
    folder.begin({**SETTINGS, **more})
    return folder


def test_rows_are_read_unchanged(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "new")
    folder.describe(
        {"0": "prompt \ud800", "1": "other"}, {"0": "yes"}, {"1": "a copy"}, {"1": ("d1", "d2")}
    )
    folder.add(rows(2), {"d\n1": "text ü"})
    again = open_run(tmp_path / "new", resume=True)
    # NaN is not equal to itself.
    assert repr(list(again.rows.values())) == repr(rows(2))
    assert again.texts == {"d\n1": "text ü"}
    report = read_report(tmp_path / "new")
    assert repr(report.rows) == repr(tuple(rows(2)))
    assert report.prompt_texts == {"0": "prompt \ud800", "1": "other"}
    assert report.leaks == {"1": "a copy"}
    assert report.relevant == {"1": ("d1", "d2")}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["results.jsonl", "documents.jsonl"])
def test_a_line_that_a_kill_has_cut_is_ignored(tmp_path: Path, file: str) -> None:
    open_run(tmp_path).add(rows(3), {"d\n1": "text", "b": "other"})
    content = (tmp_path / file).read_bytes()
    for end in range(0, len(content), 7):
        (tmp_path / file).write_bytes(content[:end])
        folder = open_run(tmp_path, resume=True)
        lines = content[:end].count(b"\n")
        kept = folder.rows if file == "results.jsonl" else folder.texts
        assert len(kept) == lines
        folder.keep(list(folder.rows))
        folder.add(rows(3), {"d\n1": "text", "b": "other"})
        whole = open_run(tmp_path, resume=True)
        assert (len(whole.rows), len(whole.texts)) == (3, 2)


def test_a_comparison_is_never_overwritten_without_an_option(tmp_path: Path) -> None:
    open_run(tmp_path).add(rows(2), {})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"--resume.*--overwrite"):
        open_run(tmp_path)
    with pytest.raises(ArgumentError, match="choose one"):
        open_run(tmp_path, resume=True, overwrite=True)
    with pytest.raises(ArgumentError, match=r"other settings \(rate was 0.1, is 0.2\)"):
        open_run(tmp_path, resume=True, rate=0.2)
    assert len(open_run(tmp_path, resume=True).rows) == 2
    assert open_run(tmp_path, overwrite=True, rate=0.2).rows == {}
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ArgumentError, match="holds no comparison"):
        read_report(tmp_path)
    with pytest.raises(ArgumentError, match="is a file"):
        RunFolder(tmp_path / "mine.txt", resume=False, overwrite=False)
    with pytest.raises(ArgumentError, match="holds no comparison"):
        read_report(tmp_path / "nowhere")


KILLED_AND_NOT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_sift import FineTuneConfig, HiddenStateEmbeddings, compare
from langchain_sift.ttft import load_language_model

torch.set_num_threads(1)
model = load_language_model(sys.argv[1])
texts = [f"The river carries {n} loaves of warm bread to the {n % 7} bakers." for n in range(40)]
store = InMemoryVectorStore(HiddenStateEmbeddings(model).fit(texts))
store.add_texts(texts, ids=[str(n) for n in range(40)])
methods = ("rag:sift", "ttft:sift", "ttft:sift:stopping_alpha=0.5", "ttft:nearest", "ttft:random")


def start(out):
    child = os.fork()
    if child:
        return child
    compare(
        [f"The baker {n} carries warm bread to the river {n * n} times." for n in range(12)],
        methods,
        model=model,
        vectorstore=store,
        k=(1, 4),
        fetch_k=20,
        noise_variance=1.0,
        finetune=FineTuneConfig(lora_rank=4, learning_rate=5e-3, max_length=32),
        jobs=2,
        out=Path(out),
        resume=True,
    )
    os._exit(0)


def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


wait(start(sys.argv[2]))
rng = random.Random(0)
rows = Path(sys.argv[3]) / "results.jsonl"
killed = 0
for attempt in range(6):
    child = start(sys.argv[3])
    size = rows.stat().st_size if rows.exists() else 0
    deadline = time.monotonic() + 60
    # Before the first row, or some units later.
    more = rng.random() < 0.8
    while more and time.monotonic() < deadline:
        if rows.exists() and rows.stat().st_size > size:
            break
        time.sleep(0.001)
    time.sleep(0.1 * rng.random())
    os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL), attempt
    killed += ended != 0
assert killed  # a busy machine may kill a run only after its end
wait(start(sys.argv[3]))
"""


def table(folder: Path) -> list[object]:
    return [
        (row.key, round(row.bits, 6), [d.id for d in row.chosen], row.used_indices)
        for row in read_report(folder).rows
    ]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_run_that_is_killed_six_times_has_the_rows_of_one_that_is_not(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    """SIGKILL comes at random moments."""
    folders = [str(tiny_model_path), *(str(tmp_path / name) for name in ("whole", "killed"))]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_AND_NOT, *folders], check=True, timeout=500
    )
    expected = table(tmp_path / "whole")
    assert len(expected) == 12 * (1 + 5 * 2)
    assert table(tmp_path / "killed") == expected
    lines = (tmp_path / "killed" / "results.jsonl").read_text().splitlines()
    keys = [(row["prompt"], row["method"], row["k"]) for row in map(json.loads, lines)]
    assert len(set(keys)) == len(keys) == len(expected)


@pytest.mark.parametrize("holds", [False, True])
def test_the_folder_of_a_comparison_that_fails_before_its_first_row_goes(
    tmp_path: Path, *, holds: bool
) -> None:
    folder = RunFolder(tmp_path / "new" / "run", resume=False, overwrite=False)
    if holds:
        (tmp_path / "new" / "other.txt").write_text("theirs")
    with pytest.raises(ArgumentError), folder.held():
        raise ArgumentError
    assert not (tmp_path / "new" / "run").exists()
    assert (tmp_path / "new").exists() == holds
    folder = RunFolder(tmp_path, resume=False, overwrite=False)
    with pytest.raises(ArgumentError), folder.held():
        raise ArgumentError
    assert tmp_path.exists()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize(
    "name",
    ["prompts.jsonl", "documents.jsonl", "results.jsonl", "report.md", "plots/document-groups.svg"],
)
def test_no_file_of_a_folder_without_a_comparison_is_replaced(
    tmp_path: Path, name: str, option: dict[str, bool]
) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArgumentError, match=f"holds no comparison, .*: {name}: name another"):
        open_run(tmp_path, **option)
    assert files_in(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"methods": 3}', "[" * 9999, "\x00"])
def test_a_run_json_of_another_program_makes_no_comparison(
    tmp_path: Path, content: str, option: dict[str, bool]
) -> None:
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "results.jsonl").write_text("mine")
    with pytest.raises(ArgumentError, match=r"holds no comparison, .*run\.json: name another"):
        open_run(tmp_path, **option)
    assert files_in(tmp_path) == {"run.json": content.encode(), "results.jsonl": b"mine"}


@pytest.mark.slow
def test_replacing_a_comparison_removes_the_files_that_one_writes_and_no_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "plots").mkdir()
    mine = {"plots/mine.png": b"p", "notes.md": b"n", "plots/report.md": b"r"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    for overwrite in (False, True):
        folder = open_run(tmp_path, overwrite=overwrite)
        assert files_in(tmp_path).keys() - mine.keys() == {"run.json"}
        folder.describe({"0": "p"}, {}, {}, {})
        folder.add(rows(2), {"d\n1": "text"})
        write_report(read_report(tmp_path), tmp_path)
        assert {"prompts.jsonl", "report.md", "results.json"} < files_in(tmp_path).keys()
    assert mine.items() <= files_in(tmp_path).items()


def test_a_file_that_is_read_is_not_replaced(tmp_path: Path) -> None:
    open_run(tmp_path).describe({"0": "p"}, {}, {}, {})
    prompts = tmp_path / "prompts.jsonl"
    before = prompts.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for path in (prompts, tmp_path / "link" / "prompts.jsonl"):
        with pytest.raises(ArgumentError, match=r"prompts\.jsonl is read, .* name another folder"):
            RunFolder(tmp_path, resume=False, overwrite=True, inputs=[path])
    assert prompts.read_bytes() == before
    RunFolder(tmp_path, resume=False, overwrite=True, inputs=[tmp_path / "mine.jsonl"])


@pytest.mark.parametrize("fails", [False, True])
def test_two_comparisons_do_not_write_into_one_folder(tmp_path: Path, *, fails: bool) -> None:
    path = tmp_path / "run"
    first, second = (RunFolder(path, resume=True, overwrite=False) for _ in range(2))
    with pytest.raises(ArgumentError) if fails else nullcontext(), first.held():
        message = r"another comparison writes into .*run: wait"
        with pytest.raises(ArgumentError, match=message), second.held():
            pytest.fail("both hold the folder")
        if fails:
            raise ArgumentError
        first.begin(SETTINGS)
    with RunFolder(path, resume=True, overwrite=False).held():
        pass  # the lock ends with the comparison
    late = RunFolder(tmp_path / "late", resume=False, overwrite=False)
    open_run(tmp_path / "late")
    with pytest.raises(ArgumentError, match="already holds a comparison"):
        late.begin(SETTINGS)


@pytest.mark.parametrize("name", ["", " "])
def test_the_name_of_a_folder_is_not_empty(name: str) -> None:
    with pytest.raises(ArgumentError, match="a path is empty"):
        RunFolder(name, resume=False, overwrite=False)
    with pytest.raises(ArgumentError, match="out must be the name of a folder, got 5"):
        RunFolder(5, resume=False, overwrite=False)  # type: ignore[arg-type]
