"""`compare --protocol retrieval` works from files, without a model, and sets the exit code."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from langchain_sift.cli import app
from langchain_sift.cli.sources import CorpusSource
from langchain_sift.comparison.run_folder import RunFolder

pytestmark = pytest.mark.slow

EMBEDDINGS = """
import zlib
import numpy as np
from langchain_core.embeddings import Embeddings


class Words(Embeddings):
    def embed_query(self, text):
        vectors = [
            np.random.default_rng(zlib.crc32(word.encode())).normal(size=32)
            for word in text.lower().split()
        ]
        return np.sum(vectors, axis=0).tolist()

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]
"""
DOCUMENTS = {
    "d1": ("Bread", "is sold near the bridge"),
    "d2": ("", "clocks need a dry place"),
    "d3": ("Maps", "were brought by ship"),
    "d4": ("Iron", "was taxed by the king"),
}
QUERIES = {"q1": "bread near the bridge", "q2": "a dry place for clocks", "q3": "ships", "q4": "?"}
QRELS = [("q1", "d1", 2), ("q1", "d4", 0), ("q2", "d2", 1), ("q2", "d9", 1)]


def lines(objects: list[dict[str, object]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in objects)


@pytest.fixture
def beir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a test collection in the format of BEIR, next to a module with embeddings."""
    (tmp_path / "own_words.py").write_text(EMBEDDINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": key, "title": title, "text": text, "metadata": {}}
        for key, (title, text) in DOCUMENTS.items()
    ]
    (folder / "corpus.jsonl").write_text(lines(documents))
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text(lines(queries))
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    (folder / "qrels" / "train.tsv").write_text(f"{rows[0]}\nq3\td3\t1\n")
    return folder


def run(*arguments: object) -> Result:
    common = ["compare", "--protocol", "retrieval", "--embeddings", "own_words:Words", "--k", "1,3"]
    return CliRunner().invoke(app, [*common, *map(str, arguments)])


def printed(result: Result) -> dict[str, object]:
    return json.loads(result.stdout.splitlines()[-1])


