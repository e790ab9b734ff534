"""Embed texts with a sentence-transformer: a model and the pooling that belongs to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_sift.errors import ModelLoadError, require
from langchain_sift.ttft.model.load_settings import LoadSettings

# A model named for embeddings is known by this file before any of these packages is imported.
# ruff: noqa: PLC0415

_MODULES = "modules.json"


class SentenceTransformerEmbeddings(Embeddings):
    """Embeds a text as the unit vector of a sentence-transformer, with the prompts of the model.

    A query gets the model's prompt for queries, and a document that for documents, if it has any.
    """

    def __init__(self, name: str, settings: LoadSettings | None = None) -> None:
        """Load the model; no code of its folder ever runs, and no pickle is read.

        Args:
            name: A folder or a name on the hub, for which `is_sentence_transformer` is True.
            settings: Device and dtype. None means "cuda" if available, and the stored dtype. A
                sentence-transformer is small, and never quantized.

        Raises:
            MissingExtraError: If sentence-transformers is not installed.
            ModelLoadError: If the model cannot be loaded.
        """
        require("embeddings", "torch", "sentence_transformers")
        from sentence_transformers import SentenceTransformer

        from langchain_sift.ttft.model.files import sentence_transformer_folder

        self.model_name = name
        settings = self._settings = settings or LoadSettings()
        options: dict[str, object] = {"use_safetensors": True}
        if settings.dtype is not None:
            options["dtype"] = settings.dtype
        try:
            self._model = SentenceTransformer(
                str(sentence_transformer_folder(name)),
                device=settings.device,
                model_kwargs=options,
                local_files_only=True,
                trust_remote_code=False,
            )
        except Exception as error:  # of many kinds: files of any of its modules, the network
            reason = str(error).strip().partition("\n")[0]
            raise ModelLoadError(
                f"cannot load the sentence-transformer {name!r}: {reason}"
            ) from error
        self._lock = threading.Lock()  # the tokenizer's settings are those of one call

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what loads the model again where it is unpickled."""
        return type(self), (self.model_name, self._settings)

    def __copy__(self) -> SentenceTransformerEmbeddings:
        """Return this object: nothing of it changes."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SentenceTransformerEmbeddings:
        """Return this object: nothing of it changes."""
        return self

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._model.tokenizer

    @property
    def max_length(self) -> int | None:
        """Number of tokens after which the model reads no more of a text; None if it has none."""
        length = self._model.max_seq_length
        return None if length is None else int(length)

    @property
    def document_prompt(self) -> str:
        """The text that is put before each document; "" without one."""
        return document_prompt(self._model.prompts, self._model.default_prompt_name)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of unit norm for each text."""
        return self._vectors(self._model.encode_document, texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return self._vectors(self._model.encode_query, [text])[0]

    def _vectors(self, encode: Callable[..., Any], texts: Sequence[str]) -> list[list[float]]:
        if not texts:
            return []
        with self._lock:
            vectors = encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        rows: list[list[float]] = vectors.astype("float64").tolist()
        return rows


def document_prompt(prompts: Mapping[str, str | None], default: str | None) -> str:
    """Return the prompt of documents, as `SentenceTransformer.encode_document` chooses it.

    Args:
        prompts: The prompts of the model by their names.
        default: The name of its default prompt.
    """
    names = [name for name in ("document", "passage", "corpus", default) if name in prompts]
    return (prompts[names[0]] if names else None) or ""  # type: ignore[index]


def is_sentence_transformer(name: str) -> bool:
    """Return True if a folder, or a repository of the hub, holds a sentence-transformer.

    Raises:
        ModelLoadError: If the hub cannot be asked, and nothing of the repository is cached.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or name.startswith(".") or name.endswith(".gguf"):
        return (path / _MODULES).is_file()
    require("ttft", "huggingface_hub")
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    from langchain_sift.ttft.model.hub import why_unreachable

    unreachable = why_unreachable()
    try:
        hf_hub_download(name, _MODULES, local_files_only=unreachable is not None)
    except (errors.RemoteEntryNotFoundError, errors.RepositoryNotFoundError, ValueError):
        return False  # whoever loads the model reports why it is not there
    except Exception as error:
        if constants.HF_HUB_OFFLINE or try_to_load_from_cache(name, "config.json"):
            return False
        reason = unreachable or str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"cannot ask the hub for the model {name!r}: {reason}") from error
    return True
