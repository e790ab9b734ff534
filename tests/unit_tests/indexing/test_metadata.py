"""Metadata of any loader are stored in a form that can be filtered."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from uuid import UUID, uuid4

import chromadb
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing import loaders
from langchain_sift.indexing.formats import Reading
from langchain_sift.indexing.metadata import MOST_VALUES, storable
from langchain_sift.indexing.row_requests import write_rows


def test_values_of_loaders_are_kept() -> None:
    values = {
        "day": date(2024, 5, 1),
        "moment": datetime(2024, 5, 1, 10),
        "hour": time(10),
        "price": Decimal("1.50"),
        "path": PurePosixPath("a/b"),
        "id": UUID(int=1),
        "length": timedelta(hours=1),
        "whole": np.int64(3),
        "part": np.float32(0.5),
        "tags": {"b", "a"},
        "days": (date(2024, 5, 1),),
        "mixed": [np.float64(0.5), 1],
    }
    assert storable(values) == {
        "day": "2024-05-01",
        "moment": "2024-05-01T10:00:00",
        "hour": "10:00:00",
        "price": "1.50",
        "path": "a/b",
        "id": "00000000-0000-0000-0000-000000000001",
        "length": "1:00:00",
        "whole": 3,
        "part": 0.5,
        "tags": ["a", "b"],
        "days": ["2024-05-01"],
        "mixed": [0.5, 1.0],
    }
    # The texts of other objects may change from run to run.
    assert storable({"object": object(), "bytes": b"x", "none": None, "nan": np.nan}) == {}


def test_the_dates_of_a_loader_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document("rice", metadata={"sent": datetime(2024, 5, 1)})
    own = SimpleNamespace(load=lambda _: [document])
    monkeypatch.setattr(loaders, "import_object", lambda _: own.load)
    reader = loaders.readers_with([".msg=own:load"])[".msg"]
    (record,) = reader(Path("a.msg"), Reading())
    assert record.fields == {"sent": "2024-05-01", "sent_timestamp": 1714521600}


def test_metadata_that_would_break_a_store_are_texts_or_refused() -> None:
    """Chroma accepts a row with 6,000 values, and then no request to any row succeeds."""
    notes: list[str] = []
    row = {"vector": [0.5] * 3000, "other": ["a"] * 2000, "few": [1, 2], "n": 1}
    stored = storable(row, notes.append)
    assert json.loads(str(stored["vector"])) == row["vector"]
    assert (stored["other"], stored["few"]) == (row["other"], [1, 2])
    assert notes == ["the list 'vector' is too long for a filter: it is stored as text"]
    almost = storable({"vector": [1] * (MOST_VALUES - 4)})  # a chunk has five fields more
    assert isinstance(almost["vector"], str)
    with pytest.raises(CorpusError, match="5000 fields"):
        storable({f"key {n}": n for n in range(5000)})
    collection = chromadb.EphemeralClient().create_collection(f"values-{uuid4()}")
    vectors = {"rice": [1.0]}
    most = Document("rice", id="a", metadata={"l": [1] * (MOST_VALUES - 1), "n": 1})
    write_rows(collection, [most], vectors)
    assert collection.get()["ids"] == ["a"]
    more = Document("rice", id="b", metadata={"l": [1] * (MOST_VALUES + 1)})
    with pytest.raises(ArgumentError, match=r"'b' have 4097 values"):
        write_rows(collection, [more], vectors)
