"""Add what `run.py` measured to rows.jsonl.gz, and write results.json and README.md's tables.

python examples/evidence/summarize.py build/evidence --commit COMMIT

Without a folder the tables are made of the rows that are there. The tables of the earlier run, of
which no rows were kept, are made of earlier_results.json; that of `calibrate`, of what
calibration.py wrote. A table goes where the page has a mark for it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rows import ROWS, cluster_of, read_rows, write_rows
from run import tuned_on

from langchain_sift.comparison import Report, Row
from langchain_sift.comparison.run_folder import read_report

HERE = Path(__file__).parent
SIFT, NEAREST, HULL = "ttft:sift", "ttft:nearest", "ttft:hull"
TABLE = {
    "ttft:uncertainty": "US",
    NEAREST: "NN",
    "ttft:nearest-repeated": "NN-F",
    SIFT: "SIFT",
    "ttft:sift:residual": "SIFT, residual",
    HULL: "HullFT",
    "ttft:mmr": "MMR",
    "ttft:random": "random",
    "rag:nearest": "RAG, NN",
    "rag:sift": "RAG, SIFT",
}
COMPARED = ("base", NEAREST, SIFT)  # before all others
PROTOCOL = "document"
Reports = Mapping[str, Report]


def gathered(folder: Path | None) -> list[Row]:
    """Return the rows that were there, and those of a folder of runs."""
    rows = {row.key: row for row in read_rows(ROWS)}
    for path in sorted(folder.iterdir()) if folder else ():
        if (path / "run.json").exists():
            for row in read_report(path).rows:
                rows[row.key] = replace(row, source=cluster_of(row.source))
    left_out = tuned_on()
    return [row for row in rows.values() if row.prompt not in left_out]


def by_domain(rows: Iterable[Row]) -> dict[str, Report]:
    """Return a report for each domain, of the prompts that SIFT and its first rival have."""
    known = list(rows)
    done = {method: {row.prompt for row in known if row.method == method} for method in COMPARED}
    found: dict[str, list[Row]] = {}
    for row in known:
        if all(row.prompt in prompts for prompts in done.values()):
            found.setdefault(row.group, []).append(row)
    return {domain: Report(tuple(own)) for domain, own in sorted(found.items())}


def common(report: Report) -> Report:
    """Return the rows of the prompts that all of the table's methods of this domain have."""
    prompts: dict[str, set[str]] = {}
    for row in report.rows:
        if row.method in TABLE:
            prompts.setdefault(row.method, set()).add(row.prompt)
    both = set.intersection(*prompts.values())
    return Report(tuple(row for row in report.rows if row.prompt in both))


def mean_over_domains(values: Sequence[float], errors: Sequence[float]) -> dict[str, float]:
    """Return the mean, and its standard error over the prompts of the given domains."""
    return {
        "mean": round(float(np.mean(values)), 2),
        "standard_error": round(math.sqrt(float(np.sum(np.square(errors)))) / len(values), 2),
    }


def percents(reports: Reports, method: str, k: int) -> dict[str, Any]:
    """Return bits per byte in percent of base, for each domain that has it and in the mean."""
    found = {}
    for domain, report in reports.items():
        summary = report.summary(PROTOCOL, k=k).get(method)
        if summary is not None:
            found[domain] = [round(summary.percent_of_base, 2), round(summary.standard_error, 2)]
    values, errors = zip(*found.values(), strict=True)
    return {"domains": found, **mean_over_domains(values, errors)}


def less(report: Report, rows: Iterable[Row], bits: Mapping[str, float]) -> tuple[float, float]:
    """Return rows less other bits of the same prompts: points of percent of base, and error."""
    base = [row for row in report.select(PROTOCOL) if row.method == "base"]
    differences = [
        replace(row, k=0, method="difference", bits=row.bits - bits[row.prompt])
        for row in rows
        if row.prompt in bits
    ]
    summary = Report((*base, *differences)).summary(PROTOCOL)["difference"]
    return summary.percent_of_base, summary.standard_error


