"""Add the results of `run.py` to a file of rows, and write results.json and the page's tables.

    python examples/evidence/summarize.py build/evidence --commit COMMIT
    python examples/evidence/summarize.py build/quarter --rows rows_quarter_memory.jsonl.gz

Without a folder, the tables are written from the existing rows. The table of `calibrate` is written
from the results of calibration.py. The page, README.md, has a mark for each table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rows import ROWS, cluster_of, read_rows, write_rows
from run import NOISE_VARIANCE, tuned_on
from tables import NEAREST, SIFT, TABLE, all_tables, with_tables

from langchain_sift.comparison import Report, Row
from langchain_sift.comparison.run_folder import read_report

HERE = Path(__file__).parent
HULL = "ttft:hull"
REQUIRED = ("base", NEAREST, SIFT)  # a prompt counts if these were measured on it
PROTOCOL = "document"
# Files of the rows that were measured with other settings.
SETTINGS = {
    "a model of 1.3 million parameters": "rows_small_model.jsonl.gz",
    "a quarter of the memory": "rows_quarter_memory.jsonl.gz",
    "a sentence-transformer": "rows_sentence_transformer.jsonl.gz",
}
Reports = Mapping[str, Report]


def merge_rows(known: Path, folder: Path | None) -> list[Row]:
    """Merge the rows of a file with those of a folder of runs."""
    rows = {row.key: row for row in read_rows(known)}
    for path in sorted(folder.iterdir()) if folder else ():
        if (path / "run.json").exists():
            for row in read_report(path).rows:
                rows[row.key] = replace(row, source=cluster_of(row.source))
    left_out = tuned_on()
    return [row for row in rows.values() if row.prompt not in left_out]


def by_domain(rows: Iterable[Row]) -> dict[str, Report]:
    """Return a report for each domain, of the prompts with the required methods."""
    known = list(rows)
    done = {method: {row.prompt for row in known if row.method == method} for method in REQUIRED}
    domains: dict[str, list[Row]] = {}
    for row in known:
        if all(row.prompt in prompts for prompts in done.values()):
            domains.setdefault(row.group, []).append(row)
    return {domain: Report(tuple(rows)) for domain, rows in sorted(domains.items())}


def common(report: Report) -> Report:
    """Return the rows of the prompts with all methods that the table has in this domain."""
    prompts: dict[str, set[str]] = {}
    for row in report.rows:
        if row.method in TABLE:
            prompts.setdefault(row.method, set()).add(row.prompt)
    both = set.intersection(*prompts.values())
    return Report(tuple(row for row in report.rows if row.prompt in both))


def mean_over_domains(values: Sequence[float], errors: Sequence[float]) -> dict[str, float]:
    """Return the mean over domains, and its standard error over their prompts."""
    return {
        "mean": round(float(np.mean(values)), 2),
        "standard_error": round(math.sqrt(float(np.sum(np.square(errors)))) / len(values), 2),
    }


def percents(reports: Reports, method: str, k: int) -> dict[str, Any]:
    """Return the bits of a method in percent of base, by domain and in the mean."""
    by_domain = {}
    for domain, report in reports.items():
        summary = report.summary(PROTOCOL, k=k).get(method)
        if summary is not None:
            values = (summary.percent_of_base, summary.standard_error)
            by_domain[domain] = [round(value, 2) for value in values]
    percents_of_base, errors = zip(*by_domain.values(), strict=True)
    return {"domains": by_domain, **mean_over_domains(percents_of_base, errors)}


def less(report: Report, rows: Iterable[Row], bits: Mapping[str, float]) -> tuple[float, float]:
    """Subtract other bits of the same prompts: points of percent of base, and their error."""
    base = [row for row in report.select(PROTOCOL) if row.method == "base"]
    differences = [
        replace(row, k=0, method="difference", bits=row.bits - bits[row.prompt])
        for row in rows
        if row.prompt in bits
    ]
    summary = Report((*base, *differences)).summary(PROTOCOL)["difference"]
    return summary.percent_of_base, summary.standard_error


def difference(reports: Reports, first: str, second: str, k: int) -> dict[str, Any]:
    """Subtract the second method from the first, in points of percent of base, by prompt."""
    values, errors, domains = [], [], {}
    for domain, report in reports.items():
        paired = report.difference(PROTOCOL, first, second, k=k)
        if paired is not None and math.isfinite(paired.interval.low):
            rows = report.select(PROTOCOL, k=k)
            bits = {row.prompt: row.bits for row in rows if row.method == second}
            value, error = less(report, [row for row in rows if row.method == first], bits)
            interval = paired.interval
            domains[domain] = {
                "prompts": paired.prompts,
                "points": round(value, 2),
                "standard_error": round(error, 2),
                "interval": [round(interval.low, 2), round(interval.high, 2)],
                "verdict": paired.verdict,
            }
            values.append(value)
            errors.append(error)
    return {"domains": domains, **mean_over_domains(values, errors)}


def stopping(reports: Reports, k: int) -> dict[str, Any]:
    """Return for each alpha the percentage of steps that is saved, and its cost in quality."""
    by_alpha = {}
    names = {m for report in reports.values() for m in report.methods if "stopping_alpha" in m}
    whole = sum(row.used for row in rows_of(reports, SIFT, k))
    for name in sorted(names, key=lambda name: float(name.partition("=")[2])):
        used = [row.used for row in rows_of(reports, name, k)]
        cost = against_most(reports, name, k, k)
        by_alpha[name.partition("=")[2]] = {
            "documents": round(float(np.mean(used)), 1),
            "steps_saved": round(100 * (1 - sum(used) / whole), 1),
            "points": cost["mean"],
            "standard_error": cost["standard_error"],
            "more_bits": round(100 * cost["mean"] / percents(reports, SIFT, k)["mean"], 2),
        }
    return by_alpha


def fewer(reports: Reports, k: int) -> dict[str, Any]:
    """Return the cost in quality of a smaller fixed number of documents."""
    counts = next(iter(reports.values())).ks
    return {str(count): against_most(reports, SIFT, count, k) for count in counts}


def against_most(reports: Reports, method: str, count: int, k: int) -> dict[str, float]:
    """Subtract SIFT with k documents from a method with `count` documents, mean over domains."""
    pairs = []
    for report in reports.values():
        most = {row.prompt: row.bits for row in report.select(PROTOCOL, k=k) if row.method == SIFT}
        rows = [row for row in report.select(PROTOCOL, k=count) if row.method == method]
        pairs.append(less(report, rows, most))
    return mean_over_domains(*zip(*pairs, strict=True))


def correlations(reports: Reports) -> dict[str, Any]:
    """Return the rank correlation of σ with percent of base, by domain and over all domains."""
    by_domain = {}
    everything = Report(tuple(row for report in reports.values() for row in report.rows))
    for domain, report in {**reports, "all together": everything}.items():
        interval = report.uncertainty_correlation(PROTOCOL, SIFT)
        if interval is not None:
            values = [round(v, 2) for v in (interval.value, interval.low, interval.high)]
            by_domain[domain] = [len(report.uncertainty_and_gain(PROTOCOL, SIFT)), *values]
    return by_domain


def gradients(row: Row) -> int:
    """Return the number of gradients that HullFT computes: it reuses each for the next repeat."""
    lengths = [len(list(run)) for _, run in groupby(document.id for document in row.chosen)]
    return sum(math.ceil(length / 2) for length in lengths)


def equal_work(reports: Reports, sift: str) -> dict[str, Any]:
    """Subtract HullFT from SIFT with the same number of gradients, for each k."""
    with_hull = {d: report for d, report in reports.items() if {HULL, sift} <= {*report.methods}}
    by_k = {}
    for k in next(iter(with_hull.values())).ks:
        pairs, counts = [], []
        for report in with_hull.values():
            prompts = {row.prompt for row in report.rows if row.method == sift}
            hull = [row for row in report.select(PROTOCOL, k=k) if row.method == HULL]
            hull = [row for row in hull if row.prompt in prompts]
            counts += [gradients(row) for row in hull]
            rows = [interpolated(report, sift, row.prompt, gradients(row)) for row in hull]
            pairs.append(less(report, rows, {row.prompt: row.bits for row in hull}))
        by_k[str(k)] = {
            "prompts": len(counts),
            "gradients": round(float(np.mean(counts)), 1),
            "hull": percents(with_hull, HULL, k)["mean"],
            **mean_over_domains(*zip(*pairs, strict=True)),
        }
    return by_k


def interpolated(report: Report, sift: str, prompt: str, count: int) -> Row:
    """Interpolate the bits of SIFT on a prompt for a number of documents that was not measured.

    Between two values of k, the bits are about linear in the logarithm of k.
    """
    rows = [row for row in report.rows if row.method == sift and row.prompt == prompt]
    rows.sort(key=lambda row: row.k)
    bits = np.interp(math.log(count), np.log([r.k for r in rows]), [r.bits for r in rows])
    return replace(rows[-1], bits=float(bits))


def costs(reports: Reports, methods: Sequence[str], k: int) -> dict[str, Any]:
    """Return mean seconds, distinct documents and redundancy of each method."""
    by_method = {}
    for method in methods:
        rows = rows_of(reports, method, k)
        by_method[method] = {
            "retrieval": round(float(np.mean([r.seconds_retrieval for r in rows])), 4),
            "training": round(float(np.mean([r.seconds_training for r in rows])), 3),
            "distinct": round(float(np.mean([r.distinct for r in rows])), 1),
            "redundancy": round(float(np.nanmean([r.redundancy for r in rows])), 3),
        }
    return by_method


def rows_of(reports: Reports, method: str, k: int) -> list[Row]:
    """Return the rows of a method in all domains."""
    return [
        row
        for report in reports.values()
        for row in report.select(PROTOCOL, k=k)
        if row.method == method
    ]


def other_settings() -> dict[str, Reports]:
    """Read the reports of the other settings, as far as they were measured."""
    rows = {name: read_rows(HERE / file) for name, file in SETTINGS.items()}
    return {name: by_domain(measured) for name, measured in rows.items() if measured}


def summarize(reports: Reports, others: Mapping[str, Reports]) -> dict[str, Any]:
    """Compute all results of the page from the rows."""
    methods = list(dict.fromkeys(m for report in reports.values() for m in report.methods))
    k = max(next(iter(reports.values())).ks)
    same = {domain: common(report) for domain, report in reports.items()}
    shown = [method for method in TABLE if method in methods]
    everywhere = [m for m in shown if all(m in report.methods for report in reports.values())]
    rivals = [m for m in shown if m not in {SIFT, "rag:nearest", "rag:sift"}]
    ks = next(iter(reports.values())).ks
    return {
        "prompts": {domain: report.prompts(PROTOCOL) for domain, report in same.items()},
        "k": k,
        "table": {method: percents(same, method, k) for method in shown},
        "sift_less": {method: difference(reports, SIFT, method, k) for method in rivals},
        "by_k": {
            method: {str(count): percents(reports, method, count)["mean"] for count in ks}
            for method in everywhere
        },
        "by_noise_variance": by_noise(reports),
        "stopping": stopping(reports, k),
        "fewer_documents": fewer(reports, k),
        "correlations": correlations(reports),
        "equal_work": {
            name: equal_work(reports, sift)
            for name, sift in noises_of(reports).items()
            if name in {f"{NOISE_VARIANCE:g}", "1"} and {HULL, sift} <= {*methods}
        },
        "costs": costs(reports, [m for m in shown if m.startswith("ttft:")], k),
        "settings": {name: compared(reports, there) for name, there in others.items()},
    }


def compared(reports: Reports, others: Reports) -> dict[str, Any]:
    """Compare SIFT and nearest neighbours in another setting with the usual setting."""
    prompts = set.intersection(
        *({row.prompt for row in rows_of(setting, SIFT, 1)} for setting in (reports, others))
    )
    there, usual = (
        by_domain(
            row for report in setting.values() for row in report.rows if row.prompt in prompts
        )
        for setting in (others, reports)
    )
    k = max(next(iter(there.values())).ks)
    return {
        "prompts": len(prompts),
        "domains": len(there),
        "there": sift_and_nearest(there, k),
        "usual": sift_and_nearest(usual, k),
        "there_less_usual": apart(there, usual, k),
    }


def sift_and_nearest(reports: Reports, k: int) -> dict[str, Any]:
    """Return percent of base of both methods, and their difference."""
    return {
        **{method: percents(reports, method, k) for method in (NEAREST, SIFT)},
        "less": difference(reports, SIFT, NEAREST, k),
        "by_noise_variance": by_noise(reports),
    }


def apart(first: Reports, second: Reports, k: int) -> dict[str, float]:
    """Subtract SIFT's percent of base in the second setting from the first, by prompt."""
    means, errors = [], []
    for domain, report in first.items():
        before, after = (percent_of_prompts(setting, k) for setting in (second[domain], report))
        by_source: dict[str, list[float]] = {}
        for prompt, (source, percent) in after.items():
            by_source.setdefault(source, []).append(percent - before[prompt][1])
        of_sources = [float(np.mean(differences)) for differences in by_source.values()]
        means.append(float(np.mean(of_sources)))
        errors.append(float(np.std(of_sources, ddof=1)) / math.sqrt(len(of_sources)))
    return mean_over_domains(means, errors)


