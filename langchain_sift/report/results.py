"""Convert a report to JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from langchain_sift.report.rows import plain
from langchain_sift.report.summaries import MethodSummary

if TYPE_CHECKING:
    from langchain_sift.report.report import Report


def report_json(report: Report) -> dict[str, object]:
    """Return a report as JSON values; see `Report.to_json`."""
    objects = {protocol: _protocol_json(report, protocol) for protocol in report.protocols}
    shared: dict[str, object] = {
        "report": None if report.path is None else str(report.path),
        "settings": plain(report.settings),
        "prompts": len({row.prompt for row in report.rows}),
        "ks": list(report.ks),
        "leaks": plain(report.leaks),
        "notes": list(report.notes),
    }
    if len(objects) == 1:
        return shared | next(iter(objects.values()))
    return shared | {"protocols": objects}


def _protocol_json(report: Report, protocol: str) -> dict[str, object]:
    finding = report.findings[protocol]
    result: dict[str, object] = {
        "protocol": protocol,
        "prompts": report.prompts(protocol),
        "verdict": finding.verdict,
        "best": finding.best,
        "metrics": list(report.metrics(protocol)),
        "methods": _summaries_json(report.summary(protocol)),
    }
    if len(report.ks) > 1:
        result["by_k"] = {str(k): _summaries_json(report.summary(protocol, k=k)) for k in report.ks}
    if len(report.groups) > 1:
        result["groups"] = {
            group: {
                "prompts": report.prompts(protocol, group),
                "methods": _summaries_json(report.summary(protocol, group)),
            }
            for group in report.groups
        }
    result["differences"] = plain(finding.differences)
    result["correlations"] = plain(finding.correlations)
    return result


def _summaries_json(summaries: Mapping[str, MethodSummary]) -> dict[str, object]:
    """Convert summaries to JSON values; without a GPU there is no peak memory."""
    return {
        method: {
            name: plain(value)
            for name, value in asdict(summary).items()
            if name != "peak_memory" or value is not None
        }
        for method, summary in summaries.items()
    }
