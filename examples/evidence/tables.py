"""Write the tables of the page in Markdown, from the results of `summarize.py`."""

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
"""Methods of the main table, with their names on the page."""


def cell(pair: Sequence[float]) -> str:
    """Return a number with its standard error."""
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def domains_table(results: Mapping[str, Any]) -> list[str]:
    """Return the main table: a line for each domain, a column for each method."""
    table = results["table"]
    names = [TABLE[method] for method in table]
    lines = ["| domain | prompts | " + " | ".join(names) + " |", "|---|--:|" + "--:|" * len(names)]
    for domain, prompts in results["prompts"].items():
        pairs = [result["domains"].get(domain) for result in table.values()]
        cells = ["–" if pair is None else cell(pair) for pair in pairs]
        lines.append(f"| {domain} | {prompts} | " + " | ".join(cells) + " |")
    means = [cell((result["mean"], result["standard_error"])) for result in table.values()]
    total = sum(results["prompts"].values())
    return [*lines, f"| **mean** | {total} | " + " | ".join(means) + " |"]


def ks_table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each name, a column for each k."""
    ks = list(next(iter(rows.values()), {}))
    head = ["| | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "--:|" * len(ks)]
    return head + [
        f"| {name} | " + " | ".join(f"{value:.1f}" for value in values.values()) + " |"
        for name, values in rows.items()
    ]


def nearest_table(results: Mapping[str, Any]) -> list[str]:
    """Return the difference of SIFT and nearest neighbours, a line for each domain."""
    lines = ["| domain | prompts | points | 95 % | SIFT is |", "|---|--:|--:|--:|---|"]
    difference = results["sift_less"][NEAREST]
    for domain, of_domain in difference["domains"].items():
        low, high = of_domain["interval"]
        points = cell((of_domain["points"], of_domain["standard_error"]))
        lines.append(
            f"| {domain} | {of_domain['prompts']} | {points} | {low:.1f} to {high:.1f} | "
            f"{of_domain['verdict']} |"
        )
    prompts = sum(of_domain["prompts"] for of_domain in difference["domains"].values())
    mean = cell((difference["mean"], difference["standard_error"]))
    return [*lines, f"| **mean** | {prompts} | {mean} | | |"]


def rivals_table(results: Mapping[str, Any]) -> list[str]:
    """Return the mean difference of SIFT and each other method."""
    lines = ["| SIFT less | points | domains: better, worse, cannot tell |", "|---|--:|---|"]
    for method, difference in results["sift_less"].items():
        verdicts = [domain["verdict"] for domain in difference["domains"].values()]
        counts = ", ".join(str(verdicts.count(word)) for word in ("better", "worse", "cannot tell"))
        points = cell((difference["mean"], difference["standard_error"]))
        lines.append(f"| {TABLE[method]} | {points} | {counts} |")
    return lines


def stopping_table(results: Mapping[str, Any]) -> list[str]:
    """Return savings and costs of adaptive stopping and of a smaller fixed number."""
    lines = ["| | documents | steps saved | points lost |", "|---|--:|--:|--:|"]
    lines += [
        f"| α = {alpha} | {result['documents']} | {result['steps_saved']} % | "
        f"{cell((result['points'], result['standard_error']))} |"
        for alpha, result in results["stopping"].items()
    ]
    return lines + [
        f"| fixed k = {k} | {k} | {100 * (1 - int(k) / results['k']):.1f} % | "
        f"{cell((result['mean'], result['standard_error']))} |"
        for k, result in results["fewer_documents"].items()
        if int(k) < results["k"]
    ]


def settings_table(results: Mapping[str, Any]) -> list[str]:
    """Return the results of other settings next to the usual results on the same prompts."""
    heads = ["", "domains", "prompts", "NN", "SIFT", "SIFT less NN", "as usual: NN", "SIFT"]
    heads += ["SIFT less NN", "SIFT there less usual"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for name, setting in results["settings"].items():
        cells = [str(setting["domains"]), str(setting["prompts"])]
        for measured in (setting["there"], setting["usual"]):
            cells += [f"{measured[method]['mean']:.1f}" for method in (NEAREST, SIFT)]
            cells.append(cell((measured["less"]["mean"], measured["less"]["standard_error"])))
        difference = setting["there_less_usual"]
        cells.append(cell((difference["mean"], difference["standard_error"])))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables from results.json by name."""
    correlation = ["| domain | prompts | correlation | 95 % |", "|---|--:|--:|--:|"]
    correlation += [
        f"| {domain} | {prompts} | {value:.2f} | {low:.2f} to {high:.2f} |"
        for domain, (prompts, value, low, high) in results["correlations"].items()
    ]
    cost = [
        "| | seconds choosing | seconds training | distinct documents | redundancy |",
        "|---|--:|--:|--:|--:|",
    ]
    cost += [
        f"| {TABLE[method]} | {costs['retrieval']:.3f} | {costs['training']:.1f} | "
        f"{costs['distinct']} | {costs['redundancy']:.2f} |"
        for method, costs in results["costs"].items()
    ]
    noises = [f"SIFT, λ' = {value}, less HullFT" for value in results["equal_work"]]
    work = [
        f"| | gradients | HullFT | {' | '.join(noises)} |",
        "|---|--:|--:|" + "--:|" * len(noises),
    ]
    for k, first in next(iter(results["equal_work"].values()), {}).items():
        each = [by_k[k] for by_k in results["equal_work"].values()]
        cells = [cell((result["mean"], result["standard_error"])) for result in each]
        line = f"| HullFT, k = {k} | {first['gradients']} | {first['hull']:.1f} |"
        work.append(f"{line} {' | '.join(cells)} |")
    named = {
        "domains": domains_table(results),
        "nearest": nearest_table(results),
        "differences": rivals_table(results),
        "k": ks_table({TABLE[m]: values for m, values in results["by_k"].items()}),
        "noise": ks_table(
            {f"λ' = {value}": by_k for value, by_k in results["by_noise_variance"].items()}
        ),
        "stopping": stopping_table(results),
        "correlations": correlation,
        "costs": cost,
        "work": work,
        "settings": settings_table(results),
    }
    return {name: "\n".join(lines) for name, lines in named.items() if len(lines) > 2}


