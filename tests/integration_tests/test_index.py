"""`index` survives kills, and keeps the texts of tenants apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_sift import SIFTRetriever
from langchain_sift.indexing.chroma_collections import open_collection
from langchain_sift.indexing.file_runs import FileSettings, index_files
from langchain_sift.indexing.origins import Origin

KILLS = 20


def test_after_a_kill_the_next_run_reaches_the_same_state(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_index.py")
    command = [sys.executable, str(script), str(tmp_path), str(KILLS)]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert printed["same"] == KILLS
    assert printed["rows"] == 600


class Drawn(Embeddings):
    """A vector drawn for each text."""

    def embed_query(self, text: str) -> list[float]:
        return np.random.default_rng(list(text.encode())).standard_normal(16).tolist()  # type: ignore[no-any-return]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def test_each_of_two_tenants_finds_all_of_its_own_and_nothing_else(tmp_path: Path) -> None:
    shared = [f"Shared paragraph {n}." for n in range(1000)]
    own = {tenant: [f"Paragraph {n} of {tenant}." for n in range(1500)] for tenant in "ab"}
    store = str(tmp_path / "store")
    for tenant in "ab":
        file = tmp_path / f"{tenant}.jsonl"
        rows = [{"text": text, "source": "handbook"} for text in [*shared, *own[tenant]]]
        file.write_text("\n".join(map(json.dumps, rows)))
        settings = FileSettings(origin=Origin("tenant", tenant))
        run = index_files(store, "documents", [file], "own:E", lambda _: Drawn(), settings)
        assert run.changes.added == 2500
    opened = open_collection(store, "documents", lambda _: Drawn())
    for tenant in "ab":
        retriever = SIFTRetriever(
            vectorstore=opened,
            search_type="similarity",
            search_kwargs={"k": 1, "fetch_k": 8, "filter": {"tenant": tenant}},
        )
        queries = [*shared, *own[tenant]]
        found = [document for batch in retriever.batch(queries) for document in batch]
        assert [document.page_content for document in found] == queries
        assert {document.metadata["tenant"] for document in found} == {tenant}
