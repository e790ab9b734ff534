"""Turn what `run.py` measured into results.json and the tables of README.md.

python examples/evidence/summarize.py build/evidence/runs --commit COMMIT
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from langchain_sift.comparison import Report, Row
from langchain_sift.comparison.run_folder import read_report

HERE = Path(__file__).parent
SIFT = "ttft:sift"
TABLE = {
    "ttft:uncertainty": "US",
    "ttft:nearest": "NN",
    "ttft:nearest-repeated": "NN-F",
    SIFT: "SIFT",
    "ttft:sift:residual": "SIFT, residual",
    "ttft:hull": "HullFT",
    "ttft:mmr": "MMR",
    "ttft:random": "random",
    "rag:nearest": "RAG, NN",
    "rag:sift": "RAG, SIFT",
}
PROTOCOL = "document"


def read(folder: Path) -> dict[str, Report]:
    """Return a report for each domain, of all parts that were run."""
    rows: dict[str, list[Row]] = {}
    for path in sorted(folder.iterdir()):
        if (path / "run.json").exists():
            for row in read_report(path).rows:
                rows.setdefault(row.group, []).append(row)
    return {domain: Report(tuple(own)) for domain, own in sorted(rows.items())}


def complete(reports: dict[str, Report], methods: int) -> dict[str, Report]:
    """Leave out prompts of which a row is missing, as in a run that is not done."""
    found = {}
    for domain, report in reports.items():
        counts: dict[str, int] = {}
        for row in report.rows:
            counts[row.prompt] = counts.get(row.prompt, 0) + 1
        rows = tuple(row for row in report.rows if counts[row.prompt] == methods)
        if rows:
            found[domain] = Report(rows)
    return found


def mean_over_domains(values: Sequence[float], errors: Sequence[float]) -> dict[str, float]:
    """Return the mean, and its standard error over the prompts of the given domains."""
    return {
        "mean": round(float(np.mean(values)), 2),
        "standard_error": round(math.sqrt(float(np.sum(np.square(errors)))) / len(values), 2),
    }


def percents(reports: dict[str, Report], method: str, k: int) -> dict[str, Any]:
    """Return bits per byte in percent of base, for each domain and in the mean."""
    by_domain = {}
    for domain, report in reports.items():
        summary = report.summary(PROTOCOL, k=k)[method]
        by_domain[domain] = [round(summary.percent_of_base, 2), round(summary.standard_error, 2)]
    values, errors = zip(*by_domain.values(), strict=True)
    return {"domains": by_domain, **mean_over_domains(values, errors)}


def difference(reports: dict[str, Report], first: str, second: str, k: int) -> dict[str, Any]:
    """Return first less second, in points of percent of base, paired by prompt."""
    values, errors, by_domain = [], [], {}
    for domain, report in reports.items():
        found = report.difference(PROTOCOL, first, second, k=k)
        if found is not None and math.isfinite(found.interval.low):
            interval = found.interval
            by_domain[domain] = [
                round(interval.value, 2),
                round(interval.low, 2),
                round(interval.high, 2),
                found.verdict,
            ]
            values.append(interval.value)
            errors.append(paired_error(report, first, second, k))
    return {"domains": by_domain, **mean_over_domains(values, errors)}


def paired_error(report: Report, first: str, second: str, k: int) -> float:
    """Return the standard error of a difference: that of a method with the differences as bits."""
    rows = report.select(PROTOCOL, k=k)
    bits = {row.prompt: row.bits for row in rows if row.method == second}
    base = [row for row in rows if row.method == "base"]
    differences = [
        replace(row, method="difference", bits=row.bits - bits[row.prompt])
        for row in rows
        if row.method == first
    ]
    summary = Report((*base, *(replace(row, k=0) for row in differences))).summary(PROTOCOL)
    return summary["difference"].standard_error


def rows_of(reports: dict[str, Report], method: str, k: int) -> list[Row]:
    """Return the rows of a method in all domains."""
    return [
        row
        for report in reports.values()
        for row in report.select(PROTOCOL, k=k)
        if row.method == method
    ]


def stopping(reports: dict[str, Report], k: int) -> dict[str, Any]:
    """Return for each alpha the share of steps saved, and what that costs."""
    found = {}
    names = [name for name in next(iter(reports.values())).methods if "stopping_alpha" in name]
    whole = sum(row.used for row in rows_of(reports, SIFT, k))
    for name in names:
        used = [row.used for row in rows_of(reports, name, k)]
        cost = difference(reports, name, SIFT, k)
        found[name.partition("=")[2]] = {
            "documents": round(float(np.mean(used)), 1),
            "steps_saved": round(100 * (1 - sum(used) / whole), 1),
            "points": cost["mean"],
            "standard_error": cost["standard_error"],
        }
    return found


def fixed_beside(reports: dict[str, Report], k: int) -> dict[str, Any]:
    """Return what a fixed number of documents costs against the largest."""
    found = {}
    for fewer in next(iter(reports.values())).ks:
        own, errors = [], []
        for report in reports.values():
            rows = report.select(PROTOCOL, k=k)
            base = [row for row in rows if row.method == "base"]
            most = {row.prompt: row.bits for row in rows if row.method == SIFT}
            less = [
                replace(row, k=0, method="difference", bits=row.bits - most[row.prompt])
                for row in report.select(PROTOCOL, k=fewer)
                if row.method == SIFT
            ]
            summary = Report((*base, *less)).summary(PROTOCOL)["difference"]
            own.append(summary.percent_of_base)
            errors.append(summary.standard_error)
        found[str(fewer)] = mean_over_domains(own, errors)
    return found


def correlations(reports: dict[str, Report]) -> dict[str, Any]:
    """Return Spearman's correlation of sigma with what is left of the bits, for each domain."""
    found = {}
    for domain, report in reports.items():
        interval = report.uncertainty_correlation(PROTOCOL, SIFT)
        if interval is not None:
            found[domain] = [round(v, 2) for v in (interval.value, interval.low, interval.high)]
    return found


