"""Summarize the rows of real models in `real_models.json`, and write the page `real_models.md`.

    python examples/evidence/real_models_page.py --rates FOLDER --check FOLDER --commit COMMIT

Without a folder, the recipes in the JSON file stay. A folder has a file of rows for each recipe,
MODEL,LEARNING_RATE,RANK,ALPHA,LAYERS.jsonl.gz.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rows import read_rows

from langchain_sift.comparison import Row

HERE = Path(__file__).parent
FILES = {
    "SmolLM2-135M-Instruct": "rows_smollm2.jsonl.gz",
    "Gemma 3 270M": "rows_gemma.jsonl.gz",
}
METHODS = {
    "rag:nearest": "RAG, nearest",
    "rag:sift": "RAG, SIFT",
    "ttft:nearest": "TTFT, nearest",
    "ttft:sift": "TTFT, SIFT",
    "both:nearest": "both, nearest",
    "both:sift": "both, SIFT",
}
PAIRS = (
    ("ttft:sift", "ttft:nearest"),
    ("both:sift", "rag:sift"),
    ("rag:sift", "rag:nearest"),
    ("both:sift", "both:nearest"),
    ("ttft:sift", "rag:sift"),
)
RESAMPLES = 10_000
Percents = dict[tuple[str, str, int], dict[str, float]]
"""Percent of the base model's bits of each domain, method and k, by prompt."""


def percents_of(rows: Sequence[Row]) -> Percents:
    """Return the percents of the prompts that all methods of the table were measured on."""
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    found: Percents = defaultdict(dict)
    for row in rows:
        if row.method in METHODS and row.prompt in base:
            key = (row.group, row.method, row.k)
            found[key][row.prompt] = 100 * row.bits / base[row.prompt]
    complete = {
        domain: set.intersection(*(set(v) for (name, *_), v in found.items() if name == domain))
        for domain, *_ in found
    }
    return {
        key: {prompt: v for prompt, v in values.items() if prompt in complete[key[0]]}
        for key, values in found.items()
    }


