"""Qrels of TREC and of BEIR give the same judgments."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from langchain_sift.comparison.qrels import read_qrels
from langchain_sift.errors import CorpusError

GRADES = {"q1": {"d1": 2, "d 2": 0, "d3": -1}, "q2": {"d1": 1}}


def trec(separator: str) -> str:
    lines = ["q1 0 d1 2", "q1 0 d-2 0", "", "q1 0 d3 -1", "q2 Q0 d1 1"]
    return "\n".join(separator.join(line.split()) for line in lines).replace("d-2", "d 2") + "\n"


@pytest.mark.parametrize(
    "text",
    [
        trec("\t"),
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td 2\t0\nq1\td3\t-1\nq2\td1\t1",
        "q1\td1\t2\r\nq1\td 2\t0\r\nq1\td3\t-1\r\nq2\td1\t1\r\n",
    ],
)
def test_the_formats_agree(tmp_path: Path, text: str) -> None:
    plain, packed = tmp_path / "qrels", tmp_path / "qrels.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_qrels(plain) == read_qrels(packed) == GRADES


def test_spaces_separate_as_well_and_the_highest_grade_counts(tmp_path: Path) -> None:
    file = tmp_path / "qrels.txt"
    file.write_text("q1 1 d1 1\nq1 2 d1 3\nq1 3 d1 0\n")
    assert read_qrels(file) == {"q1": {"d1": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1 1\nq1 d1\n", "line 2: not a line of qrels"),
        ("q1 0 d1 1\nq1 0 d2 good\n", "line 2: not a line of qrels"),
        ("q1 0 d1 1\nq1\t\td2\t1\n", "line 2: not a line of qrels"),
        ("query-id\tcorpus-id\tscore\n", "no judgment"),
        ("", "no judgment"),
    ],
)
def test_a_mistake_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "qrels.txt"
    file.write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_qrels(file)
