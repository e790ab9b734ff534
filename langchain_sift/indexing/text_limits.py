"""Read how much of a text embeddings take, without loading their weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_sift.errors import SIFTError, require
from langchain_sift.indexing.sentence_embeddings import document_prompt, is_sentence_transformer

# The commands read this module before any of these packages is imported.
# ruff: noqa: PLC0415

_HIDDEN_STATES = 512
"""Maximum number of tokens that `HiddenStateEmbeddings` read by default."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """The tokenizer of embeddings, and their limit."""

    tokenizer: Any
    max_length: int
    """Number of tokens that the embeddings read."""

    document_prompt: str = ""
    """The text that the embeddings put before each document."""


def text_limits(name: str) -> TextLimits | None:
    """Return the limits of embeddings that a name stands for.

    Args:
        name: A name on the hub, a folder, a GGUF file, or module:NAME.

    Returns:
        The limits. None if only the loaded embeddings tell: those of a module, adapters, and
        folders without the usual files.
    """
    if ":" in name and not Path(name).exists():
        return None
    require("ttft", "transformers")
    try:
        if is_sentence_transformer(name):
            return _of_sentence_transformer(name)
        return _of_model(name)
    except (SIFTError, OSError, ValueError, TypeError, KeyError):
        return None  # whoever loads the embeddings reports why


def _of_sentence_transformer(name: str) -> TextLimits:
    require("embeddings", "torch", "sentence_transformers")
    from transformers import AutoTokenizer

    from langchain_sift.ttft.model.files import sentence_transformer_folder

    folder = sentence_transformer_folder(name)
    settings = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    prompts = folder / "config_sentence_transformers.json"
    config = json.loads(prompts.read_text(encoding="utf-8")) if prompts.is_file() else {}
    prompt = document_prompt(config.get("prompts") or {}, config.get("default_prompt_name"))
    return TextLimits(tokenizer, int(settings["max_seq_length"]), prompt)


def _of_model(name: str) -> TextLimits | None:
    require("ttft", "torch")
    from transformers import AutoConfig

    from langchain_sift.ttft.model.adapters import find_adapter
    from langchain_sift.ttft.model.files import folder_of
    from langchain_sift.ttft.model.language_model import context_length_of
    from langchain_sift.ttft.model.loading import load_tokenizer
    from langchain_sift.ttft.model.names import parse_name

    place = parse_name(name)
    folder = folder_of(place, None)
    if find_adapter(Path(folder)) is not None:
        return None
    options = {} if place.gguf_file is None else {"gguf_file": place.gguf_file}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    limit = min(_HIDDEN_STATES, context_length_of(config, name))
    return TextLimits(load_tokenizer(name, folder, place.gguf_file), limit)
