"""The tables of the page, in Markdown, of what `summarize.py` found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NEAREST, SIFT = "ttft:nearest", "ttft:sift"
TABLE = {
    "ttft:uncertainty": "US",
    NEAREST: "NN",
    "ttft:nearest-repeated": "NN-F",
    SIFT: "SIFT",
    "ttft:sift:residual": "SIFT, residual",
    "ttft:hull": "HullFT",
    "ttft:mmr": "MMR",
    "ttft:random": "random",
    "rag:nearest": "RAG, NN",
    "rag:sift": "RAG, SIFT",
}
"""Methods of the table, by the names that the page has for them."""


def cell(pair: Sequence[float]) -> str:
    """Return a number with its standard error."""
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def domains_table(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each domain."""
    table = found["table"]
    names = [TABLE[method] for method in table]
    lines = ["| domain | prompts | " + " | ".join(names) + " |", "|---|--:|" + "--:|" * len(names)]
    for domain, prompts in found["prompts"].items():
        pairs = [one["domains"].get(domain) for one in table.values()]
        cells = ["–" if pair is None else cell(pair) for pair in pairs]
        lines.append(f"| {domain} | {prompts} | " + " | ".join(cells) + " |")
    means = [cell((one["mean"], one["standard_error"])) for one in table.values()]
    total = sum(found["prompts"].values())
    return [*lines, f"| **mean** | {total} | " + " | ".join(means) + " |"]


def ks_table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each name, a column for each k."""
    ks = list(next(iter(rows.values()), {}))
    head = ["| | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "--:|" * len(ks)]
    return head + [
        f"| {name} | " + " | ".join(f"{value:.1f}" for value in values.values()) + " |"
        for name, values in rows.items()
    ]


def nearest_table(found: Mapping[str, Any]) -> list[str]:
    """Return SIFT less nearest neighbours, a line for each domain."""
    lines = ["| domain | prompts | points | 95 % | SIFT is |", "|---|--:|--:|--:|---|"]
    one = found["sift_less"][NEAREST]
    for domain, own in one["domains"].items():
        low, high = own["interval"]
        points = cell((own["points"], own["standard_error"]))
        lines.append(
            f"| {domain} | {own['prompts']} | {points} | {low:.1f} to {high:.1f} | "
            f"{own['verdict']} |"
        )
    prompts = sum(own["prompts"] for own in one["domains"].values())
    mean = cell((one["mean"], one["standard_error"]))
    return [*lines, f"| **mean** | {prompts} | {mean} | | |"]


def rivals_table(found: Mapping[str, Any]) -> list[str]:
    """Return SIFT less each other method, in the mean."""
    lines = ["| SIFT less | points | domains: better, worse, cannot tell |", "|---|--:|---|"]
    for method, one in found["sift_less"].items():
        verdicts = [own["verdict"] for own in one["domains"].values()]
        counts = ", ".join(str(verdicts.count(word)) for word in ("better", "worse", "cannot tell"))
        points = cell((one["mean"], one["standard_error"]))
        lines.append(f"| {TABLE[method]} | {points} | {counts} |")
    return lines


def stopping_table(found: Mapping[str, Any]) -> list[str]:
    """Return what stopping by itself, and a smaller fixed number, saves and costs."""
    lines = ["| | documents | steps saved | points lost |", "|---|--:|--:|--:|"]
    lines += [
        f"| α = {alpha} | {one['documents']} | {one['steps_saved']} % | "
        f"{cell((one['points'], one['standard_error']))} |"
        for alpha, one in found["stopping"].items()
    ]
    return lines + [
        f"| fixed k = {k} | {k} | {100 * (1 - int(k) / found['k']):.1f} % | "
        f"{cell((one['mean'], one['standard_error']))} |"
        for k, one in found["fewer_documents"].items()
        if int(k) < found["k"]
    ]


def settings_table(found: Mapping[str, Any]) -> list[str]:
    """Return what other models, memories and embeddings give, beside the same prompts as usual."""
    heads = ["", "domains", "prompts", "NN", "SIFT", "SIFT less NN", "as usual: NN", "SIFT"]
    heads += ["SIFT less NN", "SIFT there less usual"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for name, one in found["settings"].items():
        cells = [str(one["domains"]), str(one["prompts"])]
        for own in (one["there"], one["usual"]):
            cells += [f"{own[method]['mean']:.1f}" for method in (NEAREST, SIFT)]
            cells.append(cell((own["less"]["mean"], own["less"]["standard_error"])))
        apart = one["there_less_usual"]
        cells.append(cell((apart["mean"], apart["standard_error"])))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the page, in Markdown."""
    correlation = ["| domain | prompts | correlation | 95 % |", "|---|--:|--:|--:|"]
    correlation += [
        f"| {domain} | {prompts} | {value:.2f} | {low:.2f} to {high:.2f} |"
        for domain, (prompts, value, low, high) in found["correlations"].items()
    ]
    cost = [
        "| | seconds choosing | seconds training | distinct documents | redundancy |",
        "|---|--:|--:|--:|--:|",
    ]
    cost += [
        f"| {TABLE[m]} | {one['retrieval']:.3f} | {one['training']:.1f} | {one['distinct']} | "
        f"{one['redundancy']:.2f} |"
        for m, one in found["costs"].items()
    ]
    noises = [f"SIFT, λ' = {value}, less HullFT" for value in found["equal_work"]]
    work = [
        f"| | gradients | HullFT | {' | '.join(noises)} |",
        "|---|--:|--:|" + "--:|" * len(noises),
    ]
    for k, first in next(iter(found["equal_work"].values()), {}).items():
        each = [own[k] for own in found["equal_work"].values()]
        cells = [cell((one["mean"], one["standard_error"])) for one in each]
        line = f"| HullFT, k = {k} | {first['gradients']} | {first['hull']:.1f} |"
        work.append(f"{line} {' | '.join(cells)} |")
    named = {
        "domains": domains_table(found),
        "nearest": nearest_table(found),
        "differences": rivals_table(found),
        "k": ks_table({TABLE[m]: values for m, values in found["by_k"].items()}),
        "noise": ks_table({f"λ' = {v}": own for v, own in found["by_noise_variance"].items()}),
        "stopping": stopping_table(found),
        "correlations": correlation,
        "costs": cost,
        "work": work,
        "settings": settings_table(found),
    }
    return {name: "\n".join(lines) for name, lines in named.items() if len(lines) > 2}