def test_a_beir_folder_is_indexed_and_measured(beir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("--corpus", beir, "--prompts", beir, "--out", out)
    assert result.exit_code == 0, result.output
    report = printed(result)
    assert (report["prompts"], report["metrics"][0]) == (2, "ndcg")
    assert list(report["methods"]) == ["nearest", "mmr", "sift"]
    scores = report["by_k"]["3"]["nearest"]["scores"]
    assert scores["hit"] == 1.0
    assert scores["recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert "1 of 3 relevant documents, of 1 prompt, are not in the store (d9)" in result.stdout
    (note,) = report["notes"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert note in html.unescape(page)
    assert note in (out / "report.md").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    chosen = {document["id"] for row in rows for document in row["chosen"]}
    assert chosen <= set(DOCUMENTS)
    texts = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    assert {"id": "d1", "text": "Bread\nis sold near the bridge"} in texts
    other = run("--corpus", beir, "--prompts", beir, "--qrels", beir / "qrels" / "train.tsv",
                "--out", tmp_path / "train")  # fmt: skip
    assert printed(other)["prompts"] == 1


def test_qrels_of_trec_and_a_table_of_queries_give_the_same(beir: Path, tmp_path: Path) -> None:
    queries, qrels = tmp_path / "queries.tsv", tmp_path / "qrels.txt"
    queries.write_text("".join(f"{key}\t{text}\n" for key, text in QUERIES.items()))
    qrels.write_text("".join(f"{query} 0 {key} {grade}\n" for query, key, grade in QRELS))
    labelled = tmp_path / "labelled.jsonl"
    relevant = {"q1": {"d1": 2, "d4": 0}, "q2": ["d2", "d9"]}
    objects = [{"id": key, "question": QUERIES[key], "relevant": relevant[key]} for key in relevant]
    labelled.write_text(lines(objects))
    reports = [
        printed(run("--corpus", beir, *arguments, "--out", tmp_path / f"out-{number}"))
        for number, arguments in enumerate(
            [
                ("--prompts", beir),
                ("--prompts", queries, "--qrels", qrels),
                ("--prompts", labelled),
            ]
        )
    ]
    scores = [report["methods"]["sift"]["scores"] for report in reports]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (("ndcg@1<0.01", "nearest:recall>0.9"), 0),
        (("ndcg@1<0.01", "nearest:recall@3<0.9"), 1),
        (("alpha_ndcg<0.1",), 1),
    ],
)
def test_a_condition_sets_the_exit_code(
    conditions: tuple[str, ...], code: int, beir: Path, tmp_path: Path
) -> None:
    options = [part for condition in conditions for part in ("--fail-if", condition)]
    result = run("--corpus", beir, "--prompts", beir, "--out", tmp_path / "out", *options)
    assert result.exit_code == code, result.output
    assert (tmp_path / "out" / "report.html").exists()
    assert printed(result).get("failed", []) == [
        line.removeprefix("failed: ")
        for line in result.stderr.splitlines()
        if line.startswith("failed: ")
    ]
    assert ("failed" in printed(result)) is bool(code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fail-if", "ndgc<0.4"), "did you mean 'ndcg'"),
        (("--fail-if", "ndcg@10<0.4"), "add 10 to --k"),
        (("--methods", "neerest"), "did you mean nearest"),
        (("--methods", "base"), "'base' chooses no documents"),
        (("--qrels", "nowhere.tsv"), "nowhere.tsv: cannot be read"),
    ],
)
def test_a_mistake_is_reported_before_the_work(
    arguments: tuple[str, ...], message: str, beir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("--corpus", beir, "--prompts", beir, "--out", out, *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (out / "chroma").exists()


def test_embeddings_are_needed_without_a_model(beir: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--protocol", "retrieval", "--corpus", beir, "--prompts", beir]
    result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--embeddings" in result.stderr


@pytest.mark.slow
def test_pytorch_is_not_loaded(beir: Path, tmp_path: Path) -> None:
    program = """
import sys
from langchain_sift.__main__ import main
try:
    main()
finally:
    print({"torch", "transformers"} & {*sys.modules}, file=sys.stderr)
"""
    arguments = ["compare", "--protocol", "retrieval", "--embeddings", "own_words:Words",
                 "--corpus", beir, "--prompts", beir, "--out", tmp_path / "out"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["best"] in {"nearest", "mmr", "sift"}
    assert done.stderr.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--out": ""}, "a path is empty"),
        ({"--prompts": ""}, "a path is empty"),
        ({"--corpus": ""}, "a path is empty"),
        ({"--protocol": ""}, "there is no protocol '\"\"': use some of document"),
        ({"--out": "mine"}, "mine holds no comparison, .*: prompts.jsonl: name another folder"),
    ],
)
def test_nothing_is_written_into_a_folder_that_was_not_meant(
    beir: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prompts.jsonl").write_text(lines([{"text": "bread"}]))
    before = sorted(tmp_path.rglob("*"))
    options = {"--corpus": beir, "--prompts": beir, "--out": "out", **changes}
    result = run(*(part for pair in options.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rows", [False, True])
def test_an_interrupt_names_the_rows_that_are_kept(
    beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, rows: bool
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    target = (RunFolder, "add") if rows else (CorpusSource, "open")
    add = RunFolder.add
    monkeypatch.setattr(*target, lambda *given: (rows and add(*given), interrupt()))
    result = run("--corpus", beir, "--prompts", beir, "--out", "out[1]")
    assert result.exit_code == 130
    kept = "; continue with --resume: the rows so far are in out[1]" if rows else ""
    assert result.stderr.splitlines()[-1] == f"interrupted{kept}"
    assert (tmp_path / "out[1]").exists() == rows
    if rows:
        monkeypatch.setattr(RunFolder, "add", add)
        resumed = run("--corpus", beir, "--prompts", beir, "--out", "out[1]", "--resume")
        assert resumed.exit_code == 0, resumed.output


def test_a_file_of_a_folder_that_is_left_out_is_noted(beir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "q.jsonl").write_text(lines([{"question": "bread", "answers": ["bridge"]}]))
    arguments = ("--corpus", beir, "--prompts", folder, "--out", "out", "--methods", "nearest,mmr")
    assert "note:" not in run(*arguments).stderr
    (folder / "urls.txt").write_text("https://e.org\n")
    noted = run(*arguments, "--resume").stderr
    assert "note: the prompts are those of the .jsonl files, without urls.txt: name" in noted