def calibration_table(results: Mapping[str, Any]) -> str:
    """Return the calibrated settings next to the best of the grid, a line for each domain."""
    heads = ["domain", "λ' chosen", "λ' best", "% of base, chosen", "best", "worse by"]
    heads += ["other orders within 1 %", "of the grid's steps"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for domain, result in results["domains"].items():
        cells = [
            f"{result['chosen']['noise_variance']:g}",
            f"{result['best']['noise_variance']:g}",
            f"{result['percent_of_base_chosen']:.1f}",
            f"{result['percent_of_base_best']:.1f}",
            f"{result['worse_by_percent']:.2f} %",
            f"{100 * result['other_orders']['within_1_percent']:.0f} %",
            f"{100 * result['share_of_steps']:.1f} %",
        ]
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def redundancy_table(results: Mapping[str, Any]) -> str:
    """Return the results with copies of every document, a line for each domain."""
    lines = [
        "| domain | prompts | SIFT, each once | each fifty times | plain NN | each fifty times |"
    ]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for domain, result in results["domains"].items():
        cells = [
            cell(result[copies][method])
            for method in ("ttft:sift", "ttft:plain")
            for copies in ("once", "fifty times")
        ]
        lines.append(f"| {domain} | {result['prompts']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def questions_table(results: Mapping[str, Any]) -> str:
    """Return the results on questions, a line for each method."""
    lines = ["| | % of base | F1 | exact match |", "|---|--:|--:|--:|"]
    for method, result in results.items():
        percent = cell((result["percent_of_base"], result["standard_error"]))
        lines.append(f"| {method} | {percent} | {result['f1']:.3f} | {result['exact_match']:.3f} |")
    return "\n".join(lines)


def all_tables(folder: Path) -> dict[str, str]:
    """Return all tables by name, from the result files in a folder."""
    results, calibration, redundancy, questions = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("results", "calibration", "redundancy", "qa")
    )
    return {
        **tables(results),
        "calibration": calibration_table(calibration),
        "redundancy": redundancy_table(redundancy),
        "questions": questions_table(questions),
    }


def with_tables(page: str, new_tables: Mapping[str, str]) -> str:
    """Replace the tables between the marks of the page."""
    for name, table in new_tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n?<!-- end -->)"
        page = re.sub(pattern, lambda m, t=table: f"{m[1]}{t}\n<!-- end -->", page, flags=re.DOTALL)
    return page
