"""`calibrate` without a model chooses settings of retrieval, and one file keeps all settings."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from langchain_chroma import Chroma
from typer.testing import CliRunner, Result
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift import CalibratedSettings, SIFTRetriever
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable, TableSettings
from langchain_sift.calibrated_settings import CalibratedFineTuning, CalibratedSelection
from langchain_sift.cli import app
from langchain_sift.cli.calibration_runs import note_modes
from langchain_sift.cli.terminal import Terminal
from langchain_sift.report.rows import ChosenDocument, Row, plain

pytestmark = pytest.mark.slow

EMBEDDINGS = ("--embeddings", "unit_tests.word_embeddings:WordEmbeddings")


@pytest.fixture
def folder(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "store"
    store = Chroma("facts", WordEmbeddings(), persist_directory=str(path))
    store.add_texts(texts, ids=[str(n) for n in range(len(texts))])
    return path


@pytest.fixture
def queries(tmp_path: Path, texts: list[str]) -> Path:
    file = tmp_path / "queries.jsonl"
    rows = [{"question": text[:40], "relevant": [str(n)]} for n, text in enumerate(texts[:20])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def calibrate(folder: Path, out: Path, *more: object) -> Result:
    command = ["calibrate", "--store", folder, "--out", out, *EMBEDDINGS, *more]
    return CliRunner().invoke(app, list(map(str, command)))


def test_labelled_queries_choose_settings_that_the_retriever_and_explain_read(
    folder: Path, queries: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    result = calibrate(folder, file, "--queries", queries, "--k", 4)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "ndcg, on 20 held-out queries" in shown
    assert "chosen: kernel " in shown
    assert "higher is better" in shown
    printed = json.loads(result.stdout.splitlines()[-1])
    chosen = printed["settings"]["retrieval"]
    assert json.loads(file.read_text()) == printed["settings"]
    store = Chroma("facts", WordEmbeddings(), persist_directory=str(folder))
    retriever = SIFTRetriever.from_settings(file, vectorstore=store)
    assert {name: getattr(retriever, name) for name in chosen} == chosen
    command = ["explain", "river", "--store", folder, *EMBEDDINGS, "--settings", file, "--json"]
    explained = json.loads(CliRunner().invoke(app, list(map(str, command))).stdout)
    assert explained["kernel"] == chosen["kernel"]
    assert explained["noise_variance"] == chosen["noise_variance"]
    assert len(explained["sift"]) == chosen["k"]


def test_qrels_and_metrics_are_read(folder: Path, queries: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    lines = [json.loads(line) for line in queries.read_text().splitlines()]
    rows = [{"id": f"q{n}", "question": row["question"]} for n, row in enumerate(lines)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("".join(f"q{n} 0 {n} 1\n" for n in range(20)))
    more = ("--queries", asked, "--qrels", qrels, "--metric", "recall", "--k", 3)
    result = calibrate(folder, tmp_path / "s.json", *more)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["held_out"][0]["kind"] == "recall"


def test_labels_may_name_the_files_of_chunks(tmp_path: Path, texts: list[str]) -> None:
    folder, asked = tmp_path / "chunks", tmp_path / "asked.jsonl"
    store = Chroma("facts", WordEmbeddings(), persist_directory=str(folder))
    store.add_texts(texts, [{"source": f"file{n // 3}"} for n in range(len(texts))])
    rows = [{"question": text[:40], "relevant": [f"file{n // 3}"]} for n, text in enumerate(texts)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--queries", asked, "--label-key", "source", "--k", 2)
    result = calibrate(folder, tmp_path / "s.json", *more)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["held_out"][0]["kind"], printed["queries"]) == ("ndcg", 60)
    assert printed["nearest"][0] > 0.5


def test_without_queries_the_store_makes_them(folder: Path, tmp_path: Path) -> None:
    result = calibrate(folder, tmp_path / "s.json", "--prompts", 12, "--k", 4)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert [kind["kind"] for kind in printed["held_out"]] == ["one sentence", "two sentences"]
    assert (printed["labelled"], printed["queries"]) == (False, 12)
    assert "12 queries are few" in " ".join(result.stdout.split())


def test_a_file_keeps_the_other_calibration_and_replaces_its_own_only_on_demand(
    folder: Path, queries: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    selection = CalibratedSelection(0.3, 2, 20)
    tuned = CalibratedFineTuning(selection, 1e-3, 4, 8.0, 32, "org/name", "document", 0)
    modes = ModeTable((ModeBin(1.0, 5, {"base": ModeFigures(0.0, 1.0)}),))
    CalibratedSettings(fine_tuning=tuned, modes=modes).save(file)
    asked = ("--queries", queries, "--k", 2)
    assert calibrate(folder, file, *asked).exit_code == 0
    saved = CalibratedSettings.load(file)
    assert saved.fine_tuning == tuned
    assert saved.modes == modes
    assert saved.retrieval is not None
    again = calibrate(folder, file, *asked)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert calibrate(folder, file, *asked, "--overwrite").exit_code == 0
    assert CalibratedSettings.load(file) == saved
    CalibratedSettings(saved.retrieval, modes=modes).save(file, overwrite=True)
    replaced = calibrate(folder, file, *asked, "--overwrite")
    assert "the earlier table of modes is left out" in replaced.stderr
    assert CalibratedSettings.load(file) == CalibratedSettings(saved.retrieval)
    file.write_text("notes")
    other = calibrate(folder, file, *asked)
    assert other.exit_code == 2
    assert "--overwrite" in other.stderr
    assert file.read_text() == "notes"
    assert calibrate(folder, file, *asked, "--overwrite").exit_code == 0
    assert CalibratedSettings.load(file) == CalibratedSettings(retrieval=saved.retrieval)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "0.5"), "--share: only for the calibration of fine-tuning"),
        (("--model", "m", "--metric", "ndcg"), "--metric: only for the calibration of retrieval"),
        (("--queries", "none.jsonl"), "none.jsonl"),
        (("--queries", "QUERIES", "--prompts", "5"), "--prompts: all of --queries are used"),
        (
            ("--model", "m", "--queries", "QUERIES", "--protocol", "document"),
            "--protocol: only for documents held out of the store",
        ),
        (("--model", "m", "--share", "0.5", "--minutes", "1"), "give either --share or --minutes"),
        (("--queries", "QUERIES", "--metric", "ndgc"), "did you mean 'ndcg'"),
        (("--k", "0"), "k must be"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    more: tuple[str, ...], message: str, folder: Path, queries: Path, tmp_path: Path
) -> None:
    arguments = [queries if part == "QUERIES" else part for part in more]
    result = calibrate(folder, tmp_path / "s.json", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("method", "more", "context_k"),
    [
        ("rag:sift", (), None),
        ("rag:sift:context_k=1", (), 1),
        ("rag:sift", ("both:sift:context_k=2",), None),
    ],
)
def test_a_table_that_was_measured_with_other_settings_is_named(
    folder: Path, tmp_path: Path, method: str, more: tuple[str, ...], context_k: int | None
) -> None:
    run, out = tmp_path / "run", tmp_path / "settings.json"
    run.mkdir()
    methods = ["base", method]
    described = {
        "protocols": ["qa"],
        "methods": [*methods, *more],
        "model": "m",
        "kernel": "linear",
        "length_scale": 0.5,
        "noise_variance": 0.25,
    }
    (run / "run.json").write_text(json.dumps(described))
    chosen = (ChosenDocument("d", 0.1, 0.5, 1),)
    rows = [
        Row("qa", str(n), "all", name, k=n_k, chosen=chosen[:n_k], scores={"f1": float(n_k)})
        for n in range(4)
        for n_k, name in enumerate(methods)
    ]
    rows += [replace(row, method=name) for row in rows if row.method == method for name in more]
    lines = (json.dumps(plain(asdict(row))) + "\n" for row in rows)
    (run / "results.jsonl").write_text("".join(lines))
    result = calibrate(folder, out, "--modes", run, "--prompts", 12, "--k", 3)
    assert result.exit_code == 0, result.output
    table = CalibratedSettings.load(out).modes
    assert table is not None
    assert table.measured_with == TableSettings(1, 0.25, model="m", context_k=context_k)
    notes = " ".join(result.stderr.split())
    assert "the table of modes was measured on few prompts (4)" in notes
    assert "measure 40 or more" in notes
    assert "measured with k = 1" in notes
    assert "the settings here are k = 3" in notes
    left_out = f"no place for {', '.join(more)}: measure RAG and both"
    assert (left_out in notes) is bool(more)
    assert ("context_k" in notes) is bool(more)
    shown = [line.split() for line in result.stdout.splitlines()]
    assert ["σ", "up", "to", "prompts", "rag", "auto"] in shown
    assert ["0.707", "4", "+1.000", "0", "s", "rag"] in shown  # σ = √0.5


@pytest.mark.parametrize(
    ("mode", "minutes", "notes"), [(None, 1, 1), (None, None, 0), ("rag", 1, 0)]
)
def test_a_search_that_had_no_time_for_the_modes_is_named(
    mode: str | None, minutes: int | None, notes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = CalibratedFineTuning(
        CalibratedSelection(1.0, 6, 30), 1e-3, 4, 4.0, 128, "m", "document", 0, mode=mode
    )
    settings = CalibratedSettings(fine_tuning=tuned)
    note_modes(None, settings, Terminal(stderr=True), timed=minutes is not None)
    assert capsys.readouterr().err.count("no time was left to compare the modes") == notes


def test_a_folder_without_a_comparison_has_no_modes(folder: Path, tmp_path: Path) -> None:
    result = calibrate(folder, tmp_path / "settings.json", "--modes", tmp_path)
    assert result.exit_code != 0
    assert "holds no comparison" in " ".join(result.output.split())
    assert not (tmp_path / "settings.json").exists()
