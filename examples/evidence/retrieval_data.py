"""Read the collections of the retrieval evidence, and embed their texts.

The collections are not part of this project: CISI (University of Glasgow), the evidence sentences
of MultiHop-RAG (arXiv 2401.15391, ODC-BY), the English part of XQuAD (arXiv 1910.11856), and texts
of 13 kinds (`README.md` in this folder).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from langchain_core.embeddings import Embeddings

SENTENCES = 3
"""Sentences of a chunk of XQuAD; neighbouring chunks share all but one."""
TEXTS_OF_A_KIND = 25
PARTS = 4
COPIES = 5
"""Rows of each document in the stores with copies."""
FILLERS = ("also", "indeed", "however", "thus", "moreover")


@dataclass(frozen=True)
class Query:
    """A query and the groups of documents that answer it: one group for each part."""

    text: str
    relevant: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Collection:
    """Documents by id, queries, and the metric that the collection is judged by."""

    name: str
    documents: Mapping[str, str]
    queries: tuple[Query, ...]
    metric: str
    """"ndcg", "recall" or "found": the share of a query's parts that a document answers."""


def read_collections(data: Path) -> list[Collection]:
    """Read all collections, and derive those with copies and with two questions in one text."""
    cisi = _read(data / "retrieval", "cisi", "ndcg")
    multihop = _read(data / "retrieval", "multihop", "recall")
    xquad = _xquad(data / "xquad" / "xquad.en.json")
    two = _two_questions(xquad)
    return [
        cisi,
        multihop,
        xquad,
        _kinds(data / "minipile"),
        two,
        *(_with_copies(each, alter=alter) for alter in (False, True) for each in (xquad, two)),
    ]


def _read(folder: Path, name: str, metric: str) -> Collection:
    documents = {row["id"]: row["text"] for row in _rows(folder / f"{name}.documents.jsonl.gz")}
    queries = [
        Query(row["question"], (frozenset(map(str, row["relevant"])),))
        for row in _rows(folder / f"{name}.queries.jsonl.gz")
        if row["relevant"]
    ]
    return Collection(name, documents, tuple(queries), metric)


def _rows(file: Path) -> list[dict[str, object]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def chunks_of(text: str) -> list[str]:
    """Split a text into overlapping chunks of three sentences."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    starts = range(max(1, len(sentences) - SENTENCES + 1))
    return [" ".join(sentences[start : start + SENTENCES]) for start in starts]


def _xquad(file: Path) -> Collection:
    """Split the paragraphs into overlapping chunks; a chunk with the answer is relevant."""
    documents: dict[str, str] = {}
    queries = []
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    for number, paragraph in enumerate(p for article in articles for p in article["paragraphs"]):
        parts = chunks_of(paragraph["context"])
        chunks = {f"{number}-{start}": part for start, part in enumerate(parts)}
        documents |= chunks
        for question in paragraph["qas"]:
            answer = question["answers"][0]["text"]
            relevant = frozenset(key for key, chunk in chunks.items() if answer in chunk)
            if relevant:
                queries.append(Query(question["question"], (relevant,)))
    return Collection("xquad", documents, tuple(queries[::3]), "found")


def read_medline(folder: Path) -> Collection:
    """Read the collection MED of the University of Glasgow: MED.ALL, MED.QRY and MED.REL."""
    relevant: dict[str, set[str]] = {}
    for line in (folder / "MED.REL").read_text(encoding="latin-1").splitlines():
        query, _, document, *_ = line.split()
        relevant.setdefault(query, set()).add(document)
    queries = [
        Query(text, (frozenset(relevant[key]),))
        for key, text in _entries(folder / "MED.QRY").items()
    ]
    return Collection("med", _entries(folder / "MED.ALL"), tuple(queries), "ndcg")


def _entries(file: Path) -> dict[str, str]:
    """Return the texts of a file by number; ".I" starts an entry and ".W" its text."""
    parts = re.split(r"^\.I ", file.read_text(encoding="latin-1"), flags=re.MULTILINE)[1:]
    return {
        part.split()[0]: " ".join(
            re.split(r"^\.W", part, maxsplit=1, flags=re.MULTILINE)[1].split()
        )
        for part in parts
    }


def _kinds(folder: Path) -> Collection:
    """Cut texts of 13 kinds into four parts; the first is a query for the other three."""
    documents: dict[str, str] = {}
    queries = []
    for file in sorted(folder.glob("*.jsonl.gz")):
        by_source = {row["source"]: row for row in _rows(file) if row["split"] == "memory"}
        for row in list(by_source.values())[:TEXTS_OF_A_KIND]:
            words = str(row["text"]).split()
            length = -(-len(words) // PARTS)
            first, *others = (
                " ".join(words[start : start + length]) for start in range(0, len(words), length)
            )
            parts = {f"{row['id']}-{number}": part for number, part in enumerate(others, start=1)}
            documents |= parts
            queries.append(Query(first, (frozenset(parts),)))
    return Collection("13 kinds", documents, tuple(queries), "ndcg")


def _two_questions(collection: Collection) -> Collection:
    """Join each question with one about another article."""
    queries = collection.queries
    half = len(queries) // 2
    joined = tuple(
        Query(f"{one.text} {other.text}", one.relevant + other.relevant)
        for one, other in zip(queries, queries[half:] + queries[:half], strict=True)
    )
    return Collection(f"{collection.name}, two questions", collection.documents, joined, "found")


def _with_copies(collection: Collection, *, alter: bool) -> Collection:
    """Store each document several times; with `alter`, each copy with two words changed."""
    rng = random.Random(0)
    documents = {
        f"{key}/{copy}": _altered(text, rng) if alter else text
        for key, text in collection.documents.items()
        for copy in range(COPIES)
    }
    queries = tuple(
        Query(
            query.text,
            tuple(
                frozenset(f"{key}/{copy}" for key in group for copy in range(COPIES))
                for group in query.relevant
            ),
        )
        for query in collection.queries
    )
    kind = "altered" if alter else "exact"
    return Collection(f"{collection.name}, {kind} copies", documents, queries, collection.metric)


def _altered(text: str, rng: random.Random) -> str:
    words = text.split()
    for _ in range(2):
        position = rng.randrange(len(words))
        if len(words) > 5 and rng.random() < 0.5:
            del words[position]
        else:
            words.insert(position, rng.choice(FILLERS))
    return " ".join(words)


def embed(
    name: str,
    load: Callable[[], Embeddings],
    texts: Sequence[str],
    folder: Path,
    *,
    queries: bool,
) -> np.ndarray:
    """Embed texts, shape (n, d), unit norm; each list is embedded once and kept in the folder.

    Args:
        name: Name of the embeddings, for the file.
        load: Loads them.
        texts: The texts.
        folder: The folder to keep the vectors in.
        queries: If True, the texts are queries.
    """
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    file = folder / f"{name}-{digest}-{'queries' if queries else 'documents'}.npy"
    if not file.exists():
        embeddings = load()
        rows = (
            [embeddings.embed_query(text) for text in texts]
            if queries
            else embeddings.embed_documents(list(texts))
        )
        vectors = np.asarray(rows, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, vectors)
    return np.load(file).astype(np.float64)
