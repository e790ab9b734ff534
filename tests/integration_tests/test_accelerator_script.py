"""On a CPU and at a small size, the script that measures a GPU does all that it does there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = "--device cpu --layers 1 --width 64 --documents 2 --length 16 --tokens 4 --prompts 2"


def test_the_script_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "accelerator.json"
    command = [sys.executable, "tests/benchmarks/accelerator.py", "--rounds", "1", "--out", out]
    result = subprocess.run(
        [*map(str, command), *SMALL.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    recorded = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "date", "commit", "machine"} <= set(recorded)
    assert SMALL in recorded["command"]
    figures = [
        recorded["peft_loop_seconds"],
        recorded["one_prompt_seconds"],
        recorded["prompts_together_seconds"],
        *recorded["decoding_seconds_per_token"].values(),
    ]
    assert len(figures) == 3 + 6
    assert all(figure > 0 for figure in figures)
