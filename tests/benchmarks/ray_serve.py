"""Measure the endpoint on Ray with more replicas, under overload, and after failures.

    python tests/benchmarks/ray_serve.py --out tests/benchmarks/results/ray_serve.json

It uses clusters of processes on this machine, a Chroma server, and a tiny Llama with random
weights, whose gradient steps sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from integration_tests.ray_cluster import run_program
from integration_tests.servers import HOST, Server
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "model"
PROGRAMS = {
    "replicas, steps of a fixed duration": "benchmarks.ray_scaling",
    "faults": "integration_tests.ray_faults",
}


def make_model(folder: Path) -> Path:
    """Save a small model with the tokenizer of the demo."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, Server(Path(name)) as server:
        folder = Path(name)
        model = make_model(folder / "model")
        for title, program in PROGRAMS.items():
            url = f"http://{HOST}:{server.port}"
            outputs = folder / program
            outputs.mkdir()
            results[title] = run_program(program, model, outputs, url, timeout=600)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    result = {
        "command": f"python tests/benchmarks/ray_serve.py --out {out}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0]},
        **results,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
