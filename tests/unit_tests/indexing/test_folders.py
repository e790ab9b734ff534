"""Files are found once, without what belongs to machines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_sift.calibrated_settings import CalibratedSelection, CalibratedSettings
from langchain_sift.comparison.prompts import read_prompts
from langchain_sift.comparison.run_folder import RunFolder
from langchain_sift.errors import CorpusError
from langchain_sift.indexing.files import read_corpus
from langchain_sift.indexing.folders import FolderRules, find_files
from langchain_sift.indexing.paths import at_or_above


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


def names_in(folder: Path, **rules: bool) -> list[str]:
    return [file.name for file in find_files([folder], rules=FolderRules(**rules)).files]


LEFT_OUT = (
    ".hidden.txt",
    "._a.txt",
    "~$a.md",
    ".git/a.txt",
    "__MACOSX/a.txt",
    "node_modules/a/README.md",
    "sub/__pycache__/a.txt",
    "sub/.ipynb_checkpoints/a.txt",
    "env/lib/a.txt",
    "conda/a.txt",
    "cache/a.txt",
    "out/checkpoint-500/README.md",
)


def test_what_belongs_to_machines_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    kept = ("a.txt", "checkpoint-500.txt", "env.txt", "sub/a.txt", "venv/a.txt")
    make(tmp_path, *kept, *LEFT_OUT)
    make(tmp_path, "env/pyvenv.cfg", "conda/conda-meta/history", "cache/CACHEDIR.TAG")
    assert names_in(tmp_path) == sorted(kept, key=Path)
    everything = names_in(tmp_path, everything=True)
    assert everything == sorted((*kept, *LEFT_OUT, "env/pyvenv.cfg"), key=Path)
    assert find_files([tmp_path]).left_out == len(LEFT_OUT)
    # What is named itself is read.
    assert names_in(tmp_path / ".git") == ["a.txt"]
    assert [file.name for file in find_files([tmp_path / "._a.txt"]).files] == ["._a.txt"]


def test_what_compare_and_calibrate_wrote_is_left_out_and_files_of_these_names_are_not(
    tmp_path: Path,
) -> None:
    make(tmp_path, "user/report.md", "user/run.json", "user/results.jsonl", "a.txt", "b.json")
    make(tmp_path, "adapter/adapter_config.json", "adapter/README.md")
    kept = names_in(tmp_path)
    assert {"user/report.md", "user/run.json", "user/results.jsonl", "b.json"} <= {*kept}
    assert not any(name.startswith("adapter/") for name in kept)
    settings = CalibratedSettings(retrieval=CalibratedSelection(6.5, 10, 200))
    settings.save(tmp_path / "settings.json")
    run = RunFolder(tmp_path, resume=False, overwrite=False)  # beside the documents
    with run.held():
        run.begin({"protocols": ["qa"], "methods": ["base"]})
        run.describe({"1": "a prompt"}, {}, {}, {})
        run.keep([])
        (tmp_path / "report.md").write_text("a report")
    assert names_in(tmp_path) == kept
    wrote = {"run.json", "results.jsonl", "documents.jsonl", "prompts.jsonl", "report.md"}
    assert wrote | {"settings.json"} <= {*names_in(tmp_path, everything=True)}


SAVED = ("dataset_info.json", "state.json", "data-00000-of-00001.arrow")
"""The files that `save_to_disk` of Hugging Face's `datasets` writes for a split."""


def test_a_dataset_in_arrow_files_is_a_problem_and_its_json_files_are_no_documents(
    tmp_path: Path,
) -> None:
    make(tmp_path, *(f"one/{name}" for name in SAVED))
    make(tmp_path, "splits/dataset_dict.json", *(f"splits/test/{name}" for name in SAVED))
    make(tmp_path, "other/dataset_info.json")
    found = find_files([tmp_path])
    assert [file.name for file in found.files] == ["other/dataset_info.json"]
    saved = [str(tmp_path.resolve() / name) for name in ("one", "splits")]
    assert sorted(found.problems) == saved
    for folder in saved:
        for read in (read_corpus, read_prompts):
            with pytest.raises(CorpusError, match=rf"{folder}: a dataset .* with `to_json\("):
                read(folder)


