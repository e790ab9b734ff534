"""Describe a model to LangChain without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from langchain_core.language_models import ModelProfile
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from langchain_sift.ttft.model.gguf import read_metadata
from langchain_sift.ttft.model.names import ModelName, join_gguf_file, parse_name


def model_profile(
    model: str | PreTrainedModel, revision: str | None, gguf_file: str | None = None
) -> ModelProfile:
    """Return the length of a model's context; nothing is downloaded.

    Args:
        model: A name, folder or GGUF file, of an adapter too, or a loaded model.
        revision: Branch, tag or commit of a named model.
        gguf_file: A GGUF file in the folder or on the hub.

    Raises:
        FileNotFoundError: If a GGUF file was not downloaded yet.
        ModelLoadError: If there is no such file.
        OSError: If the model was not downloaded yet.
    """
    if isinstance(model, str):
        context = _stored_context(join_gguf_file(model, gguf_file), revision)
    else:
        context = _context_of(model.config)
    return ModelProfile(
        max_input_tokens=context, text_inputs=True, text_outputs=True, image_inputs=False
    )


def _stored_context(name: str, revision: str | None) -> int:
    place = parse_name(name)
    if place.gguf_file is not None:
        file = _stored_file(place, revision, place.gguf_file)
        if file is None:
            raise FileNotFoundError(place.gguf_file)
        metadata = read_metadata(file)
        return int(metadata[f"{metadata['general.architecture']}.context_length"])
    if adapter := _stored_file(place, revision, "adapter_config.json"):
        described = json.loads(adapter.read_text(encoding="utf-8"))
        return _stored_context(described["base_model_name_or_path"], described.get("revision"))
    config = AutoConfig.from_pretrained(
        place.place, revision=revision, local_files_only=True, trust_remote_code=False
    )
    return _context_of(config)


def _context_of(config: PreTrainedConfig) -> int:
    return int(config.get_text_config().max_position_embeddings)


def _stored_file(place: ModelName, revision: str | None, file: str) -> Path | None:
    """Return the path of a file in a folder or in the cache of the hub; None if it is not there."""
    if not place.is_folder:
        found = try_to_load_from_cache(place.place, file, revision=revision)
        return Path(found) if isinstance(found, str) else None
    path = Path(place.place, file)
    return path if path.is_file() else None
