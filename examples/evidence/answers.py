"""Measure which chunks serve a small chat model: the choice, their number and their order.

    python examples/evidence/answers.py --data xquad.en.json --model FOLDER --gguf FILE \
        --embeddings FOLDER --rows rows.jsonl --out examples/evidence/answers.json

The model answers questions of XQuAD from overlapping chunks of three sentences. Rows are written at
once, and a run goes on from them. FOLDER with FILE is a GGUF file that transformers can read.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from retrieval import compared
from retrieval_data import chunks_of

from langchain_sift.report.metrics import contains_answer, token_f1
from langchain_sift.selection import nearest_neighbors, select

QUESTIONS = 220
TOGETHER = 3  # questions that are answered in one batch
TOKENS = 24
PROMPT = "Use these documents to answer.\n\n{context}\n\n{question}"
BASELINE = "nearest, k = 5"

Answer = Callable[[Sequence[str]], list[str]]
"""Answer prompts, each by itself."""


@dataclass(frozen=True)
class Question:
    """A question with its answer, and the chunks that contain it."""

    id: str
    text: str
    answer: str
    chunks: frozenset[int]


def read(file: Path) -> tuple[list[str], list[Question]]:
    """Return all chunks, and a random sample of the questions that a chunk answers."""
    texts: list[str] = []
    questions = []
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    for paragraph in (p for article in articles for p in article["paragraphs"]):
        first = len(texts)
        texts += chunks_of(paragraph["context"])
        for question in paragraph["qas"]:
            answer = question["answers"][0]["text"]
            rows = range(first, len(texts))
            found = frozenset(row for row in rows if answer in texts[row])
            number = str(len(questions))
            questions.append(Question(number, question["question"], answer, found))
    return texts, random.Random(0).sample([each for each in questions if each.chunks], QUESTIONS)


def choices(query: np.ndarray, rows: np.ndarray) -> Mapping[str, list[int]]:
    """Return the chunks of each method, in the order of the prompt."""
    nearest = nearest_neighbors(query, rows, k=200).indices
    near = rows[nearest]

    def sift(noise_variance: float) -> list[int]:
        indices = select(query, near, k=5, noise_variance=noise_variance).indices
        return nearest[indices].tolist()

    chosen = sift(10.0)
    return {
        "nearest, k = 1": nearest[:1].tolist(),
        BASELINE: nearest[:5].tolist(),
        "sift, λ' = 10, k = 5": chosen,
        "sift, λ' = 10, k = 5, best last": chosen[::-1],
        "sift, λ' = 0.01, k = 5": sift(0.01),
    }


def load(model: str, gguf: str) -> Answer:
    """Return a function that answers prompts greedily, in bfloat16."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model, gguf_file=gguf, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    network = AutoModelForCausalLM.from_pretrained(model, gguf_file=gguf, dtype=torch.bfloat16)

    def answer(prompts: Sequence[str]) -> list[str]:
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
            for prompt in prompts
        ]
        ids = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            answers = network.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        return tokenizer.batch_decode(
            answers[:, ids["input_ids"].shape[1] :], skip_special_tokens=True
        )

    return answer


def rows_of(
    questions: Sequence[Question], queries: np.ndarray, texts: Sequence[str], rows: np.ndarray
) -> list[tuple[Question, str, list[int], str]]:
    """Return the question, the method, the chunks and the prompt of each row."""
    planned = []
    for question, query in zip(questions, queries, strict=True):
        for method, chunks in choices(query, rows).items():
            context = "\n\n".join(texts[row] for row in chunks)
            prompt = PROMPT.format(context=context, question=question.text)
            planned.append((question, method, chunks, prompt))
    return planned


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of each method, on the questions that all methods have answered."""
    by_method: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_method[row["method"]][row["id"]] = row
    ids = sorted(set.intersection(*(set(each) for each in by_method.values())))
    summary: dict[str, dict[str, Any]] = {}
    for method, found in by_method.items():
        summary[method] = {
            metric: compared(_column(found, ids, metric), _column(by_method[BASELINE], ids, metric))
            for metric in ("found", "contained", "f1")
        }
    return {"questions": len(ids), "methods": summary}


def _column(rows: Mapping[str, Mapping[str, Any]], ids: Sequence[str], metric: str) -> np.ndarray:
    return np.array([float(rows[each][metric]) for each in ids])


def main() -> None:
    """Answer the questions that have no row yet, and write the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds

    texts, questions = read(arguments.data)
    encoder = SentenceTransformer(arguments.embeddings, device="cpu")
    documents, queries = (
        encoder.encode(each, normalize_embeddings=True).astype(np.float64)
        for each in (texts, [question.text for question in questions])
    )
    answer = load(arguments.model, arguments.gguf)
    rows = []
    if arguments.rows.exists():
        lines = arguments.rows.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    done = {(row["method"], row["id"]) for row in rows}
    for start in range(0, len(questions), TOGETHER):
        part = slice(start, start + TOGETHER)
        batch = rows_of(questions[part], queries[part], texts, documents)
        batch = [each for each in batch if (each[1], each[0].id) not in done]
        answers = answer([prompt for *_, prompt in batch]) if batch else []
        for (question, method, chunks, _), text in zip(batch, answers, strict=True):
            row = {
                "method": method,
                "id": question.id,
                "found": not question.chunks.isdisjoint(chunks),
                "contained": contains_answer(text, [question.answer]),
                "f1": token_f1(text, [question.answer]),
            }
            rows.append(row)
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(start, file=sys.stderr)
    summary = {"date": datetime.now(UTC).date().isoformat(), **summarize(rows)}
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
