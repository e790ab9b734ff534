"""The name of a model is a folder, a GGUF file, or either on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from langchain_sift.errors import ArgumentError, ModelLoadError
from langchain_sift.ttft.model.names import ModelName, join_gguf_file, parse_name


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_name_on_the_hub_may_end_with_a_file() -> None:
    assert parse_name("gpt2") == ModelName("gpt2")
    assert parse_name("org/name") == ModelName("org/name")
    assert parse_name("org/name/q4/a.gguf") == ModelName("org/name", "q4/a.gguf")


def test_a_folder_may_hold_one_gguf_file_beside_the_image_encoder(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.gguf", "mmproj-a.gguf")
    assert parse_name(str(folder)) == ModelName(str(folder), "a.gguf")
    assert parse_name(f"{folder}/a.gguf") == ModelName(str(folder), "a.gguf")
    assert parse_name(str(touch(folder, "model.safetensors"))) == ModelName(str(folder))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("{}", "holds 2 GGUF files: choose one of 'a.gguf', 'b.GGUF', as '.*/a.gguf'"),
        ("{}/c.gguf", "no such file: choose one of 'a.gguf'"),
        ("{}/notes.txt", "a file: name its folder"),
        ("{}/parts", "one of 3 parts"),
        ("{}/parts/m-00001-of-00003.gguf", "one of 3 parts"),
        ("./c.gguf", "no such file"),
        ("c.gguf", "no such file"),
        ("org/c.gguf", "no such file"),
        ("org/name/m-00001-of-00003.gguf", "one of 3 parts"),
    ],
)
def test_a_name_without_one_whole_model_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf", "b.GGUF", "notes.txt")
    touch(tmp_path / "parts", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf")
    with pytest.raises(ModelLoadError, match=reason):
        parse_name(name.format(tmp_path))


def test_a_file_is_added_to_a_name_once() -> None:
    assert join_gguf_file("org/name", None) == "org/name"
    assert join_gguf_file("org/name/", "a.gguf") == "org/name/a.gguf"
    with pytest.raises(ArgumentError, match=r"must be the name of a .gguf file, got 'a.bin'"):
        join_gguf_file("org/name", "a.bin")
    with pytest.raises(ArgumentError, match="both name a file"):
        join_gguf_file("org/name/a.gguf", "b.gguf")
