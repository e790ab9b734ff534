"""Embed texts with a language model's hidden states: `HiddenStateEmbeddings`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings

from langchain_sift.checks import check_integer
from langchain_sift.errors import ArgumentError, EmbeddingError, NotFittedError, require
from langchain_sift.ttft.texts import check_texts

# A store that other embeddings filled is opened without PyTorch.
# ruff: noqa: PLC0415

_MEAN_KEY = "langchain_sift_mean"
_MODEL_KEY = "langchain_sift_model"
# Chroma Cloud takes no longer value of a collection's metadata.
_NAME_BYTES = 256
_ROUNDING = 1e-5  # of a mean of float32 numbers, as a share of them


class HiddenStateEmbeddings(Embeddings):
    """Embeds a text as the mean of a causal language model's last hidden states.

    SIFT's surrogate is linear in the model's representation (arXiv 2410.08020, section 4), so the
    model that answers is also the model that embeds. The mean of the collection is subtracted,
    because the hidden states of all texts have a large part in common, and the vectors are scaled
    to unit norm.

    The mean is fitted once, with `fit`, and never changes, so that vectors made at different
    times can be compared. Store it beside the collection:

        ```python
        embeddings = HiddenStateEmbeddings(model="org/name").fit(texts)
        store = Chroma.from_texts(texts, embeddings, "facts", persist_directory="store")
        save_embeddings(store)  # from langchain_sift.indexing
        ```

    and open the collection in another process:

        ```python
        store = open_collection("store", "facts")  # from langchain_sift.indexing
        ```
    """

    noise_variance: ClassVar[float] = 10.0
    """Default λ' with these embeddings: `examples/evidence/retrieval.md`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        gguf_file: str | None = None,
        max_length: int = 512,
        mean: npt.ArrayLike | None = None,
    ) -> None:
        """Load the model, unless it is loaded already.

        Args:
            model: A name on the Hugging Face hub, a folder, a GGUF file, or a loaded
                `PreTrainedModel`.
            tokenizer: Required with a loaded model.
            gguf_file: GGUF file of a named model. None means that `model` names it, or that there
                is none.
            max_length: Maximum number of tokens of a text; the rest is ignored. Never more than
                the model's context.
            mean: The attribute `mean` of fitted embeddings, shape (d,). None means not fitted.

        Raises:
            ArgumentError: If `max_length` is below 1 or `mean` has another shape.
            MissingExtraError: If PyTorch or transformers is not installed.
            ModelLoadError: If the model cannot be loaded.
        """
        require("ttft", "torch", "transformers")
        from langchain_sift.ttft import LanguageModel, load_language_model

        check_integer("max_length", max_length, 1)
        self._language_model = (
            model
            if isinstance(model, LanguageModel)
            else load_language_model(model, tokenizer, gguf_file=gguf_file)
        )
        self.max_length = min(max_length, self._language_model.context_length)
        self.mean = None if mean is None else np.asarray(mean, dtype=np.float32)
        self._fitted: dict[str, npt.NDArray[np.float32]] = {}
        if self.mean is not None and self.mean.shape != (shape := self._states([""]).shape[1:]):
            raise ArgumentError(f"mean must have shape {shape}, got {self.mean.shape}")

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self._language_model.name

    def fitted_mean(self) -> npt.NDArray[np.float32]:
        """Return the mean, shape (d,).

        Raises:
            NotFittedError: If `fit` was not called.
        """
        if self.mean is None:
            raise NotFittedError(
                "these embeddings have no mean yet: call fit(texts) with texts of the collection, "
                "or open an existing collection with langchain_sift.indexing.open_collection"
            )
        return self.mean

    def hidden_states(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the mean hidden state of each text before centring, shape (n, d)."""
        return self._states(texts)

    def fit(self, texts: Sequence[str]) -> HiddenStateEmbeddings:
        """Fit the mean to the texts and return the embeddings themselves.

        Pass texts of the collection. With 200 of them, `examples/evidence/retrieval.md` was
        measured.

        Raises:
            ArgumentError: If there are fewer than two texts, or a mean was fitted before: vectors
                with two different means cannot be compared.
        """
        if self.mean is not None:
            raise ArgumentError(
                "these embeddings are fitted already: create others for another collection"
            )
        check_texts("texts", texts)
        if len(texts) < 2:
            raise ArgumentError(
                "texts must be at least two, so that they differ from their mean, got "
                f"{len(texts)}: add others, or use other embeddings, such as a sentence-transformer"
            )
        states = self._states(texts)
        self.mean = states.mean(axis=0)
        # A caller usually embeds the same documents next.
        self._fitted = dict(zip(texts, states, strict=True))
        return self

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._language_model.tokenizer

    def collection_metadata(self) -> dict[str, str]:
        """Return the mean and the model's name as metadata for a Chroma collection.

        Chroma Cloud refuses metadata of that size (1.4 to 22 kB): there, call
        `langchain_sift.indexing.save_embeddings(store)` instead, which works with every Chroma.

        Raises:
            NotFittedError: If `fit` was not called.
        """
        mean = base64.b64encode(self.fitted_mean().astype("<f4").tobytes()).decode("ascii")
        return {_MEAN_KEY: mean, **model_metadata(self.model_name)}

    @classmethod
    def from_collection_metadata(
        cls,
        metadata: Mapping[str, object] | None,
        *,
        model: Any,
        tokenizer: Any = None,
        max_length: int = 512,
    ) -> HiddenStateEmbeddings:
        """Restore the embeddings of a collection.

        Args:
            metadata: Metadata of the collection, with the entries of `collection_metadata`.
            model: As in the constructor; must be the model of the collection.
            tokenizer: As in the constructor.
            max_length: As in the constructor; must be that of the collection.

        Raises:
            NotFittedError: If the metadata contain no mean.
        """
        mean = mean_in(metadata)
        if mean is None:
            raise NotFittedError(
                "the collection has no mean in its metadata: open the collection with "
                "langchain_sift.indexing.open_collection, or create it with collection_metadata="
                "HiddenStateEmbeddings(...).fit(texts).collection_metadata()"
            )
        return cls(model, tokenizer, max_length=max_length, mean=mean)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of unit norm for each text.

        Raises:
            NotFittedError: If `fit` was not called.
            ArgumentError: If `texts` is not a sequence of texts.
            EmbeddingError: If the hidden state of a text equals the mean up to rounding, or is not
                finite.
        """
        mean = self.fitted_mean()
        check_texts("texts", texts)
        if not texts:
            return []
        states = self._states(texts)
        centred = (states - mean).astype(np.float64)
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        rounding = _ROUNDING * np.linalg.norm(states, axis=1)
        for row, (norm, least) in enumerate(zip(norms[:, 0], rounding, strict=True)):
            if not least < norm < np.inf:
                raise EmbeddingError(
                    f"text {row} has distance {norm} from the mean: fit(texts) with different texts"
                )
        vectors: list[list[float]] = (centred / norms).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text, the same as for a document."""
        return self.embed_documents([text])[0]

    def _states(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the states, shape (n, d); those that `fit` computed are taken once."""
        from langchain_sift.ttft.model.hidden_states import mean_hidden_states

        states = {text: s for text in texts if (s := self._fitted.pop(text, None)) is not None}
        new = list(dict.fromkeys(text for text in texts if text not in states))
        if new:
            computed = mean_hidden_states(self._language_model, new, max_length=self.max_length)
            states.update(zip(new, computed, strict=True))
        return np.stack([states[text] for text in texts])


def mean_in(metadata: Mapping[str, object] | None) -> npt.NDArray[np.float32] | None:
    """Return the mean in a collection's metadata, shape (d,), or None if there is none."""
    if not metadata or _MEAN_KEY not in metadata:
        return None
    return np.frombuffer(base64.b64decode(str(metadata[_MEAN_KEY])), dtype="<f4")


def model_metadata(name: str) -> dict[str, str]:
    """Return the name of a model as metadata of a collection; of a very long path its last part."""
    return {_MODEL_KEY: name if len(name.encode()) <= _NAME_BYTES else PurePath(name).name}


def model_of(metadata: Mapping[str, object] | None) -> str:
    """Return the name of a collection's model from its metadata; "" if they name none."""
    return str((metadata or {}).get(_MODEL_KEY, ""))
