"""The demo's model was trained on no document of the store, and the store holds no prompt."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"
DOMAINS = {"nih_grants", "us_patents", "github"}


def rows(file: Path) -> list[dict[str, Any]]:
    content = file.read_bytes()
    text = gzip.decompress(content) if file.suffix == ".gz" else content
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, Any]]:
    return [row for file in sorted((DEMO / "corpus").iterdir()) for row in rows(file)]


@pytest.fixture(scope="module")
def trained_on() -> dict[str, Any]:
    content = gzip.decompress((DEMO / "model" / "trained_on.json.gz").read_bytes())
    return dict(json.loads(content))


@pytest.mark.parametrize("name", ["prompts.jsonl", "tuning_prompts.jsonl"])
def test_no_prompt_is_in_the_store(name: str, corpus: list[dict[str, Any]]) -> None:
    prompts = rows(DEMO / name)
    assert len(prompts) >= 3 * 6
    for key in ("id", "source", "text"):
        assert not {row[key] for row in prompts} & {row[key] for row in corpus}, key


def test_the_tuning_prompts_are_not_those_of_the_demo() -> None:
    shown, tuning = rows(DEMO / "prompts.jsonl"), rows(DEMO / "tuning_prompts.jsonl")
    for key in ("id", "source", "text"):
        assert not {row[key] for row in shown} & {row[key] for row in tuning}, key


def test_the_model_was_trained_on_none_of_the_data(
    corpus: list[dict[str, Any]], trained_on: dict[str, Any]
) -> None:
    held = corpus + rows(DEMO / "prompts.jsonl") + rows(DEMO / "tuning_prompts.jsonl")
    assert len(trained_on["ids"]) > 7000
    assert not {row["id"] for row in held} & set(trained_on["ids"])
    assert not {row["source"] for row in held} & set(trained_on["sources"])
    assert {row["domain"] for row in held} == DOMAINS
    assert not DOMAINS & set(trained_on["domains"])
    # An id begins with its domain, so the check of the domains covers every document.
    assert {name.rpartition("-")[0] for name in trained_on["ids"]} == set(trained_on["domains"])


def test_the_demo_is_small(corpus: list[dict[str, Any]]) -> None:
    from safetensors import safe_open  # noqa: PLC0415

    weights = DEMO / "model" / "model.safetensors"
    assert weights.stat().st_size <= 16_000_000
    with safe_open(weights, "pt") as tensors:
        sizes = [tensors.get_tensor(name).numel() for name in tensors.keys()]  # noqa: SIM118
    assert sum(sizes) <= 8_000_000
    assert sum(file.stat().st_size for file in (DEMO / "corpus").iterdir()) <= 4_000_000
    assert len({row["id"] for row in corpus}) == len(corpus) > 3000
