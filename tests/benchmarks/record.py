"""Keep what a run of the benchmarks measured: medians, side by side, with where and when.

make bench && python tests/benchmarks/record.py build/benchmarks.json FILE

A part of the benchmarks is recorded with what was typed for it as a third argument. A script that
measures by itself records the same with `write`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def fastest(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run all ways in turn, several times; return the fewest seconds of each."""
    seconds: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - began)
    return seconds


def write(path: Path, results: dict[str, Any]) -> None:
    """Write what a script measured, with its command line, the date, the commit and the machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    script = Path(sys.argv[0]).resolve().relative_to(Path.cwd())
    recorded = {
        "command": shlex.join(["python", str(script), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        **results,
    }
    path.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    run = json.loads(source.read_text(encoding="utf-8"))
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for benchmark in run["benchmarks"]:
        # The group tells of the problem.
        name = re.sub(r"\[n=\d+, d=\d+, k=\d+-?", "[", benchmark["name"].removeprefix("test_"))
        name = name.removesuffix("[]")
        found = {"median_milliseconds": round(1000 * benchmark["stats"]["median"], 3)}
        groups[benchmark["group"]][name] = found | benchmark["extra_info"]
    machine = run["machine_info"]
    recorded = {
        "command": " ".join(sys.argv[3:]) or "make bench",
        "date": run["datetime"][:10],
        "commit": run["commit_info"]["id"][:7],
        "machine": {
            "cores": machine["cpu"]["count"],
            "cpu": machine["cpu"]["brand_raw"],
            "python": machine["python_version"],
        },
        "groups": groups,
    }
    target.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
