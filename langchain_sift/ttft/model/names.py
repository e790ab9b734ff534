"""Read the name of a model: a folder, a name on the hub, and a GGUF file in either."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from langchain_sift.errors import ArgumentError, ModelLoadError

_SUFFIX = ".gguf"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_PROJECTOR = "mmproj"  # the image encoder beside a multimodal model


@dataclass(frozen=True, slots=True)
class ModelName:
    """The place of a model's files."""

    place: str
    """A folder without links and relative parts, or a name on the hub."""

    gguf_file: str | None = None
    """Path of the weights in `place`, if they are a GGUF file."""

    @property
    def is_folder(self) -> bool:
        """True for a folder of this machine."""
        return Path(self.place).is_dir()


def from_any_folder(model: str) -> str:
    """Return the name of a model; a path is valid from any folder."""
    return os.path.abspath(model) if os.path.exists(model) else model  # noqa: PTH100, PTH110


def join_gguf_file(model: str, gguf_file: str | None) -> str:
    """Return the name of a model with its GGUF file, such as "org/name/file.gguf".

    Args:
        model: A folder, or a name on the hub.
        gguf_file: Path of a GGUF file in it. None means the name as it is.

    Raises:
        ArgumentError: If `gguf_file` is no GGUF file, or `model` names one already.
    """
    if gguf_file is None:
        return model
    if not isinstance(gguf_file, str) or not _is_gguf(gguf_file):
        raise ArgumentError(f"gguf_file must be the name of a {_SUFFIX} file, got {gguf_file!r}")
    if _is_gguf(model):
        raise ArgumentError(f"gguf_file={gguf_file!r} and the model {model!r} both name a file")
    return f"{model.rstrip('/')}/{gguf_file}"


def parse_name(name: str) -> ModelName:
    """Return the place of a model's files, and the GGUF file there.

    Args:
        name: A folder, a GGUF file, a name on the hub ("org/name"), or one with a GGUF file
            ("org/name/file.gguf"). A folder without other weights may hold one GGUF file.

    Raises:
        ModelLoadError: If there is no such file, the file is only a part of a model, or a folder
            holds several GGUF files and no other weights.
    """
    path = Path(name)
    if path.is_dir():
        return ModelName(str(path.resolve()), _only_gguf_file(path))
    if path.is_file():
        if not _is_gguf(name):
            raise ModelLoadError(f"it is a file: name its folder, or a file that ends in {_SUFFIX}")
        return ModelName(str(path.parent.resolve()), _whole(path.name))
    if not _is_gguf(name):
        return ModelName(name)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if path.is_absolute() or name.startswith(".") or path.parent.is_dir() or not file:
        raise ModelLoadError(f"there is no such file{_instead(path.parent)}")
    return ModelName(f"{owner}/{repository}", _whole(file))


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(_SUFFIX)


def _gguf_files(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if _is_gguf(name) and not name.startswith(_PROJECTOR)]


def _only_gguf_file(folder: Path) -> str | None:
    files = _gguf_files(folder)
    if not files or any(folder.glob("*.safetensors")):
        return None
    if len(files) > 1 and not _PART.search(files[0]):
        raise ModelLoadError(f"the folder holds {len(files)} GGUF files{_instead(folder)}")
    return _whole(files[0])


def _instead(folder: Path) -> str:
    files = _gguf_files(folder)
    names = ", ".join(map(repr, files))
    return f": choose one of {names}, as {str(folder / files[0])!r}" if files else ""


def _whole(file: str) -> str:
    part = _PART.search(file)
    if part is not None:
        raise ModelLoadError(
            f"{file!r} is one of {int(part[1])} parts of a model: join them with "
            "`llama-gguf-split --merge` first"
        )
    return file
