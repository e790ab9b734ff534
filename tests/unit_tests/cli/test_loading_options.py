"""Every command that takes a model takes the device and the form of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner, Result

from langchain_sift.cli import app
from langchain_sift.errors import ModelLoadError
from langchain_sift.ttft.model import loading

COMMANDS = {
    "compare": "--prompts {docs} --store {store} --model {model} --out {out} --protocol document",
    "serve": "--store {store} --model {model}",
    "calibrate": "--store {store} --model {model} --out {out}.json",
    "explain": "rivers --store {store}",
    "doctor": "--store {store}",
    "repair": "--store {store} --embeddings {model}",
    "index": "{docs} --store {out} --embeddings {model}",
}


def run(command: str, *more: str, **places: Path) -> Result:
    arguments = COMMANDS[command].format(**places).split()
    return CliRunner().invoke(app, [command, *arguments, *more])


@pytest.fixture(scope="module")
def indexed(
    texts: list[str], tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("indexed")
    docs = folder / "docs.jsonl"
    docs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:8]))
    places = {"docs": docs, "store": folder / "store", "model": tiny_model_path}
    result = run("index", **(places | {"out": places["store"]}))
    assert result.exit_code == 0, result.output
    return places


@pytest.fixture
def places(indexed: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return a copy of the store, and places for what a command writes."""
    store = Path(shutil.copytree(indexed["store"], tmp_path / "store"))
    return indexed | {"store": store, "out": tmp_path / "out"}


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the sources of the weights that a command would load, and load none."""
    seen: list[Any] = []

    def refuse(name: str, source: Any) -> Any:
        seen.append(source)
        raise ModelLoadError(f"{name} is not loaded")

    monkeypatch.setattr(loading, "_load_weights", refuse)
    monkeypatch.setattr(loading, "_weights", loading.SharedObjects())
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_reach_the_model(
    command: str, places: dict[str, Path], sources: list[Any]
) -> None:
    options = ("--dtype", "float16", "--device", "cpu", "--quantization", "8bit")
    result = run(command, *options, **places)
    assert "is not loaded" in " ".join(result.stderr.split())
    assert sources
    for source in sources:
        assert (source.dtype, source.quantization) == (torch.float16, "8bit")
        assert source.device == torch.device("cpu")


@pytest.mark.parametrize("command", ["compare", "calibrate"])
def test_a_gguf_file_reaches_the_model(
    command: str, places: dict[str, Path], sources: list[Any]
) -> None:
    (places["out"]).mkdir()
    (places["out"] / "a.gguf").touch()
    more = places | {"model": places["out"], "out": places["out"] / "new"}
    result = run(command, "--gguf-file", "a.gguf", **more)
    assert "is not loaded" in " ".join(result.stderr.split()), result.output
    assert {source.name.gguf_file for source in sources} == {"a.gguf"}


def test_a_server_gets_the_file_and_the_form() -> None:
    options = "--gguf-file a.gguf --device cpu --dtype float32 --quantization 4bit"
    with mock.patch("langchain_sift.serving.serve") as serve:
        result = run("serve", *options.split(), store=Path("store"), model=Path("org/name"))
    assert result.exit_code == 0, result.output
    (settings,), _ = serve.call_args
    form = (settings.model, settings.device, settings.dtype, settings.quantization)
    assert form == ("org/name/a.gguf", "cpu", "float32", "4bit")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_form_is_one_line(command: str, places: dict[str, Path]) -> None:
    result = run(command, "--dtype", "bfloat61", **places)
    assert result.exit_code == 2
    assert "dtype must be one of" in " ".join(result.stderr.split())
    assert "did you mean 'bfloat16'?" in " ".join(result.stderr.split())
