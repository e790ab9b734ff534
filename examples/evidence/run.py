"""Measure the paper's claims on 13 kinds of text, each with a base model that never saw its kind.

    python examples/evidence/run.py --data DIR --base examples/demo/model --base DIR_OF_ANOTHER \
        --out build/evidence
    python examples/evidence/summarize.py build/evidence

DIR holds DOMAIN.jsonl.gz files with "text", "domain", "source" and "split". The memory split of a
domain is the store, its validation split the prompts; a domain is left out if every base was
trained on it. Bases are made by `examples/demo/make_model.py --domains ...`.

What tells most is measured first, in stages, so that a run may be cut off at any time. One that
was interrupted goes on where it was, and what the file of rows has is not measured again. What is
measured otherwise has rows of its own:

    run.py ... --base DIR_OF_A_SMALLER_ONE --rows rows_small_model.jsonl.gz
    run.py ... --memory 0.25 --stages sift --rows rows_quarter_memory.jsonl.gz
    run.py ... --embeddings sentence_transformer:MiniLM --stages embeddings \
        --rows rows_sentence_transformer.jsonl.gz
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
# One training serves all numbers of documents, and all that stop by themselves.
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
# The recipe was chosen on these prompts (tests/benchmarks/results/tuning.json).
TUNING = Path(__file__).parents[1] / "demo" / "tuning_prompts.jsonl"
RECIPE = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=256)


def tuned_on() -> set[str]:
    """Return the ids of the prompts that the settings were chosen on: they are not measured."""
    lines = TUNING.read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["id"] for line in lines}


def read(data: Path, domain: str, split: str) -> list[dict[str, Any]]:
    """Return the documents of a domain that are in a split."""
    with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["split"] == split]


def share_of(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """Return a share of the documents, drawn by their ids: a smaller one is part of a larger."""

    def place(identifier: str) -> float:
        digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    return [row for row in rows if place(row["id"]) < share]


def prompts_of(rows: list[dict[str, Any]], count: int) -> list[Prompt]:
    """Return prompts of as many different sources as there are."""
    by_source, left_out = defaultdict(list), tuned_on()
    for row in (row for row in rows if row["id"] not in left_out):
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


def blind_bases(data: Path, paths: list[Path]) -> dict[str, Path]:
    """Return for each domain of the data the first base that was not trained on it."""
    seen = {}
    for path in paths:
        with gzip.open(path / "trained_on.json.gz", "rt") as file:
            seen[path] = set(json.load(file)["domains"])
    domains = sorted(path.name.removesuffix(".jsonl.gz") for path in data.glob("*.jsonl.gz"))
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


@dataclass(frozen=True)
class Part:
    """What is measured, and written, together: the methods of a stage in one domain."""

    domain: str
    stage: str
    base: Path
    data: Path
    out: Path
    embeddings: str | None
    memory: float

    def run(self, prompts: list[Prompt]) -> None:
        """Measure each prompt by each method."""
        began = time.monotonic()
        model = load_language_model(str(self.base))
        documents = [
            Document(id=row["id"], page_content=row["text"], metadata={"source": row["source"]})
            for row in share_of(read(self.data, self.domain, "memory"), self.memory)
        ]
        store = index_documents(
            documents, embeddings_of(self.embeddings, model), self.out / "chroma" / self.domain
        )

        def tell(row: Row) -> None:
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
            on_row=tell,
        )
        seconds = time.monotonic() - began
        print(f"{self.domain}, {self.stage}: {len(prompts)} prompts in {seconds:.0f} s", flush=True)


def missing(prompts: list[Prompt], stage: str, known: list[Row]) -> list[Prompt]:
    """Return the prompts that a method of the stage was not measured on."""
    measured = {(row.prompt, row.method) for row in known}
    return [
        prompt
        for prompt in prompts
        if any((prompt.id, method) not in measured for method in STAGES[stage])
    ]


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=48, help="of each domain, at most")
    parser.add_argument("--embeddings", help="module:NAME; by default the base's hidden states")
    parser.add_argument("--memory", type=float, default=1.0, help="share of the stored documents")
    parser.add_argument("--stages", default="sift,rivals,others,noise,variants")
    parser.add_argument("--domains", default="", help="comma-separated, in order; by default all")
    parser.add_argument("--rows", default=ROWS.name, help="a file here: what was measured before")
    asked = parser.parse_args()
    bases = blind_bases(asked.data, asked.base)
    known = read_rows(ROWS.parent / asked.rows)
    for stage in asked.stages.split(","):
        for domain in asked.domains.split(",") if asked.domains else bases:
            prompts = prompts_of(read(asked.data, domain, "validation"), asked.prompts)
            left = missing(prompts, stage, known)
            if left:
                place = (domain, stage, bases[domain], asked.data, asked.out)
                Part(*place, asked.embeddings, asked.memory).run(left)


if __name__ == "__main__":
    main()