def gradients(row: Row) -> int:
    """Return how many gradients HullFT computes: a repeat's anew every second step."""
    streaks = [len(list(own)) for _, own in groupby(document.id for document in row.chosen)]
    return sum(math.ceil(streak / 2) for streak in streaks)


def equal_work(reports: dict[str, Report]) -> dict[str, Any]:
    """Return HullFT's quality for each k beside SIFT's with as many gradients computed."""
    ks = next(iter(reports.values())).ks
    sift = [percents(reports, SIFT, k)["mean"] for k in ks]
    found = {}
    for k in ks:
        count = float(np.mean([gradients(row) for row in rows_of(reports, "ttft:hull", k)]))
        found[str(k)] = {
            "gradients": round(count, 1),
            "hull": percents(reports, "ttft:hull", k)["mean"],
            # Between two measured k, quality falls about as the logarithm of k.
            "sift": round(float(np.interp(math.log(count), np.log(ks), sift)), 2),
        }
    return found


def costs(reports: dict[str, Report], methods: Sequence[str], k: int) -> dict[str, Any]:
    """Return mean seconds and documents of each method."""
    found = {}
    for method in methods:
        rows = rows_of(reports, method, k)
        found[method] = {
            "retrieval": round(float(np.mean([r.seconds_retrieval for r in rows])), 4),
            "training": round(float(np.mean([r.seconds_training for r in rows])), 3),
            "distinct": round(float(np.mean([r.distinct for r in rows])), 1),
            "redundancy": round(float(np.nanmean([r.redundancy for r in rows])), 3),
        }
    return found


def summarize(reports: dict[str, Report]) -> dict[str, Any]:
    """Return all that is told of the runs."""
    first = next(iter(reports.values()))
    k = max(first.ks)
    learning = [m for m in first.methods if m.startswith("ttft:")]
    rivals = [m for m in TABLE if m not in {SIFT, "rag:nearest", "rag:sift"}]
    noises = {"0.1": SIFT} | {
        m.partition("noise_variance=")[2]: m for m in learning if "noise_variance=" in m
    }
    return {
        "prompts": {domain: report.prompts(PROTOCOL) for domain, report in reports.items()},
        "k": k,
        "table": {method: percents(reports, method, k) for method in TABLE},
        "sift_less": {method: difference(reports, SIFT, method, k) for method in rivals},
        "by_k": {
            method: {str(one): percents(reports, method, one)["mean"] for one in first.ks}
            for method in TABLE
        },
        "by_noise_variance": {
            value: {str(one): percents(reports, method, one)["mean"] for one in first.ks}
            for value, method in sorted(noises.items(), key=lambda pair: float(pair[0]))
        },
        "stopping": stopping(reports, k),
        "fewer_documents": fixed_beside(reports, k),
        "correlations": correlations(reports),
        "equal_work": equal_work(reports),
        "costs": costs(reports, learning, k),
    }


