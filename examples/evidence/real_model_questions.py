"""Measure the answers of a real chat model with RAG, fine-tuning and both, by objective.

    python examples/evidence/real_model_questions.py --data xquad.en.json --model FILE.gguf \
        --embeddings FOLDER --out RUNS --objectives text,distill

    python examples/evidence/real_model_questions.py ... --further \
        --methods base,rag:sift,both:sift

The questions of XQuAD, in the form of SQuAD, are drawn at random, and its paragraphs are the store.
With the objective "answer", the store has the other questions with their answers instead.
"base" and RAG are measured with the first objective, and random documents as a control for the
first `--controls` questions. Parts of a few questions follow each other with all objectives, so
that a run can be stopped at any time. It goes on from the rows in `rows_questions.jsonl`, which
have ids and numbers and no text. Further questions have a file of their own,
`rows_questions_further.jsonl`: they check what was found on the first ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from qa import read

from langchain_sift import FineTuneConfig, SIFTRetriever, compare
from langchain_sift.comparison import Prompt, Row
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.ttft import load_language_model

ROWS = Path(__file__).parent / "rows_questions.jsonl"
FIRST_ROWS = Path(__file__).parent / "rows_questions_first.jsonl"
"""Rows of prompts that have the most informative document first, as the package had it before."""
FURTHER_ROWS = Path(__file__).parent / "rows_questions_further.jsonl"
"""Rows of questions that were drawn after those of `ROWS` were measured."""
REPEATED = "repeated"  # RAG with the documents of "both:sift:replace", each once
RAG = ("base", "rag:nearest", "rag:sift", "rag:sift:noise_variance=0.01", f"rag:{REPEATED}")
LEARNING = ("ttft:sift", "both:sift")
FOCUSED = "both:sift:replace"  # trains on few documents, several times
CONTROL = ("ttft:random", "both:random")
PAIRS = "answer"
K, TOKENS = 5, 32


def line_of(row: Row, objective: str) -> dict[str, Any]:
    """Return the numbers of a row."""
    return {
        "objective": label(row.method, objective),
        "prompt": row.prompt,
        "source": row.source,
        "method": row.method,
        "contains": row.scores["contains"],
        "f1": round(row.scores["f1"], 4),
        "bits": round(row.bits, 3),
        "seconds_training": round(row.seconds_training, 2),
        "seconds_answering": round(row.seconds_answering, 2),
        **_uncertainty_of(row),
    }


def _uncertainty_of(row: Row) -> dict[str, float]:
    """Return σ, the uncertainty about a question given its documents, if they have gains."""
    return {"uncertainty": round(row.posterior_std, 4)} if math.isfinite(row.posterior_std) else {}


def label(method: str, objective: str) -> str:
    """Return the objective if a method depends on it: by its training or by its store."""
    trains = method.startswith(("ttft", "both"))
    return objective if trains or (method != "base" and objective == PAIRS) else ""


def pairs_of(prompts: list[Prompt]) -> list[Document]:
    """Return a document of each question with its answer."""
    return [
        Document(
            id=prompt.id,
            page_content=f"{prompt.text}\n{prompt.answers[0]}",
            metadata={"question": prompt.text, "answer": prompt.answers[0]},
        )
        for prompt in prompts
    ]


def read_questions(file: Path = ROWS) -> list[dict[str, Any]]:
    """Return the rows of a file that were measured before."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def missing(
    file: Path, prompts: list[Prompt], methods: tuple[str, ...], objective: str
) -> tuple[list[Prompt], list[str]]:
    """Return the prompts that lack the row of a method, and the methods that lack one."""
    done = {(row["prompt"], row["method"], row["objective"]) for row in read_questions(file)}
    lacking = [
        (prompt, name)
        for prompt in prompts
        for name in methods
        if (prompt.id, name, label(name, objective)) not in done
    ]
    left = [prompt for prompt in prompts if any(prompt is other for other, _ in lacking)]
    return left, [name for name in methods if any(name == other for _, other in lacking)]


def methods_of(
    asked: argparse.Namespace, objective: str, *, is_first: bool, start: int
) -> tuple[str, ...]:
    """Return the methods to measure with an objective on the questions from `start` on."""
    if objective == PAIRS:
        return ("base", "rag:sift", *LEARNING)
    focused = (FOCUSED,) if objective == "text" else ()
    control = CONTROL if start < asked.controls else ()
    return (*(RAG if is_first else ("base",)), *LEARNING, *focused, *control)


def main() -> None:
    """Measure the questions that are missing, part by part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objectives", default="text")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--further", action="store_true", help="draw as many other questions")
    parser.add_argument("--methods", help="default: all that belong to the objective")
    parser.add_argument("--in-a-part", type=int, default=20)
    parser.add_argument("--controls", type=int, default=0)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--steps", type=int, default=1, help="steps on each document")
    asked = parser.parse_args()
    documents, all_prompts = read(asked.data)
    prompts = random.Random(0).sample(all_prompts, asked.questions)
    embeddings = load_embeddings(asked.embeddings)
    others = [prompt for prompt in all_prompts if prompt not in prompts]
    if asked.further:
        prompts = random.Random(1).sample(others, asked.questions)
    rows = FURTHER_ROWS if asked.further else ROWS
    stores = {
        name: index_documents(texts, embeddings, asked.out / name)
        for name, texts in (("store", documents), (PAIRS, pairs_of(others)))
    }
    repeated = SIFTRetriever(
        vectorstore=stores["store"],
        k=K,
        search_kwargs={"replace": True},
    )
    model = load_language_model(asked.model)
    config = FineTuneConfig(
        learning_rate=asked.learning_rate, steps_per_document=asked.steps, max_length=256
    )
    for first in range(0, asked.questions, asked.in_a_part):
        for number, objective in enumerate(asked.objectives.split(",")):
            methods = methods_of(asked, objective, is_first=number == 0, start=first)
            if asked.methods is not None:
                methods = tuple(name for name in asked.methods.split(",") if name in methods)
            part = prompts[first : first + asked.in_a_part]
            left, names = missing(rows, part, methods, objective)
            if not left:
                continue
            began = time.monotonic()
            report = compare(
                left,
                list(dict.fromkeys(("base", *names))),
                model=model,
                vectorstore=stores.get(objective, stores["store"]),
                retrievers={REPEATED: repeated} if f"rag:{REPEATED}" in names else {},
                protocols=("qa",),
                k=K,
                max_tokens=TOKENS,
                finetune=replace(config, objective=objective),
                leaks="ignore",
            )
            with rows.open("a", encoding="utf-8") as file:
                for row in report.rows:
                    if row.method in names:
                        file.write(json.dumps(line_of(row, objective)) + "\n")
            seconds = time.monotonic() - began
            print(
                f"{objective}: questions {first} to {first + len(left)} in {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
