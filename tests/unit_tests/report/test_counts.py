"""A noun is plural for every number but one."""

from __future__ import annotations

import pytest

from langchain_sift.report.counts import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (21, "21 files")]
)
def test_a_number_has_its_noun(number: int, text: str) -> None:
    assert counted(number, "file") == text
