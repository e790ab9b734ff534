"""Choose the demo's settings, on prompts that the demo does not show.

    python examples/demo/tune.py --out tests/benchmarks/results/tuning.json

One setting after another, the others held: the learning rate (for nearest neighbours as for
SIFT, to see whether it favours either), then λ', then the rank.
"""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langchain_core.vectorstores import VectorStore

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import index_documents, read_corpus, read_prompts
from langchain_sift.ttft import LanguageModel, load_language_model

HERE = Path(__file__).parent
START = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=384)
LEARNING_RATES = (2e-3, 4e-3, 8e-3)
NOISE_VARIANCES = (0.01, 0.1, 0.3, 3.0)  # beside 1, which the learning rates are tried with
RANKS = (8, 32)  # beside 16
SIFT = "ttft:sift"


def measure(
    model: LanguageModel,
    store: VectorStore,
    methods: tuple[str, ...],
    recipe: FineTuneConfig,
    noise_variance: float,
) -> list[dict[str, Any]]:
    """Return, and print, what each method reaches on the tuning prompts."""
    report = compare(
        read_prompts(HERE / "tuning_prompts.jsonl"),
        methods,
        model=model,
        vectorstore=store,
        noise_variance=noise_variance,
        finetune=recipe,
    )
    found = []
    for method in methods:
        summary = report.summary("document")[method]
        groups = {group: report.summary("document", group)[method] for group in report.groups}
        entry = {
            "method": method,
            "learning_rate": recipe.learning_rate,
            "noise_variance": noise_variance,
            "lora_rank": recipe.lora_rank,
            "percent_of_base": round(summary.percent_of_base, 2),
            "standard_error": round(summary.standard_error, 2),
            "distinct_documents": round(summary.distinct_documents, 1),
            **{group: round(own.percent_of_base, 2) for group, own in groups.items()},
        }
        print(json.dumps(entry), flush=True)
        found.append(entry)
    return found


def best_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry in which SIFT left the fewest bits."""
    return min((e for e in found if e["method"] == SIFT), key=lambda e: e["percent_of_base"])


def search(model: LanguageModel, store: VectorStore) -> list[dict[str, Any]]:
    """Try one setting after another and return all that was found."""
    found: list[dict[str, Any]] = []
    for rate in LEARNING_RATES:
        recipe = replace(START, learning_rate=rate)
        found += measure(model, store, ("ttft:nearest", SIFT), recipe, 1.0)
    recipe = replace(START, learning_rate=best_of(found)["learning_rate"])
    for noise_variance in NOISE_VARIANCES:
        found += measure(model, store, (SIFT,), recipe, noise_variance)
    noise_variance = best_of(found)["noise_variance"]
    for rank in RANKS:
        changed = replace(recipe, lora_rank=rank, lora_alpha=float(rank))
        found += measure(model, store, (SIFT,), changed, noise_variance)
    return found


def main() -> None:
    """Search, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("build/demo/chroma"))
    parser.add_argument("--commit", default="", help="what is checked out, for the record")
    arguments = parser.parse_args()
    model = load_language_model(str(HERE / "model"))
    store = index_documents(read_corpus(HERE / "corpus"), model, arguments.store)
    record = {
        "command": "python examples/demo/tune.py --out tests/benchmarks/results/tuning.json",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        "found": search(model, store),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
