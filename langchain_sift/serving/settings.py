"""What is to be served, in plain values that can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_sift.config import MODES, FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import check_arguments
from langchain_sift.serving.tenants import Tenants


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """A model, a store, who may ask, and how each prompt is answered."""

    model: str
    """A name on the hub, or a folder."""

    store: str
    """Chroma's folder, or the URL of its server."""

    collection: str | None = None
    """May be left out where the store has only one."""

    embeddings: str | None = None
    """A model whose hidden states embed, or module:NAME; None: what the collection names."""

    name: str | None = None
    """What clients call the model; None: as `model`."""

    tenants: Tenants = field(default_factory=Tenants.anybody)
    mode: str = "ttft"
    """Of a request that does not choose: "base", "rag", "ttft" or "both"."""

    k: int = 20
    """Documents for a prompt."""

    fetch_k: int = 200
    """Candidates that they are chosen from."""

    noise_variance: float | None = None
    """SIFT's λ'; None: as `SIFTRetriever` has it for the collection's embeddings."""

    stopping_alpha: float | None = None
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    limits: Limits = field(default_factory=Limits)
    max_tokens: int = 256
    """Of an answer, where the request does not say."""

    timeout: float = 600.0
    """Seconds for an answer."""

    adapter_cache: Path | None = None
    """A folder in which adapters are kept between requests, each for its tenant."""

    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_body_bytes: int = 2 << 20
    """A longer request is refused before it is read."""

    def __post_init__(self) -> None:
        """Reject what cannot be served, before a model is loaded.

        Raises:
            ArgumentError: If a value is out of range.
        """
        if self.mode not in MODES:
            raise ArgumentError(f"mode must be one of {MODES}, got {self.mode!r}")
        check_arguments(
            self.k,
            0.01 if self.noise_variance is None else self.noise_variance,
            self.stopping_alpha,
        )
        if not self.timeout > 0:
            raise ArgumentError(
                f"timeout must be a positive number of seconds, got {self.timeout!r}"
            )
        for name in ("fetch_k", "max_tokens", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    @property
    def model_id(self) -> str:
        """What clients call the model."""
        return self.name or self.model

    def loading(self) -> dict[str, Any]:
        """Return how the model is loaded, as the fields of a face."""
        return {name: getattr(self, name) for name in ("device", "dtype", "quantization")}