def difference(reports: Reports, first: str, second: str, k: int) -> dict[str, Any]:
    """Return first less second, in points of percent of base, paired by prompt."""
    values, errors, domains = [], [], {}
    for domain, report in reports.items():
        found = report.difference(PROTOCOL, first, second, k=k)
        if found is not None and math.isfinite(found.interval.low):
            rows = report.select(PROTOCOL, k=k)
            bits = {row.prompt: row.bits for row in rows if row.method == second}
            value, error = less(report, [row for row in rows if row.method == first], bits)
            interval = found.interval
            domains[domain] = {
                "prompts": found.prompts,
                "points": round(value, 2),
                "standard_error": round(error, 2),
                "interval": [round(interval.low, 2), round(interval.high, 2)],
                "verdict": found.verdict,
            }
            values.append(value)
            errors.append(error)
    return {"domains": domains, **mean_over_domains(values, errors)}


def stopping(reports: Reports, k: int) -> dict[str, Any]:
    """Return for each alpha the share of steps saved, and what that costs."""
    found = {}
    names = {m for report in reports.values() for m in report.methods if "stopping_alpha" in m}
    whole = sum(row.used for row in rows_of(reports, SIFT, k))
    for name in sorted(names, key=lambda name: float(name.partition("=")[2])):
        used = [row.used for row in rows_of(reports, name, k)]
        cost = difference(reports, name, SIFT, k)
        found[name.partition("=")[2]] = {
            "documents": round(float(np.mean(used)), 1),
            "steps_saved": round(100 * (1 - sum(used) / whole), 1),
            "points": cost["mean"],
            "standard_error": cost["standard_error"],
            "more_bits": round(100 * cost["mean"] / percents(reports, SIFT, k)["mean"], 2),
        }
    return found


def fewer(reports: Reports, k: int) -> dict[str, Any]:
    """Return what a smaller fixed number of documents costs against the largest."""
    found = {}
    for count in next(iter(reports.values())).ks:
        pairs = []
        for report in reports.values():
            most = {r.prompt: r.bits for r in report.select(PROTOCOL, k=k) if r.method == SIFT}
            rows = [row for row in report.select(PROTOCOL, k=count) if row.method == SIFT]
            pairs.append(less(report, rows, most))
        found[str(count)] = mean_over_domains(*zip(*pairs, strict=True))
    return found


def correlations(reports: Reports) -> dict[str, Any]:
    """Return Spearman's correlation of sigma with what is left of the bits, for each domain."""
    found = {}
    for domain, report in reports.items():
        interval = report.uncertainty_correlation(PROTOCOL, SIFT)
        if interval is not None:
            values = [round(v, 2) for v in (interval.value, interval.low, interval.high)]
            found[domain] = [len(report.uncertainty_and_gain(PROTOCOL, SIFT)), *values]
    return found


def gradients(row: Row) -> int:
    """Return how many gradients HullFT computes: a repeat's anew every second step."""
    streaks = [len(list(own)) for _, own in groupby(document.id for document in row.chosen)]
    return sum(math.ceil(streak / 2) for streak in streaks)


def equal_work(reports: Reports) -> dict[str, Any]:
    """Return SIFT with as many gradients as HullFT computes, less HullFT, for each k."""
    with_hull = {d: report for d, report in reports.items() if HULL in report.methods}
    found = {}
    for k in next(iter(with_hull.values())).ks:
        pairs, counts = [], []
        for report in with_hull.values():
            hull = [row for row in report.select(PROTOCOL, k=k) if row.method == HULL]
            counts += [gradients(row) for row in hull]
            rows = [interpolated(report, row.prompt, gradients(row)) for row in hull]
            pairs.append(less(report, rows, {row.prompt: row.bits for row in hull}))
        found[str(k)] = {
            "prompts": len(counts),
            "gradients": round(float(np.mean(counts)), 1),
            "hull": percents(with_hull, HULL, k)["mean"],
            **mean_over_domains(*zip(*pairs, strict=True)),
        }
    return found


def interpolated(report: Report, prompt: str, count: int) -> Row:
    """Return a prompt's row of SIFT as it were with a number of documents not measured.

    Between two measured k, quality falls about as the logarithm of k.
    """
    rows = [row for row in report.rows if row.method == SIFT and row.prompt == prompt]
    rows.sort(key=lambda row: row.k)
    bits = np.interp(math.log(count), np.log([r.k for r in rows]), [r.bits for r in rows])
    return replace(rows[-1], bits=float(bits))


def costs(reports: Reports, methods: Sequence[str], k: int) -> dict[str, Any]:
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


