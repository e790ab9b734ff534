"""Write `architectures.md` from the results in `architectures.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CHECKS = ("restored", "peft_logits_equal")


def render(results: dict[str, Any]) -> str:
    """Return the page: tables of the layers that get an adapter, and what the real models took."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, found in {**results["small"], **results["real"]}.items():
        columns = tuple(short(found[key]) for key in ("attention", "mlp", "others"))
        passed = "yes" if all(found[check] for check in CHECKS) else "no"
        rows.setdefault((*columns, passed), []).append(name)
    versions = results["versions"]
    lines = [
        "# Layers that get an adapter",
        "",
        "Made by",
        "",
        f"    {results['command']}",
        "",
        f"on {results['date']} at commit {results['commit']}, with torch {versions['torch']} and",
        f"transformers {versions['transformers']}.",
        "",
        "`all-linear` stands for the layers of `attention` and `mlp`, and for linear layers",
        "outside of the decoder layers, such as `project_in` of OPT. The last column: answers and",
        "weights are bit for bit as before the training, and PEFT computes the same logits with",
        "the exported adapter.",
        "",
        "| Architecture | `attention` | `mlp` | No adapter | Restored, exported |",
        "|---|---|---|---|---|",
        *(f"| {', '.join(names)} | {' | '.join(columns)} |" for columns, names in rows.items()),
        "",
        "Real models, in float32 on one thread. The seconds are CPU seconds of the process. Greedy",
        "answers to 20 prompts are compared with those of transformers' `generate`, each prompt",
        "alone and in batches of 8.",
        "",
        "| Model | Weights | Adapter | Loading | A step | Peak memory | Loss, first and again "
        "| Equal answers, alone and in batches |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["real"].items():
        losses, number = found["losses"], found["prompts"]
        lines.append(
            f"| {name} | {found['weights_of_model']:,} | {found['weights_of_adapter']:,} "
            f"| {found['cpu_seconds_loading']} s | {found['cpu_seconds_per_step']} s "
            f"| {found['peak_gib']} GiB | {losses[0]:.2f}, {losses[2]:.2f} "
            f"| {found['equal_alone']} and {found['equal_in_batches_of_8']} of {number} |"
        )
    return "\n".join(lines) + "\n"


def short(names: Any) -> str:
    """Return names without the part that all decoder layers have in common."""
    found = dict.fromkeys(re.sub(r"^(.*\.\*|model|transformer)\.", "", name) for name in names)
    return ", ".join(f"`{name}`" for name in found)


def write(folder: Path) -> None:
    """Write the page of the results in a folder."""
    results = json.loads((folder / "architectures.json").read_text(encoding="utf-8"))
    (folder / "architectures.md").write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
