"""Measure the paper's claims on 13 kinds of text, each with a base model that never saw its kind.

    python examples/evidence/run.py --data DIR --base examples/demo/model --base DIR_OF_ANOTHER \
        --out build/evidence
    python examples/evidence/summarize.py build/evidence

DIR holds DOMAIN.jsonl.gz files with "text", "domain", "source" and "split". The memory split of a
domain is the store, its validation split the prompts; a domain is left out if every base was
trained on it. Bases are made by `examples/demo/make_model.py --domains ...`. A run that was
interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Prompt, Row, index_documents
from langchain_sift.ttft import LanguageModel, load_language_model

KS = (1, 5, 10, 25, 50)
NOISE_VARIANCE = 0.1
METHODS = (
    "base",
    "rag:nearest",
    "rag:sift",
    "ttft:nearest",
    "ttft:nearest-repeated",
    "ttft:uncertainty",
    "ttft:sift",
    *(f"ttft:sift:stopping_alpha={alpha}" for alpha in (0.05, 0.1, 0.2, 0.5)),
    "ttft:sift:noise_variance=0.001",
    "ttft:sift:noise_variance=0.01",
    "ttft:sift:noise_variance=1",
    "ttft:sift:residual",
    "ttft:hull",
    "ttft:mmr",
    "ttft:random",
)
# Chosen on the demo's tuning prompts (tests/benchmarks/results/tuning.json), not used here.
RECIPE = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=256)


def read(data: Path, domain: str, split: str) -> list[dict[str, Any]]:
    """Return the documents of a domain that are in a split."""
    with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["split"] == split]


def prompts_of(rows: list[dict[str, Any]], count: int) -> list[Prompt]:
    """Return prompts of as many different sources as there are."""
    by_source = defaultdict(list)
    for row in rows:
        by_source[row["source"]].append(row)
    turns = sorted(
        (place, row["id"]) for own in by_source.values() for place, row in enumerate(own)
    )
    by_id = {row["id"]: row for row in rows}
    chosen = [by_id[identifier] for _, identifier in turns[:count]]
    return [
        Prompt(id=row["id"], text=row["text"], group=row["domain"], source=row["source"])
        for row in chosen
    ]


def blind_bases(paths: list[Path]) -> dict[str, Path]:
    """Return for each domain of the data the first base that was not trained on it."""
    seen = {}
    for path in paths:
        with gzip.open(path / "trained_on.json.gz", "rt") as file:
            seen[path] = set(json.load(file)["domains"])
    domains = sorted(set().union(*seen.values()))
    return {
        domain: next(path for path in paths if domain not in seen[path])
        for domain in domains
        if any(domain not in own for own in seen.values())
    }


def embeddings_of(name: str | None, model: LanguageModel) -> Embeddings | LanguageModel:
    """Return the model, whose hidden states embed, or LangChain embeddings: module:NAME."""
    if name is None:
        return model
    module, _, attribute = name.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    return found() if isinstance(found, type) else found


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=20, help="of each domain")
    parser.add_argument("--part", type=int, default=0, help="which such number of prompts, from 0")
    parser.add_argument("--embeddings", help="module:NAME; by default the base's hidden states")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--domains", default="", help="comma-separated; by default all")
    parser.add_argument("--protocol", default="document")
    asked = parser.parse_args()
    wanted = asked.domains.split(",") if asked.domains else None
    for domain, base in blind_bases(asked.base).items():
        if wanted is not None and domain not in wanted:
            continue
        began = time.monotonic()
        model = load_language_model(str(base))
        rows = read(asked.data, domain, "validation")
        prompts = prompts_of(rows, asked.prompts * (asked.part + 1))[asked.prompts * asked.part :]
        documents = [
            Document(id=row["id"], page_content=row["text"], metadata={"source": row["source"]})
            for row in read(asked.data, domain, "memory")
        ]
        store = index_documents(
            documents, embeddings_of(asked.embeddings, model), asked.out / "chroma" / domain
        )

        def tell(row: Row, domain: str = domain) -> None:
            sys.stdout.write(f"{domain} {row.prompt} {row.method} {row.k}: {row.bits:.0f} bits\n")

        folder = asked.out / f"{domain}-{asked.part}"
        compare(
            prompts,
            asked.methods.split(","),
            model=model,
            vectorstore=store,
            protocols=asked.protocol.split(","),
            k=KS,
            noise_variance=NOISE_VARIANCE,
            finetune=RECIPE,
            out=folder,
            resume=(folder / "run.json").exists(),
            on_row=tell,
        )
        sys.stdout.write(f"{domain}: done in {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
