"""Measure the loss of a model that is fine-tuned on the choice, for each candidate search.

    python tests/benchmarks/candidate_search_ttft.py --corpus DIR --model PATH --out FILE

DIR is as for `candidate_search.py`; the model's own hidden states are the embeddings, and all
domains share one store. Bits of the scored text in percent of the base model's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_sift import FineTuneConfig, SIFTRetriever
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import PROTOCOLS
from langchain_sift.indexing.index import index_documents
from langchain_sift.ttft import Engine, ScoringTask, load_language_model

SEARCHES = ("nearest", "residual", "exhaustive")


def main() -> None:
    arguments = _arguments()
    language_model = load_language_model(arguments.model)
    engine = Engine(
        language_model, FineTuneConfig(lora_rank=16, learning_rate=4e-3, max_length=512)
    )
    documents, prompts = read(arguments.corpus, arguments.domains, arguments.prompts)
    store = index_documents(documents, language_model, arguments.index)
    rows = []
    for protocol in ("document", "continuation"):
        for domain, text in prompts:
            row = {"protocol": protocol, "domain": domain}
            task = PROTOCOLS[protocol](Prompt(domain, text))
            scored = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
            row["base"] = bits(engine, [], scored)
            for name in SEARCHES:
                texts, variance = choose(store, name, task.query, arguments)
                row[name] = bits(engine, texts, scored)
                row[f"{name}: posterior variance"] = variance
            rows.append(row)
            print(len(rows), row, flush=True)  # noqa: T201 - it takes minutes
    arguments.out.write_text(json.dumps(report(rows, arguments), indent=1) + "\n")


def choose(
    store: Chroma, name: str, query: str, arguments: argparse.Namespace
) -> tuple[list[str], float]:
    """Return the chosen texts, with repeats, and the remaining variance."""
    retrieval = SIFTRetriever(vectorstore=store, candidate_search=name).retrieve_with_scores(
        query, k=arguments.k, noise_variance=arguments.noise_variance, replace=True
    )
    texts = [document.page_content for document in retrieval.documents]
    return texts, retrieval.choices[-1].posterior_variance


def bits(engine: Engine, texts: list[str], scored: ScoredText) -> float:
    context = [*scored.start, *scored.context]
    task = ScoringTask([(context, scored.target)])
    return engine.outcome(engine.request(texts, task)).nats[0] / math.log(2)


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    def percent(group: list[dict[str, Any]]) -> dict[str, Any]:
        # Bits in percent of the base model's, prompt by prompt: mean and standard error.
        shares = {name: np.array([100 * r[name] / r["base"] for r in group]) for name in SEARCHES}
        first = shares["nearest"]
        return {
            name: {
                "percent_of_base": float(share.mean()),
                "standard_error": float(share.std(ddof=1) / math.sqrt(len(share))),
                "difference_from_nearest": float((share - first).mean()),
                "its_standard_error": float((share - first).std(ddof=1) / math.sqrt(len(share))),
                "posterior_variance": float(
                    np.mean([r[f"{name}: posterior variance"] for r in group])
                ),
            }
            for name, share in shares.items()
        }

    return {
        "command": arguments.command,
        "commit": arguments.commit,
        "date": time.strftime("%Y-%m-%d"),
        "documents": arguments.domains,
        "protocols": {
            protocol: {
                "all": percent([r for r in rows if r["protocol"] == protocol]),
                **{
                    domain: percent(
                        [r for r in rows if (r["protocol"], r["domain"]) == (protocol, domain)]
                    )
                    for domain in arguments.domains
                },
            }
            for protocol in ("document", "continuation")
        },
    }


def read(
    corpus: Path, domains: list[str], prompts: int
) -> tuple[list[Document], list[tuple[str, str]]]:
    documents, asked = [], []
    for domain in domains:
        with gzip.open(corpus / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        documents += [
            Document(id=row["id"], page_content=row["text"])
            for row in rows
            if row["split"] == "memory"
        ]
        validation = [row["text"] for row in rows if row["split"] == "validation"]
        asked += [(domain, text) for text in validation[:: len(validation) // prompts][:prompts]]
    return documents, asked


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="examples/demo/model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--index", type=Path, default=Path("build/candidate_search"))
    parser.add_argument(
        "--domains", nargs="+", default=["nih_grants", "us_patents", "github", "freelaw"]
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--noise-variance", type=float, default=0.1)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    arguments.command = (
        f"python tests/benchmarks/candidate_search_ttft.py --prompts {arguments.prompts} "
        f"--k {arguments.k} --noise-variance {arguments.noise_variance}"
    )
    return arguments


if __name__ == "__main__":
    main()
