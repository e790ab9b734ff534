"""Measure the base model, RAG, fine-tuning and both with a real model on 13 kinds of text.

    python examples/evidence/real_models.py --data DIR --model FILE.gguf --embeddings FOLDER \
        --out RUNS --rows rows_smollm2.jsonl.gz
    python examples/evidence/real_models.py ... --stage rates --learning-rate 1e-3
    python examples/evidence/real_models.py ... --stage noise --rows rows_smollm2_noise.jsonl.gz

DIR contains DOMAIN.jsonl.gz files with "text", "domain", "source" and "split". The memory split of
a domain is the store, and its validation split has the prompts, each of another source where there
are enough. `--embeddings` is a sentence-transformer; without it, the model's hidden states embed.
Each stage has a file of rows of its own: `real_model_results.py` names them.

Rounds of a few prompts of every domain follow each other, so that a run can be stopped at any time.
It resumes, and methods that are in the file of rows are not measured again. The stages "rates"
and "noise" measure recipes and λ' on the prompts of examples/demo/tuning_prompts.jsonl, which no
other stage uses; the stage "check" measures a recipe on the others. Each recipe has its own file of
rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from qa import METHODS
from rows import ROWS, cluster_of, read_rows, write_rows
from run import TUNING, prompts_of, read

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Prompt, Row
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.ttft import LanguageModel, load_language_model

DOMAINS = (
    "github", "nih_grants", "enron_emails", "wikipedia", "us_patents", "freelaw", "stack_exchange",
    "pubmed_abstracts", "latex_science", "dev_discussion", "web_us_gov", "pubmed_central",
    "math_synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What a stage measures."""

    methods: tuple[str, ...]
    ks: tuple[int, ...] = (5, 10, 25)
    protocol: str = "document"


STAGES = {
    "main": Stage((*METHODS, "both:sift:context_k=10")),
    "continuation": Stage(
        ("base", "rag:nearest", "rag:sift", "ttft:nearest", "ttft:sift", "both:sift"),
        protocol="continuation",
    ),
    "many": Stage(("base", "rag:sift", "ttft:nearest", "ttft:sift", "both:sift"), ks=(50,)),
    "others": Stage(
        (
            "base",
            "ttft:random",
            "ttft:nearest-repeated",
            "ttft:uncertainty:noise_variance=0.01",
            "ttft:hull",
        )
    ),
    "kernels": Stage(("base", *(f"{mode}:sift:kernel=rbf" for mode in ("rag", "ttft", "both")))),
    "noise": Stage(
        (
            "base",
            "ttft:nearest",
            "ttft:sift",
            *(f"ttft:sift:noise_variance={value}" for value in (0.01, 0.1, 1)),
        )
    ),
    "rates": Stage(("base", "ttft:sift")),
    "check": Stage(("base", "ttft:sift")),
}


def tuning_prompts(domain: str) -> list[Prompt]:
    """Return the prompts of a domain that only settings are chosen on."""
    lines = map(json.loads, TUNING.read_text(encoding="utf-8").splitlines())
    return [
        Prompt(id=row["id"], text=row["text"], group=domain, source=row["source"])
        for row in lines
        if row["domain"] == domain
    ]


def percents(rows: Sequence[Row]) -> dict[str, str]:
    """Return the bits of each method and k in percent of the base model's."""
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    found = defaultdict(list)
    for row in rows:
        if row.method != "base":
            found[f"{row.method} {row.k}"].append(100 * row.bits / base[row.prompt])
    return {name: f"{sum(values) / len(values):.1f}" for name, values in found.items()}


@dataclass(frozen=True)
class Run:
    """The settings of a run, and the loaded models."""

    data: Path
    out: Path
    stage: Stage
    config: FineTuneConfig
    model: LanguageModel
    embeddings: Any

    def store(self, domain: str) -> Any:
        """Return the store of a domain; it is filled once."""
        documents = [
            Document(id=row["id"], page_content=row["text"], metadata={"source": row["source"]})
            for row in read(self.data, domain, "memory")
        ]
        return index_documents(documents, self.embeddings, self.out / "stores" / domain)

    def measure(
        self, domain: str, prompts: list[Prompt], methods: Sequence[str], name: str
    ) -> list[Row]:
        """Measure methods on prompts of a domain; go on where a run stopped."""
        began = time.monotonic()
        folder = self.out / f"{domain}-{name}"
        report = compare(
            prompts,
            methods,
            model=self.model,
            vectorstore=self.store(domain),
            protocols=(self.stage.protocol,),
            k=self.stage.ks,
            finetune=self.config,
            leaks="report",
            out=folder,
            resume=(folder / "run.json").exists(),
        )
        print(
            f"{name} {domain}: {time.monotonic() - began:.0f} s, {percents(report.rows)}",
            flush=True,
        )
        return [replace(row, source=cluster_of(row.source)) for row in report.rows]


def main() -> None:
    """Measure the prompts that are missing, round by round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--embeddings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", required=True, help="file in this folder")
    parser.add_argument("--stage", choices=STAGES, default="main")
    parser.add_argument("--learning-rate", type=float, help="default: by the first gradient")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, help="default: the rank")
    parser.add_argument("--target-modules", default="all-linear")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--in-a-round", type=int, default=3, help="prompts of each domain")
    parser.add_argument("--domains", default=",".join(DOMAINS))
    asked = parser.parse_args()
    model = load_language_model(asked.model)
    run = Run(
        asked.data,
        asked.out,
        STAGES[asked.stage],
        FineTuneConfig(
            lora_rank=asked.rank,
            lora_alpha=asked.rank if asked.alpha is None else asked.alpha,
            learning_rate=asked.learning_rate,
            target_modules=asked.target_modules,
            max_length=256,
        ),
        model,
        load_embeddings(asked.embeddings) if asked.embeddings else model,
    )
    file = ROWS.parent / asked.rows
    for number in range(asked.rounds):
        for domain in asked.domains.split(","):
            name = f"{asked.stage}-{number}"
            prompts = prompts_of(read(run.data, domain, "validation"), 10_000)
            if asked.stage in {"rates", "check"}:
                config = run.config
                recipe = f"{config.learning_rate}-{config.lora_rank}-{config.lora_alpha:g}"
                name = f"{asked.stage}-{recipe}-{config.target_modules}-{number}"
            if asked.stage in {"rates", "noise"}:
                prompts = tuning_prompts(domain)
            first = number * asked.in_a_round
            known = read_rows(file)
            done = {(row.prompt, row.method) for row in known}
            lacking = [
                (prompt, method)
                for prompt in prompts[first : first + asked.in_a_round]
                for method in run.stage.methods
                if (prompt.id, method) not in done
            ]
            if lacking:
                rows = {(row.prompt, row.method, row.k): row for row in known}
                left = list({prompt.id: prompt for prompt, _ in lacking}.values())
                methods = list(dict.fromkeys(method for _, method in lacking))
                new = run.measure(domain, left, methods, name)
                rows |= {(row.prompt, row.method, row.k): row for row in new}
                write_rows(file, rows.values())


if __name__ == "__main__":
    main()
