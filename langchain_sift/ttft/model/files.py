"""Find or download the files of a model, and refuse those that are not safe to load."""

from __future__ import annotations

import glob
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from langchain_sift.errors import ModelLoadError
from langchain_sift.ttft.model.adapters import ADAPTER_WEIGHTS
from langchain_sift.ttft.model.hub import why_unreachable
from langchain_sift.ttft.model.names import ModelName

# Files to download from the hub: no pickles, no code, and no weights in a second format.
_WITHOUT_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt")
_FILES = (
    *_WITHOUT_WEIGHTS,
    "model.safetensors",
    "model*-of-*.safetensors",
    ADAPTER_WEIGHTS,
)
# Each module of a sentence-transformer has a folder, which "*" matches, too.
_MODULE_FILES = (*_WITHOUT_WEIGHTS, "*.safetensors")
_OTHER_FORMATS = ("onnx/*", "openvino/*")
_PICKLE = (
    "a pickle is never read because it can run code: load the model where you trust it, and save "
    "it with save_pretrained"
)


def folder_of(name: ModelName, revision: str | None) -> str:
    """Return the folder with the model's files; download those that are missing.

    Raises:
        ModelLoadError: If there is no such folder, nor such a name on the hub, or it lacks files.
    """
    folder = _local_folder(name, revision)
    if name.gguf_file is not None and not (Path(folder) / name.gguf_file).is_file():
        raise ModelLoadError(f"there is no file {name.gguf_file!r} in {name.place!r}")
    return folder


def _local_folder(name: ModelName, revision: str | None) -> str:
    place = name.place
    if name.is_folder:
        return place
    if Path(place).is_absolute() or place.startswith("."):
        raise ModelLoadError("there is no such folder")
    files = list(_FILES) if name.gguf_file is None else [glob.escape(name.gguf_file)]
    unreachable = why_unreachable()
    try:
        return snapshot_download(
            place,
            revision=revision,
            allow_patterns=files,
            local_files_only=unreachable is not None,
        )
    except HFValidationError as error:
        raise ModelLoadError(
            "there is no such folder here, and no model on the hub can have this name"
        ) from error
    except Exception as error:  # of many kinds: no network, no such model, a token is required
        if unreachable is not None:
            raise ModelLoadError(
                f"there is no such folder here, nor in the hub's cache, and {unreachable}"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            "there is no such folder here, and the download from the hub failed: "
            f"{type(error).__name__}: {reason}"
        ) from error


def check_weights(folder: Path) -> None:
    """Check that a folder holds a model that can be loaded without reading a pickle.

    Raises:
        ModelLoadError: If its configuration or its weights are missing, or it is an embeddings
            model.
    """
    if (folder / "modules.json").is_file():
        raise ModelLoadError(
            "this is an embeddings model (a sentence-transformer), and writes no text: name it as "
            "the embeddings (--embeddings), and a language model as the model"
        )
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            "there is no config.json; if this is a repository of GGUF files, name the file as "
            "well, as 'org/repository/file.gguf'"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(f"there are no weights in safetensors files, and {_PICKLE}")


def sentence_transformer_folder(name: str) -> Path:
    """Return the folder of a sentence-transformer; download those of its files that are missing.

    Raises:
        ModelLoadError: If the weights of a module are only in a pickle.
    """
    folder = Path(name)
    if not folder.is_dir():
        found = snapshot_download(
            name,
            allow_patterns=[*_MODULE_FILES],
            ignore_patterns=[*_OTHER_FORMATS],
            local_files_only=why_unreachable() is not None,
        )
        folder = Path(found)
    for pickle in folder.rglob("*.bin"):
        if not any(pickle.parent.glob("*.safetensors")):
            raise ModelLoadError(f"{pickle.relative_to(folder)} is a pickle, and {_PICKLE}")
    return folder
