"""Measure the claims of the paper on 13 domains, with base models not trained on the domain.

    python examples/evidence/run.py --data DIR --base examples/demo/model --base DIR_OF_ANOTHER \
        --out build/evidence
    python examples/evidence/summarize.py build/evidence

DIR contains DOMAIN.jsonl.gz files with "text", "domain", "source" and "split". The memory split of
a domain is the store, its validation split the prompts. A domain is left out if all base models
were trained on it. `examples/demo/make_model.py --domains ...` trains base models.

The most important methods are measured first, in stages, so that a run can be stopped at any time.
An interrupted run resumes, and prompts that are in the file of rows are not measured again. Other
settings have their own files of rows:

    run.py ... --base DIR_OF_A_SMALLER_ONE --rows rows_small_model.jsonl.gz
    run.py ... --memory 0.25 --stages sift --rows rows_quarter_memory.jsonl.gz
    run.py ... --embeddings sentence_transformer:MiniLM --stages embeddings \
        --rows rows_sentence_transformer.jsonl.gz

Run it at the commit that README.md names: there, `ttft:sift` could choose a document again, as in
the paper. That is `ttft:sift:replace` today.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from rows import ROWS, read_rows

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Prompt, Row
from langchain_sift.indexing import index_documents
from langchain_sift.ttft import LanguageModel, load_language_model

KS = (1, 5, 10, 25, 50)
NOISE_VARIANCE = 0.1
ALPHAS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5)
# A single training covers all numbers of documents and all stopping rules.
STAGES = {
    "sift": (
        "base",
        "ttft:nearest",
        "ttft:sift",
        *(f"ttft:sift:stopping_alpha={alpha}" for alpha in ALPHAS),
    ),
    "rivals": ("base", "rag:nearest", "rag:sift", "ttft:hull", "ttft:uncertainty"),
    "others": ("base", "ttft:mmr", "ttft:random", "ttft:nearest-repeated"),
    "noise": ("base", "ttft:sift:noise_variance=1"),
    "embeddings": ("base", "ttft:nearest", "ttft:sift", "ttft:sift:noise_variance=0.01"),
    "variants": (
        "base",
        "ttft:sift:noise_variance=0.01",
        "ttft:sift:residual",
        "ttft:sift:noise_variance=0.001",
    ),
}
# The settings were chosen on these prompts (tests/benchmarks/results/tuning.json).
TUNING = Path(__file__).parents[1] / "demo" / "tuning_prompts.jsonl"
RECIPE = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=256)


def tuned_on() -> set[str]:
    """Return the ids of the prompts that the settings were chosen on, which are not measured."""
    lines = TUNING.read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["id"] for line in lines}


def read(data: Path, domain: str, split: str) -> list[dict[str, Any]]:
    """Read the documents of a split of a domain."""
    with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["split"] == split]


def fraction_of(rows: list[dict[str, Any]], fraction: float) -> list[dict[str, Any]]:
    """Draw a fraction of the documents by their ids; a larger fraction includes a smaller one."""

    def position(identifier: str) -> float:
        digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    return [row for row in rows if position(row["id"]) < fraction]


def prompts_of(rows: list[dict[str, Any]], count: int) -> list[Prompt]:
    """Choose prompts from as many different sources as possible."""
    by_source, left_out = defaultdict(list), tuned_on()
    for row in (row for row in rows if row["id"] not in left_out):
        by_source[row["source"]].append(row)
    rounds = sorted(
        (number, row["id"]) for group in by_source.values() for number, row in enumerate(group)
    )
    by_id = {row["id"]: row for row in rows}
    chosen = [by_id[identifier] for _, identifier in rounds[:count]]
    return [
        Prompt(id=row["id"], text=row["text"], group=row["domain"], source=row["source"])
        for row in chosen
    ]


def unseen_bases(data: Path, paths: list[Path]) -> dict[str, Path]:
    """Return for each domain the first base model that was not trained on it."""
    trained_on = {}
    for path in paths:
        with gzip.open(path / "trained_on.json.gz", "rt") as file:
            trained_on[path] = set(json.load(file)["domains"])
    domains = sorted(path.name.removesuffix(".jsonl.gz") for path in data.glob("*.jsonl.gz"))
    return {
        domain: next(path for path in paths if domain not in trained_on[path])
        for domain in domains
        if any(domain not in known for known in trained_on.values())
    }


def embeddings_of(name: str | None, model: LanguageModel) -> Embeddings | LanguageModel:
    """Return the LangChain embeddings module:NAME; by default the model, for its hidden states."""
    if name is None:
        return model
    module, _, attribute = name.partition(":")
    embeddings: Any = getattr(importlib.import_module(module), attribute)
    return embeddings() if isinstance(embeddings, type) else embeddings


@dataclass(frozen=True)
class Part:
    """The methods of a stage in a domain, which are measured and written together."""

    domain: str
    stage: str
    base: Path
    data: Path
    out: Path
    embeddings: str | None
    memory: float

    def run(self, prompts: list[Prompt]) -> None:
        """Measure each method on each prompt."""
        began = time.monotonic()
        model = load_language_model(str(self.base))
        documents = [
            Document(id=row["id"], page_content=row["text"], metadata={"source": row["source"]})
            for row in fraction_of(read(self.data, self.domain, "memory"), self.memory)
        ]
        store = index_documents(
            documents, embeddings_of(self.embeddings, model), self.out / "chroma" / self.domain
        )

        def print_row(row: Row) -> None:
            print(f"{self.domain} {row.prompt} {row.method} {row.k}: {row.bits:.0f} bits")

        folder = self.out / f"{self.domain}-{self.stage}-{len(prompts)}"
        compare(
            prompts,
            STAGES[self.stage],
            model=model,
            vectorstore=store,
            k=KS,
            noise_variance=NOISE_VARIANCE,
            finetune=RECIPE,
            out=folder,
            resume=(folder / "run.json").exists(),
            on_row=print_row,
        )
        seconds = time.monotonic() - began
        print(f"{self.domain}, {self.stage}: {len(prompts)} prompts in {seconds:.0f} s", flush=True)


def missing(prompts: list[Prompt], stage: str, known: list[Row]) -> list[Prompt]:
    """Return the prompts on which a method of the stage was not measured."""
    measured = {(row.prompt, row.method) for row in known}
    return [
        prompt
        for prompt in prompts
        if any((prompt.id, method) not in measured for method in STAGES[stage])
    ]


def main() -> None:
    """Measure all rows that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--prompts", type=int, default=48, help="maximum number of prompts per domain"
    )
    parser.add_argument(
        "--embeddings", help="module:NAME; default: hidden states of the base model"
    )
    parser.add_argument(
        "--memory", type=float, default=1.0, help="fraction of the stored documents"
    )
    parser.add_argument("--stages", default="sift,rivals,others,noise,variants")
    parser.add_argument("--domains", default="", help="comma-separated, in order; default: all")
    parser.add_argument(
        "--rows", default=ROWS.name, help="file in this folder with the rows measured before"
    )
    arguments = parser.parse_args()
    bases = unseen_bases(arguments.data, arguments.base)
    known = read_rows(ROWS.parent / arguments.rows)
    for stage in arguments.stages.split(","):
        for domain in arguments.domains.split(",") if arguments.domains else bases:
            prompts = prompts_of(read(arguments.data, domain, "validation"), arguments.prompts)
            left = missing(prompts, stage, known)
            if left:
                Part(
                    domain,
                    stage,
                    bases[domain],
                    arguments.data,
                    arguments.out,
                    arguments.embeddings,
                    arguments.memory,
                ).run(left)


if __name__ == "__main__":
    main()
