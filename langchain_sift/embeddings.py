"""`HiddenStateEmbeddings`: the model's own representation as LangChain embeddings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings

from langchain_sift.errors import ArgumentError, EmbeddingError, NotFittedError, require

require("ttft", "torch", "transformers")

from langchain_sift.ttft.model.hidden_states import mean_hidden_states  # noqa: E402
from langchain_sift.ttft.model.language_model import LanguageModel  # noqa: E402
from langchain_sift.ttft.model.loading import load_language_model  # noqa: E402
from langchain_sift.ttft.model.tokens import check_texts  # noqa: E402

_MEAN_KEY = "langchain_sift_mean"
_MODEL_KEY = "langchain_sift_model"


class HiddenStateEmbeddings(Embeddings):
    """Embeds a text as the mean of a causal language model's last hidden states.

    SIFT's surrogate is linear in the model's own representation (arXiv 2410.08020, section 4),
    so the model that answers is also the model that embeds. The vectors are centred, because
    the hidden states of all texts share a large common part, and scaled to unit norm.

    The mean that they are centred on is fitted once, with `fit`, and never moves again: vectors
    made at different times can be compared. Keep it with the collection:

        ```python
        embeddings = HiddenStateEmbeddings(model="org/name").fit(texts)
        store = Chroma.from_texts(
            texts, embeddings, collection_metadata=embeddings.collection_metadata()
        )
        ```

    and, in another process, take it from there:

        ```python
        embeddings = HiddenStateEmbeddings.from_collection_metadata(
            metadata, model="org/name"
        )
        ```
    """

    noise_variance: ClassVar[float] = 1.0
    """SIFT's λ' with these vectors, where nobody chooses another."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        max_length: int = 512,
        mean: npt.ArrayLike | None = None,
    ) -> None:
        """Load the model where it is not loaded yet.

        Args:
            model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
            tokenizer: Required with a loaded model.
            max_length: Tokens of a text that count; the rest is not looked at. No more than
                the model's context do.
            mean: Shape (d,), what `fit` found before.

        Raises:
            ArgumentError: If `max_length` is below 1 or `mean` has another shape.
            ModelLoadError: If there is no such model.
        """
        if max_length < 1:
            raise ArgumentError(f"max_length must be at least 1, got {max_length}")
        self._language_model = (
            model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
        )
        self.max_length = min(max_length, self._language_model.context_length)
        self.mean = None if mean is None else np.asarray(mean, dtype=np.float32)
        if self.mean is not None and self.mean.shape != (shape := self._states([""]).shape[1:]):
            raise ArgumentError(f"mean must have shape {shape}, got {self.mean.shape}")

    def fit(self, texts: Sequence[str]) -> HiddenStateEmbeddings:
        """Take the mean of these texts as the one to centre on, and return these embeddings.

        A few hundred texts of the collection are enough.

        Raises:
            ArgumentError: If these are no texts, fewer than two, or a mean was fitted before:
                vectors centred on two means cannot be compared.
        """
        if self.mean is not None:
            raise ArgumentError(
                "these embeddings are fitted already: make new ones for another collection"
            )
        check_texts("texts", texts)
        if len(texts) < 2:
            raise ArgumentError(
                f"texts must be at least two, to have a mean apart from each, got {len(texts)}"
            )
        self.mean = self._states(texts).mean(axis=0)
        return self

    def collection_metadata(self) -> dict[str, str]:
        """Return the mean and the model's name in the form that Chroma keeps with a collection.

        Raises:
            NotFittedError: If `fit` was not called.
        """
        mean = base64.b64encode(self._fitted_mean().astype("<f4").tobytes()).decode("ascii")
        return {_MEAN_KEY: mean, _MODEL_KEY: self._language_model.name}

    @classmethod
    def from_collection_metadata(
        cls, metadata: Mapping[str, Any] | None, *, model: Any, tokenizer: Any = None, **kwargs: Any
    ) -> HiddenStateEmbeddings:
        """Return the embeddings that a collection was filled with.

        Args:
            metadata: Of the collection; holds what `collection_metadata` returned.
            model: As in the constructor; the same model as then.
            tokenizer: As in the constructor.
            **kwargs: `max_length`, as in the constructor.

        Raises:
            NotFittedError: If the metadata holds no mean.
        """
        if not metadata or _MEAN_KEY not in metadata:
            raise NotFittedError(
                "the collection holds no mean: it was not made with collection_metadata="
                "HiddenStateEmbeddings(...).fit(texts).collection_metadata()"
            )
        mean = np.frombuffer(base64.b64decode(str(metadata[_MEAN_KEY])), dtype="<f4")
        return cls(model, tokenizer, mean=mean, **kwargs)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of unit norm for each text.

        Raises:
            NotFittedError: If `fit` was not called.
            ArgumentError: If these are no texts.
            EmbeddingError: If a text cannot be told from the mean, or is not finite.
        """
        mean = self._fitted_mean()
        check_texts("texts", texts)
        if not texts:
            return []
        centred = (self._states(texts) - mean).astype(np.float64)
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        for row, norm in enumerate(norms[:, 0]):
            if not 0.0 < norm < np.inf:
                raise EmbeddingError(
                    f"text {row} lies {norm} from the mean: fit(texts) with texts that differ"
                )
        vectors: list[list[float]] = (centred / norms).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the text's vector, the same as for a document."""
        return self.embed_documents([text])[0]

    def _states(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return mean_hidden_states(self._language_model, texts, max_length=self.max_length)

    def _fitted_mean(self) -> npt.NDArray[np.float32]:
        if self.mean is None:
            raise NotFittedError(
                "these embeddings have no mean yet: call fit(texts) with texts of the collection, "
                "or, if it was filled before, take them from its metadata with "
                "HiddenStateEmbeddings.from_collection_metadata(metadata, model=...)"
            )
        return self.mean


def model_of(metadata: Mapping[str, Any] | None) -> str:
    """Return the name of the model whose hidden states a collection holds; "" if none is named."""
    return str((metadata or {}).get(_MODEL_KEY, ""))
