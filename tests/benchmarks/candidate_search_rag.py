"""Measure how often the answer is in the context, for one question and for two at once.

    python tests/benchmarks/candidate_search_rag.py --questions FILE --encoder NAME --out FILE

FILE is in the format of SQuAD v1.1. Its paragraphs are split into overlapping windows of three
sentences, as text splitters do, so that a fact stands in up to three chunks. Counted is the share
of questions for which a chunk of the question's own paragraph that holds the answer is among the
k retrieved.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import torch
from benchmarks.candidate_search import Encoder
from langchain_chroma import Chroma

from langchain_sift import SIFTRetriever

METHODS: dict[str, dict[str, Any]] = {
    "nearest neighbours": {"search_type": "similarity"},
    "MMR": {"search_type": "mmr"},
    "SIFT, nearest": {},
    "SIFT, residual": {"candidate_search": "residual"},
    "SIFT, exhaustive": {"candidate_search": "exhaustive"},
}
NOISE_VARIANCES = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    paragraph: int


def main() -> None:
    arguments = _arguments()
    encode = Encoder(arguments.encoder, arguments.cache)
    paragraphs, questions = read(arguments.questions)
    step = max(1, len(questions) // arguments.count)
    questions = questions[::step][: arguments.count]
    store, chunks = fill(paragraphs, encode)
    alone = encode("questions", [question.text for question in questions])
    partners = np.roll(np.arange(len(questions)), len(questions) // 2)
    both = encode(
        "pairs",
        [f"{q.text} {questions[p].text}" for q, p in zip(questions, partners, strict=True)],
    )
    pairs = [(questions[place], questions[partners[place]]) for place in range(len(questions))]
    one = [((question,), alone[place][None]) for place, question in enumerate(questions)]
    two = [(pair, both[place][None]) for place, pair in enumerate(pairs)]
    split = [
        (pair, alone[[place, partners[place]]]) for place, pair in enumerate(pairs)
    ]  # as a `query_splitter` would
    result = {
        "one question": measure(store, chunks, one, k=5),
        "two questions, one vector": measure(store, chunks, two, k=6),
        "two questions, two vectors": measure(store, chunks, split, k=6),
    }
    arguments.out.write_text(
        json.dumps(
            {
                "command": arguments.command,
                "commit": arguments.commit,
                "date": time.strftime("%Y-%m-%d"),
                "questions": len(questions),
                "chunks": len(chunks),
                "standard_error_at_one_half": round(0.5 / len(questions) ** 0.5, 3),
                "results": result,
            },
            indent=1,
        )
        + "\n"
    )


def measure(
    store: Chroma,
    chunks: dict[str, tuple[int, str]],
    asked: list[tuple[tuple[Question, ...], np.ndarray]],
    *,
    k: int,
) -> dict[str, dict[str, float]]:
    """Return the share of answered questions and the number of paragraphs, for each method."""
    found = {}
    for name, settings in METHODS.items():
        call = {key: value for key, value in settings.items() if key != "search_type"}
        search_type = settings.get("search_type", "sift")
        retriever = SIFTRetriever(vectorstore=store, k=k, search_type=search_type)
        for noise_variance in NOISE_VARIANCES if search_type == "sift" else (0.01,):
            answered, paragraphs = [], []
            for questions, vectors in asked:
                retrieval = retriever.retrieve_by_vectors(
                    vectors, noise_variance=noise_variance, **call
                )
                ids = [choice.id for choice in retrieval.choices]
                answered += [_answers(chunks, ids, question) for question in questions]
                paragraphs.append(len({chunks[str(id_)][0] for id_ in ids}))
            label = f"{name}, λ' = {noise_variance}" if search_type == "sift" else name
            print(label, np.mean(answered), flush=True)  # noqa: T201 - it takes minutes
            found[label] = {
                "answered": float(np.mean(answered)),
                "paragraphs": float(np.mean(paragraphs)),
            }
    return found


def _answers(chunks: dict[str, tuple[int, str]], ids: list[str | None], question: Question) -> bool:
    return any(
        chunks[str(id_)][0] == question.paragraph and question.answer in chunks[str(id_)][1]
        for id_ in ids
    )


def read(path: Path) -> tuple[list[str], list[Question]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs, questions = [], []
    for article in articles:
        for paragraph in article["paragraphs"]:
            questions += [
                Question(asked["question"], asked["answers"][0]["text"], len(paragraphs))
                for asked in paragraph["qas"]
            ]
            paragraphs.append(paragraph["context"])
    return paragraphs, questions


def fill(paragraphs: list[str], encode: Encoder) -> tuple[Chroma, dict[str, tuple[int, str]]]:
    """Return a store of windows of three sentences, and for each id its paragraph and text."""
    chunks = {}
    for number, paragraph in enumerate(paragraphs):
        sentences = re.split(r"(?<=[.!?]) ", paragraph)
        for start in range(max(1, len(sentences) - 2)):
            text = " ".join(sentences[start : start + 3])
            chunks[f"{number}-{start}"] = (number, text)
    store = Chroma(client=chromadb.EphemeralClient(), collection_name=f"chunks-{uuid.uuid4()}")
    texts = [text for _, text in chunks.values()]
    store._collection.add(
        ids=list(chunks), documents=texts, embeddings=list(encode("chunks", texts))
    )
    return store, chunks


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/vectors"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    arguments.command = f"python tests/benchmarks/candidate_search_rag.py --count {arguments.count}"
    torch.set_num_threads(1)
    return arguments


if __name__ == "__main__":
    main()