def interval(domains: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean over domains, with a 95 % interval (bootstrap over prompts)."""
    rng = np.random.default_rng(0)
    means = np.mean([values.mean() for values in domains])
    samples = np.mean(
        [
            values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
            for values in domains
        ],
        axis=0,
    )
    low, high = np.percentile(samples, [2.5, 97.5])
    return {
        "mean": round(float(means), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
    }


def best_k(percents: Percents, method: str) -> int:
    """Return the k with the lowest mean over domains."""
    ks = sorted({k for _, name, k in percents if name == method})
    return min(ks, key=lambda k: float(np.mean(_of(percents, method, k))))


def _of(percents: Percents, method: str, k: int) -> list[float]:
    """Return the mean of each domain."""
    return [
        float(np.mean(list(values.values())))
        for (_, name, count), values in sorted(percents.items())
        if (name, count) == (method, k)
    ]


def difference(percents: Percents, first: str, second: str) -> dict[str, Any]:
    """Compare two methods, each at its best k, on the same prompts."""
    one, other = best_k(percents, first), best_k(percents, second)
    domains = sorted({domain for domain, *_ in percents})
    values = [
        np.array(
            [
                percents[domain, first, one][prompt] - percents[domain, second, other][prompt]
                for prompt in sorted(percents[domain, first, one])
            ]
        )
        for domain in domains
    ]
    return {"k": [one, other], **interval(values)}


def text_results(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the results of a model on the kinds of text."""
    percents = percents_of(rows)
    methods = [method for method in METHODS if any(name == method for _, name, _ in percents)]
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.method in METHODS:
            seconds[f"{row.method} {row.k}"].append(row.seconds_training)
    return {
        "prompts": {
            domain: len(values)
            for (domain, method, _), values in sorted(percents.items())
            if method == methods[0]
        },
        "means": {
            method: {
                str(k): interval(
                    [
                        np.array(list(values.values()))
                        for (_, name, count), values in sorted(percents.items())
                        if (name, count) == (method, k)
                    ]
                )
                for k in sorted({k for _, name, k in percents if name == method})
            }
            for method in methods
        },
        "domains": {
            domain: {
                method: round(
                    float(
                        np.mean(list(percents[domain, method, best_k(percents, method)].values()))
                    ),
                    1,
                )
                for method in methods
            }
            for domain in sorted({domain for domain, *_ in percents})
        },
        "best_k": {method: best_k(percents, method) for method in methods},
        "differences": {
            f"{first} less {second}": difference(percents, first, second)
            for first, second in PAIRS
            if first in methods and second in methods
        },
    }


def recipes(folder: Path) -> list[dict[str, Any]]:
    """Return the mean percents of each recipe, from a folder of files of rows."""
    found = []
    for file in sorted(folder.glob("*.jsonl.gz"), key=_order):
        model, rate, rank, alpha, layers = file.name.removesuffix(".jsonl.gz").split(",")
        rows = read_rows(file)
        base = {row.prompt: row.bits for row in rows if row.method == "base"}
        by_k: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if row.method != "base":
                by_k[str(row.k)].append(100 * row.bits / base[row.prompt])
        found.append(
            {
                "model": model,
                "learning_rate": rate if rate == "default" else float(rate),
                "rank": int(rank),
                "alpha": float(alpha),
                "layers": layers,
                "prompts": len(base),
                "percents": {k: round(float(np.mean(v)), 1) for k, v in by_k.items()},
            }
        )
    return found


def _order(file: Path) -> tuple[str, str, int, float]:
    """Return the place of a recipe in the table; the default comes last."""
    model, rate, rank, _, layers = file.name.removesuffix(".jsonl.gz").split(",")
    return model, layers, int(rank), math.inf if rate == "default" else float(rate)


def recipe_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each recipe."""
    ks = list(found[0]["percents"])
    head = " | ".join(f"k = {k}" for k in ks)
    lines = [
        f"| model | learning rate | rank | alpha | layers | {head} |",
        "|---|--:|--:|--:|---|" + "--:|" * len(ks),
    ]
    return lines + [
        f"| {each['model']} | {each['learning_rate']} | {each['rank']} | {each['alpha']:g} "
        f"| {each['layers']} | " + " | ".join(f"{each['percents'][k]:.1f}" for k in ks) + " |"
        for each in found
    ]


def means_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each method, a column for each k."""
    ks = list(next(iter(results["means"].values())))
    lines = ["| | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "--:|" * len(ks)]
    for method, by_k in results["means"].items():
        cells = (
            f"{each['mean']:.1f} ({each['low']:.1f} to {each['high']:.1f})"
            for each in by_k.values()
        )
        lines.append(f"| {METHODS[method]} | " + " | ".join(cells) + " |")
    return lines


def domains_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each domain, a column for each method at its best k."""
    heads = [f"{METHODS[method]}, k = {k}" for method, k in results["best_k"].items()]
    lines = [
        "| domain | prompts | " + " | ".join(heads) + " |",
        "|---|--:|" + "--:|" * len(heads),
    ]
    return lines + [
        f"| {domain} | {results['prompts'][domain]} | "
        + " | ".join(f"{value:.1f}" for value in values.values())
        + " |"
        for domain, values in results["domains"].items()
    ]


def differences_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each pair of methods."""
    lines = ["| | k | points | 95 % | |", "|---|--:|--:|--:|---|"]
    for name, each in results["differences"].items():
        first, second = name.split(" less ")
        verdict = "cannot tell"
        if each["high"] < 0:
            verdict = "less, beyond doubt"
        elif each["low"] > 0:
            verdict = "more, beyond doubt"
        lines.append(
            f"| {METHODS[first]}, less {METHODS[second]} | {each['k'][0]}, {each['k'][1]} "
            f"| {each['mean']:+.1f} | {each['low']:+.1f} to {each['high']:+.1f} | {verdict} |"
        )
    return lines


TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "means": means_table,
    "differences": differences_table,
    "domains": domains_table,
}


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the page by their marks."""
    found = {name: "\n".join(recipe_table(results[name])) for name in ("recipes", "check")}
    for model, of_model in results["text"].items():
        for name, table in TABLES.items():
            found[f"{name}, {model}"] = "\n".join(table(of_model))
    return found


def write_page(results: Mapping[str, Any]) -> None:
    """Replace the tables between the marks of the page."""
    page = HERE / "real_models.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the JSON file and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--commit", required=True)
    asked = parser.parse_args()
    file = HERE / "real_models.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results = {
        "command": "python examples/evidence/real_models.py --data DIR --model FILE "
        "--embeddings FOLDER --out RUNS --rows ROWS",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        "recipes": recipes(asked.rates) if asked.rates else known["recipes"],
        "check": recipes(asked.check) if asked.check else known["check"],
        "text": {
            model: text_results(rows)
            for model, name in FILES.items()
            if (rows := read_rows(HERE / name))
        },
    }
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results)


if __name__ == "__main__":
    main()
