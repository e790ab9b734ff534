"""Add what `run.py` measured to a file of rows, and write results.json and README.md's tables.

    python examples/evidence/summarize.py build/evidence --commit COMMIT
    python examples/evidence/summarize.py build/quarter --rows rows_quarter_memory.jsonl.gz

Without a folder the tables are made of the rows that are there; that of `calibrate`, of what
calibration.py wrote. A table goes where the page has a mark for it.
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
COMPARED = ("base", NEAREST, SIFT)  # before all others
PROTOCOL = "document"
# What was measured otherwise than all the rest, by its file of rows.
SETTINGS = {
    "a model of 1.3 million parameters": "rows_small_model.jsonl.gz",
    "a quarter of the memory": "rows_quarter_memory.jsonl.gz",
    "a sentence-transformer": "rows_sentence_transformer.jsonl.gz",
}
Reports = Mapping[str, Report]


def gathered(known: Path, folder: Path | None) -> list[Row]:
    """Return the rows that were there, and those of a folder of runs."""
    rows = {row.key: row for row in read_rows(known)}
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
        cost = against_most(reports, name, k, k)
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
    counts = next(iter(reports.values())).ks
    return {str(count): against_most(reports, SIFT, count, k) for count in counts}


def against_most(reports: Reports, method: str, count: int, k: int) -> dict[str, float]:
    """Return a method with so many documents less SIFT with k of them, mean over domains."""
    pairs = []
    for report in reports.values():
        most = {row.prompt: row.bits for row in report.select(PROTOCOL, k=k) if row.method == SIFT}
        rows = [row for row in report.select(PROTOCOL, k=count) if row.method == method]
        pairs.append(less(report, rows, most))
    return mean_over_domains(*zip(*pairs, strict=True))


def correlations(reports: Reports) -> dict[str, Any]:
    """Return Spearman's correlation of sigma with what is left, for each domain and for all."""
    found = {}
    everything = Report(tuple(row for report in reports.values() for row in report.rows))
    for domain, report in {**reports, "all together": everything}.items():
        interval = report.uncertainty_correlation(PROTOCOL, SIFT)
        if interval is not None:
            values = [round(v, 2) for v in (interval.value, interval.low, interval.high)]
            found[domain] = [len(report.uncertainty_and_gain(PROTOCOL, SIFT)), *values]
    return found


def gradients(row: Row) -> int:
    """Return how many gradients HullFT computes: a repeat's anew every second step."""
    streaks = [len(list(own)) for _, own in groupby(document.id for document in row.chosen)]
    return sum(math.ceil(streak / 2) for streak in streaks)


def equal_work(reports: Reports, sift: str) -> dict[str, Any]:
    """Return SIFT with as many gradients as HullFT computes, less HullFT, for each k."""
    with_hull = {d: report for d, report in reports.items() if {HULL, sift} <= {*report.methods}}
    found = {}
    for k in next(iter(with_hull.values())).ks:
        pairs, counts = [], []
        for report in with_hull.values():
            own = {row.prompt for row in report.rows if row.method == sift}
            hull = [row for row in report.select(PROTOCOL, k=k) if row.method == HULL]
            hull = [row for row in hull if row.prompt in own]
            counts += [gradients(row) for row in hull]
            rows = [interpolated(report, sift, row.prompt, gradients(row)) for row in hull]
            pairs.append(less(report, rows, {row.prompt: row.bits for row in hull}))
        found[str(k)] = {
            "prompts": len(counts),
            "gradients": round(float(np.mean(counts)), 1),
            "hull": percents(with_hull, HULL, k)["mean"],
            **mean_over_domains(*zip(*pairs, strict=True)),
        }
    return found


def interpolated(report: Report, sift: str, prompt: str, count: int) -> Row:
    """Return a prompt's row of SIFT as it were with a number of documents not measured.

    Between two measured k, quality falls about as the logarithm of k.
    """
    rows = [row for row in report.rows if row.method == sift and row.prompt == prompt]
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


def other_settings() -> dict[str, Reports]:
    """Return what was measured otherwise, as far as it was."""
    rows = {name: read_rows(HERE / file) for name, file in SETTINGS.items()}
    return {name: by_domain(own) for name, own in rows.items() if own}


def summarize(reports: Reports, others: Mapping[str, Reports]) -> dict[str, Any]:
    """Return all that is told of the rows."""
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
            method: {str(one): percents(reports, method, one)["mean"] for one in ks}
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
        "settings": {name: compared(reports, own) for name, own in others.items()},
    }


def compared(reports: Reports, others: Reports) -> dict[str, Any]:
    """Return SIFT and nearest neighbours in another setting, and as usual on the same prompts."""
    prompts = set.intersection(
        *({row.prompt for row in rows_of(own, SIFT, 1)} for own in (reports, others))
    )
    there, usual = (
        by_domain(row for report in own.values() for row in report.rows if row.prompt in prompts)
        for own in (others, reports)
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
    """Return percent of base of both, and their difference."""
    return {
        **{method: percents(reports, method, k) for method in (NEAREST, SIFT)},
        "less": difference(reports, SIFT, NEAREST, k),
        "by_noise_variance": by_noise(reports),
    }


def apart(first: Reports, second: Reports, k: int) -> dict[str, float]:
    """Return SIFT's percent of base in one setting less that in another, paired by prompt."""
    means, errors = [], []
    for domain, report in first.items():
        before, after = (percent_of_prompts(own, k) for own in (second[domain], report))
        by_source: dict[str, list[float]] = {}
        for prompt, (source, percent) in after.items():
            by_source.setdefault(source, []).append(percent - before[prompt][1])
        own = [float(np.mean(differences)) for differences in by_source.values()]
        means.append(float(np.mean(own)))
        errors.append(float(np.std(own, ddof=1)) / math.sqrt(len(own)))
    return mean_over_domains(means, errors)


def percent_of_prompts(report: Report, k: int) -> dict[str, tuple[str, float]]:
    """Return of each prompt its source, and SIFT's bits in percent of the base model's."""
    rows = report.select(PROTOCOL, k=k)
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    return {
        row.prompt: (row.source, 100 * row.bits / base[row.prompt])
        for row in rows
        if row.method == SIFT
    }


def noises_of(reports: Reports) -> dict[str, str]:
    """Return the methods that differ in λ' alone, by it."""
    methods = dict.fromkeys(m for report in reports.values() for m in report.methods)
    return {f"{NOISE_VARIANCE:g}": SIFT} | {
        m.partition("noise_variance=")[2]: m for m in methods if "noise_variance=" in m
    }


def by_noise(reports: Reports) -> dict[str, Any]:
    """Return percent of base for each λ' and k, on the prompts that have all of them."""
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
    parser.add_argument("--commit", default="", help="what was measured, for the record")
    parser.add_argument("--rows", default=ROWS.name, help="a file here that the runs are added to")
    asked = parser.parse_args()
    write_rows(HERE / asked.rows, gathered(HERE / asked.rows, asked.runs))
    found = {
        "command": "python examples/evidence/run.py ...; python examples/evidence/summarize.py ...",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        **summarize(by_domain(read_rows(ROWS)), other_settings()),
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    page = with_tables(page, all_tables(HERE))
    (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