def percent_of_prompts(report: Report, k: int) -> dict[str, tuple[str, float]]:
    """Return source and SIFT's percent of base by prompt."""
    rows = report.select(PROTOCOL, k=k)
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    return {
        row.prompt: (row.source, 100 * row.bits / base[row.prompt])
        for row in rows
        if row.method == SIFT
    }


def noises_of(reports: Reports) -> dict[str, str]:
    """Return the methods that differ only in λ', by λ'."""
    methods = dict.fromkeys(m for report in reports.values() for m in report.methods)
    return {f"{NOISE_VARIANCE:g}": SIFT} | {
        m.partition("noise_variance=")[2]: m for m in methods if "noise_variance=" in m
    }


def by_noise(reports: Reports) -> dict[str, Any]:
    """Return percent of base for each λ' and k, on the prompts with all λ'."""
    noises, ks = noises_of(reports), next(iter(reports.values())).ks
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


def main() -> None:
    """Write rows.jsonl.gz, results.json, and the tables between the marks of README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--commit", default="", help="commit that was measured, for the record")
    parser.add_argument(
        "--rows", default=ROWS.name, help="file in this folder that the runs are added to"
    )
    arguments = parser.parse_args()
    write_rows(HERE / arguments.rows, merge_rows(HERE / arguments.rows, arguments.runs))
    results = {
        "command": "python examples/evidence/run.py ...; python examples/evidence/summarize.py ...",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        **summarize(by_domain(read_rows(ROWS)), other_settings()),
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    page = with_tables(page, all_tables(HERE))
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