def calibration_table(found: Mapping[str, Any]) -> str:
    """Return what `calibrate` chose beside the best of the grid, a line for each domain."""
    heads = ["domain", "λ' chosen", "λ' best", "% of base, chosen", "best", "worse by"]
    heads += ["other orders within 1 %", "of the grid's steps"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for domain, one in found["domains"].items():
        cells = [
            f"{one['chosen']['noise_variance']:g}",
            f"{one['best']['noise_variance']:g}",
            f"{one['percent_of_base_chosen']:.1f}",
            f"{one['percent_of_base_best']:.1f}",
            f"{one['worse_by_percent']:.2f} %",
            f"{100 * one['other_orders']['within_1_percent']:.0f} %",
            f"{100 * one['share_of_steps']:.1f} %",
        ]
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def redundancy_table(found: Mapping[str, Any]) -> str:
    """Return what copies of every document do, a line for each domain."""
    lines = [
        "| domain | prompts | SIFT, each once | each fifty times | plain NN | each fifty times |"
    ]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for domain, one in found["domains"].items():
        cells = [
            cell(one[copies][method])
            for method in ("ttft:sift", "ttft:plain")
            for copies in ("once", "fifty times")
        ]
        lines.append(f"| {domain} | {one['prompts']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def questions_table(found: Mapping[str, Any]) -> str:
    """Return what each method makes of questions, a line for each."""
    lines = ["| | % of base | F1 | exact match |", "|---|--:|--:|--:|"]
    for method, one in found.items():
        percent = cell((one["percent_of_base"], one["standard_error"]))
        lines.append(f"| {method} | {percent} | {one['f1']:.3f} | {one['exact_match']:.3f} |")
    return "\n".join(lines)


def all_tables(folder: Path) -> dict[str, str]:
    """Return all tables that the page may have, of the result files in a folder."""
    found, calibration, redundancy, questions = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("results", "calibration", "redundancy", "qa")
    )
    return {
        **tables(found),
        "calibration": calibration_table(calibration),
        "redundancy": redundancy_table(redundancy),
        "questions": questions_table(questions),
    }


def with_tables(page: str, made: Mapping[str, str]) -> str:
    """Return the page with its tables between their marks."""
    for name, table in made.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n?<!-- end -->)"
        page = re.sub(pattern, lambda m, t=table: f"{m[1]}{t}\n<!-- end -->", page, flags=re.DOTALL)
    return page