def rows_of(reports: Reports, method: str, k: int) -> list[Row]:
    """Return the rows of a method in all domains."""
    return [
        row
        for report in reports.values()
        for row in report.select(PROTOCOL, k=k)
        if row.method == method
    ]


def summarize(reports: Reports) -> dict[str, Any]:
    """Return all that is told of the rows."""
    methods = list(dict.fromkeys(m for report in reports.values() for m in report.methods))
    k = max(next(iter(reports.values())).ks)
    same = {domain: common(report) for domain, report in reports.items()}
    shown = [method for method in TABLE if method in methods]
    everywhere = [m for m in shown if all(m in report.methods for report in reports.values())]
    rivals = [m for m in shown if m not in {SIFT, "rag:nearest", "rag:sift"}]
    noises = {"0.1": SIFT} | {
        m.partition("noise_variance=")[2]: m for m in methods if "noise_variance=" in m
    }
    ks = next(iter(reports.values())).ks
    return {
        "prompts": {domain: report.prompts(PROTOCOL) for domain, report in same.items()},
        "k": k,
        "table": {method: percents(same, method, k) for method in shown},
        "sift_less": {method: difference(reports, SIFT, method, k) for method in rivals},
        "by_k": {
            method: {str(one): percents(reports, method, one)["mean"] for one in ks}
            for method in everywhere
        },
        "by_noise_variance": by_noise(reports, noises, ks),
        "stopping": stopping(reports, k),
        "fewer_documents": fewer(reports, k),
        "correlations": correlations(reports),
        "equal_work": equal_work(reports) if HULL in methods else {},
        "costs": costs(reports, [m for m in shown if m.startswith("ttft:")], k),
    }


def by_noise(reports: Reports, noises: Mapping[str, str], ks: Sequence[int]) -> dict[str, Any]:
    """Return percent of base for each λ' and k, on the prompts that have all of them."""
    kept = {}
    for domain, report in reports.items():
        prompts = [{r.prompt for r in report.rows if r.method == m} for m in noises.values()]
        both = set.intersection(*prompts)
        if both:
            kept[domain] = Report(tuple(row for row in report.rows if row.prompt in both))
    return {
        value: {str(k): percents(kept, method, k)["mean"] for k in ks}
        for value, method in sorted(noises.items(), key=lambda pair: float(pair[0]))
        if kept and len(noises) > 1
    }


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
    work = ["| | gradients | HullFT | SIFT less HullFT |", "|---|--:|--:|--:|"]
    work += [
        f"| HullFT, k = {k} | {one['gradients']} | {one['hull']:.1f} | "
        f"{cell((one['mean'], one['standard_error']))} |"
        for k, one in found["equal_work"].items()
    ]
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
    }
    return {name: "\n".join(lines) for name, lines in named.items() if len(lines) > 2}


def earlier_tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the run of which no rows were kept."""
    named = {
        "earlier-domains": domains_table(found),
        "earlier-k": ks_table({TABLE[m]: values for m, values in found["by_k"].items()}),
        "earlier-noise": ks_table(
            {f"λ' = {value}": own for value, own in found["by_noise_variance"].items()}
        ),
    }
    return {name: "\n".join(lines) for name, lines in named.items()}


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


def all_tables(folder: Path) -> dict[str, str]:
    """Return all tables that the page may have, of the result files in a folder."""
    found, earlier, calibration = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("results.json", "earlier_results.json", "calibration.json")
    )
    return {
        **tables(found),
        **earlier_tables(earlier),
        "calibration": calibration_table(calibration),
    }


def with_tables(page: str, made: Mapping[str, str]) -> str:
    """Return the page with its tables between their marks."""
    for name, table in made.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n?<!-- end -->)"
        page = re.sub(pattern, lambda m, t=table: f"{m[1]}{t}\n<!-- end -->", page, flags=re.DOTALL)
    return page


def main() -> None:
    """Write rows.jsonl.gz, results.json, and the tables between the marks of README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--commit", default="", help="what was measured, for the record")
    asked = parser.parse_args()
    rows = gathered(asked.runs)
    write_rows(ROWS, rows)
    found = {
        "command": "python examples/evidence/run.py ...; python examples/evidence/summarize.py ...",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        **summarize(by_domain(read_rows(ROWS))),
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    page = with_tables(page, all_tables(HERE))
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
