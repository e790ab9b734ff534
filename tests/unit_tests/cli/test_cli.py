"""The commands work on files from beginning to end, and their last line is JSON."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints
from unittest import mock

import chromadb
import pytest
import typer
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from typer.testing import CliRunner, Result
from unit_tests.indexing.sample_files import pdf

from langchain_sift import CalibratedSettings
from langchain_sift.calibrated_settings import CalibratedFineTuning, CalibratedSelection
from langchain_sift.cli import app
from langchain_sift.cli.app import echo_for_programs, progress_bar
from langchain_sift.cli.terminal import Terminal
from langchain_sift.errors import ArgumentError
from langchain_sift.indexing.companions import is_companion


def path_options() -> Iterator[tuple[str, str]]:
    """Yield each command with each of its options and arguments that is a `Path`."""
    for command in app.registered_commands:
        assert command.callback is not None
        hints = get_type_hints(command.callback)
        for parameter in typer.main.get_command_from_info(
            command, pretty_exceptions_short=True, rich_markup_mode=None
        ).params:
            if Path in {hints.get(parameter.name), *get_args(hints.get(parameter.name))}:
                yield command.name, parameter.opts[0]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40]))
    return file


@pytest.fixture
def prompts(tmp_path: Path, texts: list[str]) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"text": text, "group": f"g{n % 2}"} for n, text in enumerate(texts[40:44])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{version('langchain-sift')}\n")


def test_an_error_hides_the_bars_of_work_that_had_not_begun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        with progress_bar(Terminal(stderr=True)) as progress:
            progress.update(progress.add_task("reading", total=2), completed=1)
            progress.add_task("embedding", total=None)
            raise ArgumentError("wrong")

    with pytest.raises(ArgumentError):
        fail()
    printed = capsys.readouterr().err
    assert "reading" in printed
    assert "embedding" not in printed


def test_files_without_text_are_named_and_pdfs_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(pdf(""))
    (tmp_path / "blank.txt").write_text(" ")
    (tmp_path / "rice.txt").write_text("Rice grows in wet fields.")
    arguments = ["index", tmp_path, "--store", tmp_path / "store", "--embeddings", "own:made"]
    own = ModuleType("own")
    own.made = DeterministicFakeEmbedding(size=8)  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, own=own):
        result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("no text in ")]
    assert [line.partition(": ")[0].rpartition("/")[2] for line in lines] == [
        "blank.txt",
        "scan.pdf",
    ]
    assert "OCR" in lines[1]
    assert "OCR" not in lines[0]


def test_the_lines_of_the_help_fit_into_a_terminal() -> None:
    # The help keeps the line breaks of every paragraph but the first, and is indented.
    for command in app.registered_commands:
        paragraphs = inspect.getdoc(command.callback).split("\n\n")  # type: ignore[arg-type,union-attr]
        lines = [line for each in paragraphs[1:] for line in each.splitlines()]
        assert [line for line in lines if len(line) > 78] == []


def run(corpus: Path, prompts: Path, model: Path, out: Path, *more: str) -> Result:
    arguments = ["compare", "--corpus", corpus, "--prompts", prompts, "--model", model]
    arguments += ["--out", out, "--lora-rank", "4", "--learning-rate", "5e-3", "--k", "4", *more]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_compare_writes_a_report(
    corpus: Path, prompts: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(corpus, prompts, tiny_model_path, out, "--protocol", "document,continuation")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)  # the tables are not in the pipe
    assert printed["report"] == str(out / "report.html")
    assert printed["memory"]["measured"] > printed["memory"]["estimated"] / 2 > 10**8
    assert "peak of memory:" in result.stderr
    assert list(printed["protocols"]) == ["document", "continuation"]
    document = printed["protocols"]["document"]
    assert document["prompts"] == 4
    assert list(document["methods"]) == [
        "base",
        "rag:nearest",
        "rag:sift",
        "ttft:nearest",
        "ttft:sift",
    ]
    assert set(document["groups"]) == {"g0", "g1"}
    assert document["methods"]["ttft:sift"]["bits_per_byte"] > 0
    assert "ttft:sift" in (out / "report.html").read_text(encoding="utf-8")
    assert len((out / "results.jsonl").read_text().splitlines()) == 2 * 4 * 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "ttft:shift"), "'ttft:shift'"),
        (("--protocol", "paper"), "'paper'"),
        (("--k", "0"), "k must be"),
        (("--lora-rank", "0"), "lora_rank must be"),
        (("--max-memory-gb", "0"), "max_memory_gb must be"),
        (("--chat-template-kwargs", "[1]"), "must be a JSON object"),
        (("--chat-template-kwargs", '{"tools": 1}'), "cannot set 'tools'"),
        (("--target-modules", "last-0"), "did you mean 'last-N'"),
        (("--objective", "distil"), "did you mean 'distill'"),
        (("--target-modules", "atention"), "did you mean 'attention'"),
        (("--embeddings", "no_such_module:Name"), "no_such_module"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(  # noqa: PLR0917 - fixtures
    more: tuple[str, ...],
    message: str,
    corpus: Path,
    prompts: Path,
    tiny_model_path: Path,
    tmp_path: Path,
) -> None:
    result = run(corpus, prompts, tiny_model_path, tmp_path / "out", *more)
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option"), sorted(path_options()))
def test_an_empty_path_is_not_the_current_folder(command: str, option: str) -> None:
    """An unset variable of the shell is an empty path, which `Path` takes for a folder."""
    named = (option, "") if option.startswith("-") else ("",)
    result = CliRunner().invoke(app, [command, *named], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "a path is empty" in result.stderr


def test_a_corpus_may_have_files_of_every_format(
    prompts: Path, tiny_model_path: Path, tmp_path: Path, texts: list[str]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(pdf(texts[0], texts[1]))
    (folder / "b.html").write_text(f"<h1>{texts[2]}</h1>")
    (folder / "c.csv").write_text(f'text,year\n"{texts[3]}",1999\n"{texts[4]}",2000\n')
    (folder / "d.txt").write_text(texts[5])
    (folder / "e.jsonl").write_text(json.dumps({"id": "own", "text": texts[6]}))
    out = tmp_path / "out"
    result = run(folder, prompts, tiny_model_path, out, "--methods", "rag:sift", "--k", "7")
    assert result.exit_code == 0, result.output
    found = chromadb.PersistentClient(str(out / "chroma")).list_collections()
    (collection,) = [collection for collection in found if not is_companion(collection.name)]
    ids = ["a.pdf:1", "a.pdf:2", "b.html", "c.csv:1", "c.csv:2", "d.txt", "own"]
    stored = collection.get()
    assert stored["ids"] == ids
    assert [" ".join(text.split()) for text in stored["documents"]] == texts[:7]
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    chosen = [{document["id"] for document in row["chosen"]} for row in rows if row["k"]]
    assert chosen == [set(ids)] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["made", "Made"])
def test_embeddings_can_be_any_of_langchains(
    name: str,
    corpus: Path,
    prompts: Path,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = DeterministicFakeEmbedding(size=16)
    monkeypatch.setitem(sys.modules, "own_embeddings", module := ModuleType("own_embeddings"))
    module.made, module.Made = (
        made,
        type(
            "Made",
            (Embeddings,),
            {
                "embed_documents": staticmethod(made.embed_documents),
                "embed_query": staticmethod(made.embed_query),
            },
        ),
    )
    out = corpus.parent / "out"
    more = ("--embeddings", f"own_embeddings:{name}", "--methods", "rag:sift")
    result = run(corpus, prompts, tiny_model_path, out, *more)
    assert result.exit_code == 0, result.output
    store = chromadb.PersistentClient(str(out / "chroma"))
    (collection,) = store.list_collections()
    stored = collection.get(include=["embeddings", "documents"])
    assert stored["embeddings"].shape == (40, 16)
    expected = made.embed_query(stored["documents"][0])
    assert stored["embeddings"][0] == pytest.approx(expected, abs=1e-6)


def test_a_bad_corpus_is_named_by_file_and_line(
    corpus: Path, prompts: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\xff\n")
    result = run(corpus, prompts, tiny_model_path, tmp_path / "out")
    assert result.exit_code == 2
    assert "corpus.jsonl, line 41: not UTF-8" in " ".join(result.stderr.split())


def test_a_model_that_does_not_exist_is_named(corpus: Path, prompts: Path, tmp_path: Path) -> None:
    result = run(corpus, prompts, tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2
    assert "cannot load the model" in result.stderr


def test_a_missing_extra_is_named_with_the_command_to_install_it() -> None:
    hide = "import sys; sys.modules['typer'] = None; sys.argv = ['langchain-sift'];"
    done = subprocess.run(
        [sys.executable, "-c", f"{hide} from langchain_sift.__main__ import main; main()"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'langchain-sift[compare]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def indexed(corpus: Path, prompts: Path, tiny_model_path: Path) -> Path:
    """Return a folder of Chroma with one collection, which a comparison made."""
    out = corpus.parent / "out"
    result = run(corpus, prompts, tiny_model_path, out, "--methods", "base")
    assert result.exit_code == 0, result.output
    return out / "chroma"


@pytest.mark.slow
def test_explain_shows_both_choices(indexed: Path, texts: list[str]) -> None:
    query = texts[3][:40]
    command = ["explain", query, "--store", str(indexed), "--k", "5"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    printed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [len(printed[way]) for way in ("sift", "nearest")] == [5, 5]
    assert printed["query"] == query
    for choice in printed["sift"]:
        assert f"{choice['gain']:.3f}" in shown.stdout
    assert "nearest neighbours" in shown.stdout
    assert "adaptive stopping" in shown.stdout
    chosen = [[choice["text"] for choice in printed[way]] for way in ("sift", "nearest")]
    assert ("Both choose the same documents" in shown.stdout) == (chosen[0] == chosen[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "more", "message"),
    [
        ("no_such_folder", (), "no_such_folder is no folder of Chroma's"),
        ("http://127.0.0.1:9", (), "no Chroma server"),
        ("damaged", (), "Chroma store damaged: its files are damaged: restore"),
        (None, ("--collection", "none"), "no collection 'none': choose one of"),
        (None, ("--k", "0"), "k must be"),
        (None, (), "QUERY is empty"),
    ],
)
def test_a_mistake_in_explain_is_one_line(  # noqa: PLR0917 - fixtures
    indexed: Path,
    store: str | None,
    more: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "chroma.sqlite3").write_bytes(b"no database")
    query = "query" if store or more else " "
    command = ["explain", query, "--store", store or str(indexed), *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_the_help_waits_for_no_library_that_computes() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from langchain_sift.cli import app\n"
        "CliRunner().invoke(app, ['compare', '--help']);"
        "sys.exit(bool({'torch', 'numpy', 'chromadb', 'transformers'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.txt"
    file.write_text("Who bakes the bread?\n\nWhat does the river carry?\n", encoding="utf-8")
    return file


def compare_store(store: Path, prompts: Path, model: Path, out: Path, *more: str) -> Result:
    arguments = ["compare", "--store", store, "--prompts", prompts, "--model", model, "--out", out]
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, *more)])


SMALL = ("--lora-rank", "4", "--learning-rate", "5e-3", "--max-length", "32")


@pytest.mark.slow
def test_questions_are_compared_on_an_indexed_collection(
    indexed: Path, questions: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    more = ("--protocol", "qa", "--k", "1,3", "--max-tokens", "4", *SMALL)
    result = compare_store(indexed, questions, tiny_model_path, out, *more)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["protocol"], printed["prompts"]) == ("qa", 2)
    assert list(printed["by_k"]) == ["1", "3"]
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (1 + 4 * 2)
    assert all(isinstance(row["answer"], str) for row in rows)


@pytest.mark.slow
def test_a_comparison_without_any_result_fails(
    indexed: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Who bakes the bread? " * 500, encoding="utf-8")
    more = ("--protocol", "qa", "--methods", "rag:nearest", "--k", "1", *SMALL)
    result = compare_store(indexed, questions, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 1
    assert "no row has a result; the first reason:" in result.stderr
    assert "too long" in result.stderr


@pytest.mark.slow
def test_a_method_without_any_result_fails(
    indexed: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_chains.py").write_text(
        "from langchain_core.runnables import RunnableLambda\n"
        "def fail(question):\n    raise OSError('the server is down')\n"
        "def fail_once(question):\n    return fail(question) if '1' in question else 'bread'\n"
        "always, once = RunnableLambda(fail), RunnableLambda(fail_once)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    questions = tmp_path / "questions.txt"
    questions.write_text("Who bakes bread 1?\nWho bakes bread 2?\n", encoding="utf-8")
    chains = [part for name in ("always", "once") for part in
              ("--chain", f"{name}=broken_chains:{name}")]  # fmt: skip
    more = ("--protocol", "qa", *chains, "--methods", "always,once", "--k", "1", *SMALL)
    result = compare_store(indexed, questions, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 1
    assert "no row of always has a result; the first reason: " in result.stderr
    assert "the server is down" in result.stderr
    assert "once has" not in result.stderr
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.slow
def test_a_comparison_is_continued_or_replaced_only_with_an_option(
    indexed: Path, prompts: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    more = ("--methods", "base,ttft:sift", "--k", "2", *SMALL)
    assert compare_store(indexed, prompts, tiny_model_path, out, *more).exit_code == 0
    rows = (out / "results.jsonl").read_text()
    refused = compare_store(indexed, prompts, tiny_model_path, out, *more)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    other = compare_store(indexed, prompts, tiny_model_path, out, *more, "--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "seed was 0, is 1" in " ".join(other.stderr.split())
    assert (out / "results.jsonl").read_text() == rows
    lines = rows.splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(lines[:-2]))
    resumed = compare_store(indexed, prompts, tiny_model_path, out, *more, "--resume")
    assert resumed.exit_code == 0, resumed.output
    again = (out / "results.jsonl").read_text().splitlines()
    bits = sorted(json.loads(line)["bits"] for line in lines)
    assert sorted(json.loads(line)["bits"] for line in again) == pytest.approx(bits, rel=1e-6)
    shown = CliRunner().invoke(app, ["report", str(out)])
    assert shown.exit_code == 0, shown.output
    last = json.loads(shown.stdout.splitlines()[-1])
    assert last["methods"] == json.loads(resumed.stdout.splitlines()[-1])["methods"]
    replaced = compare_store(indexed, prompts, tiny_model_path, out, *more, "--overwrite")
    assert replaced.exit_code == 0, replaced.output
    assert CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")]).exit_code == 2


@pytest.mark.slow
def test_runnables_of_the_user_are_compared(
    indexed: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_runnables.py").write_text(
        "from langchain_core.documents import Document\n"
        "from langchain_core.runnables import RunnableLambda\n"
        "retriever = RunnableLambda(lambda query: [Document('A baker bakes bread.', id='own')])\n"
        "chain = RunnableLambda(lambda question: 'the baker')\n"
        "def short(answer, prompt):\n    return 1.0 / (1 + len(answer))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    prompts = tmp_path / "qa.jsonl"
    prompts.write_text('{"question": "Who bakes the bread?", "answers": ["The baker"]}\n')
    more = ("--retriever", "mine=my_runnables:retriever", "--chain", "api=my_runnables:chain")
    more += ("--scorer", "short=my_runnables:short", "--methods", "rag:mine,ttft:mine,api")
    more += ("--protocol", "qa", "--k", "2", "--max-tokens", "4", *SMALL)
    result = compare_store(indexed, prompts, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 0, result.output
    methods = json.loads(result.stdout.splitlines()[-1])["methods"]
    assert list(methods) == ["base", "rag:mine", "ttft:mine", "api"]
    assert methods["api"]["scores"]["exact_match"] == 1.0
    assert methods["api"]["scores"]["short"] == pytest.approx(0.1)
    assert methods["ttft:mine"]["documents_used"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--k", "two"), "--k takes a number of documents"),
        (("--methods", "tfft:sift"), "did you mean ttft:sift"),
        (("--methods", ""), "there is no method '\"\"': use some of base, rag:sift, rag:nearest"),
        (("--protocol", ","), "there is no protocol '\",\"': use some of document, continuation"),
        (("--k", ""), "--k takes a number of documents"),
        (("--retriever", "mine"), "'mine' is not NAME=module:OBJECT"),
        (("--chain", "api=no_such_module:chain"), "no_such_module"),
        (("--leaks", "never"), "report, exclude, ignore"),
        (("--settings", "no-such-file.json"), "no-such-file.json"),
        (("--corpus", "somewhere"), "either --store"),
        (("--collection", "nowhere"), "has no collection 'nowhere'"),
    ],
)
def test_a_mistake_in_an_option_of_compare_is_one_line(  # noqa: PLR0917 - fixtures
    more: tuple[str, ...],
    message: str,
    indexed: Path,
    prompts: Path,
    tiny_model_path: Path,
    tmp_path: Path,
) -> None:
    result = compare_store(indexed, prompts, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_brackets_in_an_error_are_no_markup(tmp_path: Path) -> None:
    missing = tmp_path / "nope[draft]" / "[/x]"
    result = CliRunner().invoke(app, ["report", str(missing)])
    assert result.exit_code == 2
    assert "nope[draft]/[/x]" in "".join(result.stderr.split())


@pytest.mark.parametrize(
    ("code", "message"), [("def broken(:", "invalid syntax"), ("1 / 0", "division by zero")]
)
def test_a_module_that_cannot_be_imported_is_named(  # noqa: PLR0917 - fixtures
    code: str,
    message: str,
    corpus: Path,
    prompts: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"broken_{message.split(maxsplit=1)[0]}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    more = ("--embeddings", f"{name}:Thing")
    result = run(corpus, prompts, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.slow
def test_compare_and_explain_use_calibrated_settings(
    indexed: Path, prompts: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "new folder" / "settings.json"
    command = ["calibrate", "--store", indexed, "--model", tiny_model_path, "--out", file]
    command += ["--prompts", "4", "--k", "3", "--lora-rank", "4", "--max-length", "32"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "chosen: λ' =" in result.stdout
    tuned = json.loads(result.stdout.splitlines()[-1])["settings"]["fine_tuning"]
    printed = {**tuned, **tuned["selection"]}
    again = CliRunner().invoke(app, list(map(str, command)))
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    out = tmp_path / "report"
    more = ("--settings", str(file), "--methods", "ttft:sift")
    compared = compare_store(indexed, prompts, tiny_model_path, out, *more)
    assert compared.exit_code == 0, compared.output
    settings = json.loads((out / "run.json").read_text())
    assert settings["k"] == [printed["k"]]
    for name in ("noise_variance", "learning_rate", "lora_rank", "max_length", "fetch_k"):
        assert settings[name] == printed[name]
    command = ["explain", "rice", "--store", indexed, "--settings", file, "--json"]
    explained = CliRunner().invoke(app, [*map(str, command), "--k", "2"])
    assert explained.exit_code == 0, explained.output
    choice = json.loads(explained.stdout)
    assert choice["noise_variance"] == printed["noise_variance"]
    assert len(choice["sift"]) == 2


@pytest.mark.parametrize("where", ["corpus.jsonl/out", "n" * 300, "folder/" + "n" * 300])
def test_an_unwritable_path_is_reported_before_the_work(
    where: str, corpus: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / where
    compared = run(corpus, prompts, Path("never/loaded"), out)
    command = ["calibrate", "--store", "somewhere", "--model", "never/loaded", "--out", str(out)]
    for result in (compared, CliRunner().invoke(app, command)):
        assert result.exit_code == 2, result.output
        message = "".join(result.stderr.split())
        assert "".join(str(out).split()) in message
        assert "Traceback" not in result.output
        assert "never/loaded" not in message


@pytest.mark.slow
def test_calibrated_settings_that_cannot_be_saved_are_printed(
    indexed: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ArgumentError("settings.json cannot be written: No space left on device")

    monkeypatch.setattr(CalibratedSettings, "save", full)
    command = ["calibrate", "--store", indexed, "--model", tiny_model_path, "--prompts", "2"]
    command += ["--k", "1", "--lora-rank", "4", "--max-length", "16", "--out", tmp_path / "s.json"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    printed = json.loads(result.stdout.splitlines()[-1])["settings"]["fine_tuning"]
    assert printed["selection"]["k"] == 1
    assert list(tmp_path.glob("s.json")) == []


@pytest.mark.slow
def test_the_default_model_is_that_of_the_settings_and_another_is_noted(
    indexed: Path, prompts: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    selection = CalibratedSelection(0.3, 2, 20)
    tuned = CalibratedFineTuning(selection, 1e-3, 4, 8.0, 32, "org/name", "document", 0)
    saved = CalibratedSettings(fine_tuning=tuned)
    saved.save(file)
    command = ["compare", "--store", indexed, "--prompts", prompts, "--settings", file]
    command += ["--methods", "ttft:sift", "--out", tmp_path / "report"]
    unknown = CliRunner().invoke(app, list(map(str, command)))
    assert unknown.exit_code == 2
    assert "org/name" in unknown.stderr
    result = CliRunner().invoke(app, [*map(str, command), "--model", str(tiny_model_path)])
    assert result.exit_code == 0, result.output
    assert "calibrated with org/name" in result.stderr
    run = json.loads((tmp_path / "report" / "run.json").read_text())
    assert (run["lora_alpha"], run["lora_rank"], run["k"]) == (8.0, 4, [2])
    local = replace(tuned, model=str(tiny_model_path))
    CalibratedSettings(fine_tuning=local).save(file, overwrite=True)
    command[-1] = tmp_path / "other"
    named = CliRunner().invoke(app, [*map(str, command), "--lora-rank", "2"])
    assert named.exit_code == 0, named.output
    run = json.loads((tmp_path / "other" / "run.json").read_text())
    assert (run["lora_alpha"], run["lora_rank"]) == (2.0, 2)


@pytest.mark.slow
def test_leaking_prompts_are_reported_or_excluded(
    indexed: Path, texts: list[str], tiny_model_path: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    stored = [{"text": text} for text in texts[:3]]
    lines = [{"text": "rice grows in wet fields"}, {"text": "wheat does not"}, *stored]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for leaks, message in (
        ("report", "prompts. --leaks exclude leaves them out."),
        ("exclude", "prompts; they are excluded. report:"),
    ):
        out = tmp_path / leaks
        more = ("--methods", "base", "--leaks", leaks)
        result = compare_store(indexed, prompts, tiny_model_path, out, *more)
        assert result.exit_code == 0, result.output
        said = f"leaks: the store contains the scored text of 3 of 5 {message}"
        assert said in " ".join(result.stderr.split())


@pytest.mark.slow
def test_rows_without_a_result_are_reported_with_their_reasons(
    indexed: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "word"}\n{"text": "rice grows in wet fields"}\n')
    more = ("--protocol", "continuation", "--methods", "rag:sift", "--k", "2")
    result = compare_store(indexed, prompts, tiny_model_path, tmp_path / "report", *more)
    assert result.exit_code == 0, result.output
    assert "rows without a result: 2 of 4" in result.stderr
    assert "  2 x ArgumentError: the text is a single word" in result.stderr
    assert "continuation: " in result.stderr


@pytest.mark.parametrize(("terminal", "printed"), [(True, ""), (False, '{"λ": 1}\n')])
def test_a_terminal_shows_no_json(
    *,
    terminal: bool,
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    echo_for_programs({"λ": 1})
    assert capsys.readouterr().out == printed


def test_a_store_that_does_not_exist_is_reported_before_the_model_is_loaded(
    tmp_path: Path, questions: Path
) -> None:
    result = compare_store(tmp_path / "none", questions, tmp_path / "no-model", tmp_path / "out")
    assert result.exit_code == 2
    assert "no-model" not in result.stderr.rpartition("error:")[2]


def test_an_interrupt_during_the_imports_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'rich.console': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from langchain_sift.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_commands_do_not_ask_for_the_kernels_of_bitsandbytes() -> None:
    code = (
        "import sys; from langchain_sift.__main__ import main; sys.argv = ['', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "import bitsandbytes"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "index" in done.stdout
    assert "pip install kernels" not in done.stderr
