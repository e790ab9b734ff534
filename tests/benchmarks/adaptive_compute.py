"""What each way to spend less on training costs in quality, on the demo's tuning prompts.

    python tests/benchmarks/adaptive_compute.py --out tests/benchmarks/results/adaptive_compute.json

The demo's settings, and each time one of them changed. Bits per byte in percent of the base
model's, the difference from the demo's settings prompt by prompt, and the seconds of training.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Report, read_prompts
from langchain_sift.indexing import index_documents, read_corpus
from langchain_sift.ttft import load_language_model

DEMO = Path(__file__).parents[2] / "examples" / "demo"
PROTOCOLS = ("document", "continuation")
PLAIN = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=512)
CHANGES: dict[str, dict[str, Any]] = {
    "as in the demo": {},
    "max_gradient_norm=None": {"max_gradient_norm": None},
    "max_documents=8": {"max_documents": 8},
    "max_documents=4": {"max_documents": 4},
    "max_train_tokens=2048": {"max_train_tokens": 2048},
    "gradient_reuse=2": {"gradient_reuse": 2},
    "steps_per_document=2": {"steps_per_document": 2},
    "steps_per_document=2, gradient_reuse=2": {"steps_per_document": 2, "gradient_reuse": 2},
    "steps_per_document=2, half the rate": {"steps_per_document": 2, "learning_rate": 2e-3},
}


def percents(report: Report, protocol: str) -> np.ndarray:
    """Return bits in percent of the base model's, prompt by prompt."""
    bits = {
        method: [r.bits for r in report.rows if (r.protocol, r.method) == (protocol, method)]
        for method in ("base", "ttft:sift")
    }
    return 100 * np.array(bits["ttft:sift"]) / np.array(bits["base"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("build/demo_small/chroma"))
    parser.add_argument("--commit", default="", help="what is checked out, for the record")
    asked = parser.parse_args()
    model = load_language_model(str(DEMO / "model"))
    store = index_documents(read_corpus(DEMO / "corpus"), model, asked.store)
    prompts = read_prompts(DEMO / "tuning_prompts.jsonl")
    plain: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for name, change in CHANGES.items():
        report = compare(
            prompts,
            ("base", "ttft:sift"),
            model=model,
            vectorstore=store,
            protocols=PROTOCOLS,
            k=16,
            noise_variance=0.1,
            finetune=replace(PLAIN, **change),
        )
        found[name] = {}
        for protocol in PROTOCOLS:
            share = percents(report, protocol)
            difference = share - plain.setdefault(protocol, share)
            trained = [r.seconds_training for r in report.rows if r.method == "ttft:sift"]
            found[name][protocol] = {
                "percent_of_base": round(float(share.mean()), 2),
                "difference": round(float(difference.mean()), 2),
                "its_standard_error": round(
                    float(difference.std(ddof=1)) / math.sqrt(len(share)), 2
                ),
                "seconds_training": round(float(np.mean(trained)), 2),
            }
        sys.stdout.write(f"{name}: {json.dumps(found[name])}\n")
        sys.stdout.flush()
    record = {
        "command": "python tests/benchmarks/adaptive_compute.py",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        "prompts": len(prompts),
        "found": found,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