def cell(pair: Sequence[float]) -> str:
    """Return a number with its standard error."""
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page, in Markdown."""
    domains = list(found["prompts"])
    lines = [
        "| domain | prompts | " + " | ".join(TABLE.values()) + " |",
        "|---|--:|" + "--:|" * len(TABLE),
    ]
    for domain in domains:
        cells = [cell(found["table"][method]["domains"][domain]) for method in TABLE]
        lines.append(f"| {domain} | {found['prompts'][domain]} | " + " | ".join(cells) + " |")
    means = [cell((found["table"][m]["mean"], found["table"][m]["standard_error"])) for m in TABLE]
    lines.append(f"| **mean** | {sum(found['prompts'].values())} | " + " | ".join(means) + " |")
    less = ["| SIFT less | points | domains: better, worse, cannot tell |", "|---|--:|---|"]
    for method, one in found["sift_less"].items():
        verdicts = [values[3] for values in one["domains"].values()]
        counts = ", ".join(str(verdicts.count(word)) for word in ("better", "worse", "cannot tell"))
        less.append(
            f"| {TABLE[method]} | {cell((one['mean'], one['standard_error']))} | {counts} |"
        )
    ks = list(next(iter(found["by_k"].values())))
    head = ["| | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "--:|" * len(ks)]
    by_k = head + [
        f"| {TABLE[m]} | " + " | ".join(f"{v:.1f}" for v in values.values()) + " |"
        for m, values in found["by_k"].items()
    ]
    noise = head + [
        f"| λ' = {value} | " + " | ".join(f"{v:.1f}" for v in values.values()) + " |"
        for value, values in found["by_noise_variance"].items()
    ]
    stop = ["| | documents | steps saved | points lost |", "|---|--:|--:|--:|"]
    stop += [
        f"| α = {alpha} | {one['documents']} | {one['steps_saved']} % | "
        f"{cell((one['points'], one['standard_error']))} |"
        for alpha, one in found["stopping"].items()
    ]
    stop += [
        f"| fixed k = {k} | {k} | {100 * (1 - int(k) / found['k']):.1f} % | "
        f"{cell((one['mean'], one['standard_error']))} |"
        for k, one in found["fewer_documents"].items()
        if int(k) < found["k"]
    ]
    correlation = ["| domain | correlation | 95 % |", "|---|--:|--:|"]
    correlation += [
        f"| {domain} | {value:.2f} | {low:.2f} to {high:.2f} |"
        for domain, (value, low, high) in found["correlations"].items()
    ]
    cost = [
        "| | seconds choosing | seconds training | distinct documents | redundancy |",
        "|---|--:|--:|--:|--:|",
    ]
    cost += [
        f"| {TABLE[m]} | {one['retrieval']:.3f} | {one['training']:.1f} | {one['distinct']} | "
        f"{one['redundancy']:.2f} |"
        for m, one in found["costs"].items()
        if m in TABLE
    ]
    work = ["| | gradients | HullFT | SIFT, as many gradients |", "|---|--:|--:|--:|"]
    work += [
        f"| HullFT, k = {k} | {one['gradients']} | {one['hull']:.1f} | {one['sift']:.1f} |"
        for k, one in found["equal_work"].items()
    ]
    named = {
        "work": work,
        "domains": lines, "differences": less, "k": by_k, "noise": noise,
        "stopping": stop, "correlations": correlation, "costs": cost,
    }  # fmt: skip
    return {name: "\n".join(rows) for name, rows in named.items()}


def main() -> None:
    """Write results.json, and the tables between the marks of README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--commit", default="", help="what was measured, for the record")
    asked = parser.parse_args()
    reports = read(asked.runs)
    most = max(
        sum(row.prompt == prompt for row in report.rows)
        for report in reports.values()
        for prompt in {row.prompt for row in report.rows}
    )
    found = {
        "command": "python examples/evidence/run.py ...; python examples/evidence/summarize.py ...",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        **summarize(complete(reports, most)),
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    for name, table in tables(found).items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        page = re.sub(pattern, lambda m, t=table: m[1] + t + m[2], page, flags=re.DOTALL)
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
