"""Read and write the rows of many runs as a file of ids and numbers, without texts.

rows.jsonl.gz has a line for each prompt, method and k. The chosen documents are in the line of the
largest k; a smaller k has its own list only if it is not the start of that list.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langchain_sift.comparison import Row
from langchain_sift.report.rows import ChosenDocument, plain

ROWS = Path(__file__).parent / "rows.jsonl.gz"
_KEPT = (
    "prompt", "group", "method", "k", "source", "bits", "bytes", "tokens", "seconds_retrieval",
    "seconds_training", "seconds_answering", "tokens_training", "tokens_context", "redundancy",
    "prior_variance", "failure",
)  # fmt: skip


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file; without a file there are none."""
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    longest = {}
    for line in lines:
        if "chosen" in line:
            longest[line["prompt"], line["method"]] = line["chosen"]
    return [_row(line, longest.get((line["prompt"], line["method"]), ())) for line in lines]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows in sorted order; the same rows give the same bytes."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group, row.prompt, row.method].append(row)
    lines = []
    for _, by_k in sorted(groups.items()):
        by_k.sort(key=lambda row: row.k)
        longest = by_k[-1].chosen
        for row in by_k:
            is_start = row.chosen == longest[: len(row.chosen)]
            lines.append(_line(row, with_chosen=not is_start or row is by_k[-1]))
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write("".join(lines).encode())


def cluster_of(source: str) -> str:
    """Return a hash of a source, which identifies it without its text."""
    return hashlib.blake2b(source.encode(), digest_size=6).hexdigest()


def _line(row: Row, *, with_chosen: bool) -> str:
    value: dict[str, Any] = {name: getattr(row, name) for name in _KEPT}
    is_prefix = row.used_indices == tuple(range(row.used))
    value["used_places"] = row.used if is_prefix else row.used_indices
    value["count"] = len(row.chosen)
    if with_chosen and row.chosen:
        value["chosen"] = [[d.id, d.posterior_variance, d.copies] for d in row.chosen]
    return json.dumps(_rounded(plain(value)), separators=(",", ":")) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def _row(line: dict[str, Any], longest: Sequence[list[Any]]) -> Row:
    line = dict(line)
    documents = line.pop("chosen", longest)[: line.pop("count")]
    for name in ("bits", "redundancy", "prior_variance"):
        line[name] = math.nan if line[name] is None else line[name]
    used = line.pop("used_places")
    before, chosen = line["prior_variance"], []
    for identifier, variance, copies in documents:
        after = math.nan if variance is None else variance
        chosen.append(ChosenDocument(identifier, before - after, after, copies))
        before = after
    line["chosen"] = tuple(chosen)
    line["used_indices"] = tuple(range(used) if isinstance(used, int) else used)
    return Row(protocol="document", **line)
