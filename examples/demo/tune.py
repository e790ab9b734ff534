"""Choose the settings of the demo, on prompts that are not part of it.

    python examples/demo/tune.py --out tests/benchmarks/results/tuning.json

Measures each pair of learning rate and λ' for SIFT, to choose the pair with the best mean over both
protocols, and each learning rate for nearest neighbours, to see whether the choice favours SIFT.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langchain_core.vectorstores import VectorStore

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import read_prompts
from langchain_sift.indexing import index_documents, read_corpus
from langchain_sift.ttft import LanguageModel, load_language_model

HERE = Path(__file__).parent
K = 16
MAX_LENGTH = 512
LORA_RANK = 16
LEARNING_RATES = (2e-3, 4e-3)
NOISE_VARIANCES = (0.1, 0.3, 1.0)
PROTOCOLS = ("document", "continuation")


def measure(
    model: LanguageModel, store: VectorStore, method: str, rate: float, noise_variance: float
) -> dict[str, Any]:
    """Measure a method on the tuning prompts, print its result, and return it."""
    report = compare(
        read_prompts(HERE / "tuning_prompts.jsonl"),
        (method,),
        model=model,
        vectorstore=store,
        protocols=PROTOCOLS,
        k=K,
        noise_variance=noise_variance,
        finetune=FineTuneConfig(
            lora_rank=LORA_RANK,
            lora_alpha=float(LORA_RANK),
            learning_rate=rate,
            max_length=MAX_LENGTH,
        ),
    )
    summaries = {protocol: report.summary(protocol)[method] for protocol in PROTOCOLS}
    entry = {
        "method": method,
        "learning_rate": rate,
        "noise_variance": noise_variance,
        "mean_percent_of_base": sum(s.percent_of_base for s in summaries.values()) / len(summaries),
        **{
            protocol: {
                "percent_of_base": summary.percent_of_base,
                "standard_error": summary.standard_error,
                "distinct_documents": summary.distinct_documents,
            }
            for protocol, summary in summaries.items()
        },
    }
    print(json.dumps(entry), flush=True)
    return entry


def search(model: LanguageModel, store: VectorStore) -> list[dict[str, Any]]:
    """Measure every pair of settings."""
    results = []
    for rate in LEARNING_RATES:
        results += [measure(model, store, "ttft:sift", rate, noise) for noise in NOISE_VARIANCES]
        # The nearest neighbours do not depend on λ'.
        results.append(measure(model, store, "ttft:nearest", rate, NOISE_VARIANCES[0]))
    return results


def main() -> None:
    """Measure all settings, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("build/demo_small/chroma"))
    parser.add_argument("--commit", default="", help="commit that was measured, for the record")
    arguments = parser.parse_args()
    model = load_language_model(str(HERE / "model"))
    store = index_documents(read_corpus(HERE / "corpus"), model, arguments.store)
    record = {
        "command": "python examples/demo/tune.py --out tests/benchmarks/results/tuning.json",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        "settings": {"k": K, "max_length": MAX_LENGTH, "lora_rank": LORA_RANK},
        "found": search(model, store),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
