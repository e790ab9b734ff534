"""Read the guides: their text, their code and their commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from langchain_chroma import Chroma

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUIDES = sorted(path for path in EXAMPLES.iterdir() if re.match(r"\d\d_", path.name))


def guide(name: str) -> Path:
    """Return the guide on a topic, such as "compare"."""
    (path,) = (path for path in GUIDES if path.stem.partition("_")[2] == name)
    return path


def result(name: str) -> dict[str, Any]:
    """Return a committed result file of the benchmarks."""
    file = ROOT / "tests" / "benchmarks" / "results" / name
    return dict(json.loads(file.read_text(encoding="utf-8")))


def text_of(path: Path) -> str:
    """Return a guide as Markdown; the code cells of a notebook become blocks of Python."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    parts = ["".join(cell["source"]) for cell in cells]
    return "\n\n".join(
        part if cell["cell_type"] == "markdown" else f"```python\n{part}\n```"
        for cell, part in zip(cells, parts, strict=True)
    )


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the lines of the console blocks as words."""
    lines = "".join(blocks(text, "console")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run_python(text: str, name: str) -> dict[str, object]:
    """Run the Python blocks one after the other and return their variables."""
    Chroma().delete_collection()  # the default one in memory, which other tests may have filled
    names: dict[str, object] = {}
    found = blocks(text, "python")
    assert found
    for block in found:
        exec(compile(block, name, "exec"), names)  # noqa: S102
    return names
