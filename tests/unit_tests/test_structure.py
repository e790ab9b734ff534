"""Check the rules of the house that no linter knows: sizes, docstrings, hidden channels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import langchain_sift

PACKAGE = Path(langchain_sift.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in MODULES}
QUESTIONS = re.compile(r"(What|Who|Whether|Which|How|From|Where|When|Why)\b")
BAG = re.compile(r"dict\[str, Any\]|\*\*[a-z_]+: Any")


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}: {node.name}", node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_the_top_level_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 13


def test_at_most_three_modules_are_longer_than_300_lines() -> None:
    long = [path for path in MODULES if len(path.read_text().splitlines()) > 300]
    assert len(long) <= 3, long


def test_no_function_is_longer_than_60_lines() -> None:
    assert [name for name, function in functions() if length(function) > 60] == []


def test_no_docstring_starts_with_a_question_word() -> None:
    found = [
        f"{name}: {getattr(node, 'name', '')}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and QUESTIONS.match(ast.get_docstring(node) or "")
    ]
    assert found == []


def test_tables_of_modules_name_files_that_are_there() -> None:
    tables = {PACKAGE / name: ast.get_docstring(tree) or "" for name, tree in TREES.items()}
    named = [
        path.parent / file
        for path, text in tables.items()
        if path.name == "__init__.py"
        for cell in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
        for file in re.findall(r"`(\w+\.py)`", cell)
    ]
    assert len(named) > 50
    assert [file for file in named if not file.exists()] == []


def test_every_module_has_a_docstring() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_bags_of_any_values_are_rare() -> None:
    lines = [line for path in MODULES for line in path.read_text().splitlines()]
    assert sum(bool(BAG.search(line)) for line in lines) <= 68


def test_no_context_variable_carries_arguments() -> None:
    assert [path.name for path in MODULES if "ContextVar" in path.read_text()] == []