def test_gitignore_files_are_followed_if_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "docs/a.txt", "docs/b.log", "docs/sub/b.log", "docs/sub/keep.log")
    make(tmp_path, "docs/build/c.txt", "docs/sub/only/d.txt", "build/e.txt")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.log\n/docs/build/\n")
    (tmp_path / "docs" / "sub" / ".gitignore").write_text("!keep.log\n/only\n")
    assert len(names_in(tmp_path / "docs")) == 6
    assert names_in(tmp_path / "docs", gitignore=True) == ["a.txt", "sub/keep.log"]
    assert names_in(tmp_path, gitignore=True) == ["build/e.txt", "docs/a.txt", "docs/sub/keep.log"]


def test_links_are_followed_once_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "files/a.txt", "files/sub/b.txt", "elsewhere/c.txt")
    files = tmp_path / "files"
    (files / "again.txt").symlink_to(files / "a.txt")
    (files / "round").symlink_to(files)
    (files / "also").symlink_to(files / "sub")
    (files / "linked").symlink_to(tmp_path / "elsewhere")
    (files / "nowhere.txt").symlink_to(tmp_path / "nothing")
    found = find_files([files])
    assert [file.name for file in found.files] == ["a.txt", "linked/c.txt", "sub/b.txt"]
    assert found.links == 3
    full = str(files.resolve() / "nowhere.txt")
    assert found.problems == {full: f"{files / 'nowhere.txt'}: a link to nothing"}
    linked = found.files[1].full_path
    assert linked == str((files / "linked" / "c.txt").parent.parent.resolve() / "linked" / "c.txt")


def test_a_file_has_one_full_path_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "files/sub/a.txt")
    monkeypatch.chdir(tmp_path / "files")
    paths = [Path(), Path("sub"), Path("sub/a.txt"), Path("../files"), tmp_path / "files"]
    full = {find_files([path]).files[0].full_path for path in paths}
    assert full == {str(tmp_path.resolve() / "files" / "sub" / "a.txt")}


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    (file,) = find_files([tmp_path]).files
    assert file.name == "caf\N{REPLACEMENT CHARACTER}.txt"
    assert file.path.read_text() == "text"


def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    assert names_in(tmp_path) == ["a.txt"]
    with pytest.raises(CorpusError, match="no file to read"):
        find_files([tmp_path / "b.txt"]).check(lambda _: True)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder of a user who must heed permissions, and run the test as this user."""
    with tempfile.TemporaryDirectory() as name:
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        yield Path(name).resolve()
        if is_root:
            os.seteuid(0)
        for folder, _, _ in os.walk(name):
            Path(folder).chmod(0o700)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize(
    "rules", [FolderRules(), FolderRules(everything=True), FolderRules(gitignore=True)]
)
def test_a_folder_without_permission_is_a_problem_and_not_empty(
    mode: int, rules: FolderRules, place: Path
) -> None:
    make(place, "a.txt", "sub/b.txt", "sub/inner/c.txt")
    (place / "sub").chmod(mode)
    found = find_files([place], rules=rules)
    assert [file.name for file in found.files] == ["a.txt"]
    named = find_files([place / "sub"], rules=rules)
    assert named.files == ()
    # Each file that was read before is at or below a problem.
    for problems in (found.problems, named.problems):
        for name in ("sub/b.txt", "sub/inner/c.txt"):
            assert any(path in problems for path in at_or_above(str(place / name)))
        assert all("cannot be read: Permission denied" in one for one in problems.values())
    with pytest.raises(CorpusError, match=r"sub: "):
        named.check()
    named.check(lambda _: True)
