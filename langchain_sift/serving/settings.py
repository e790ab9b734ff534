"""Define the settings of a server, as plain values that another process can receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from langchain_sift.auto_mode import AUTO, ModeTable, check_table
from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.checks import (
    check_choice,
    check_integer,
    check_not_negative,
    check_seconds,
    check_string,
    strings,
)
from langchain_sift.config import MODES, FineTuneConfig, Limits, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.questions.learned_examples import learned_k
from langchain_sift.retrieval.defaults import kernel_settings
from langchain_sift.selection.settings import SelectionSettings
from langchain_sift.serving.options import FineTuneOptions, TrainingLimits, check_ceilings
from langchain_sift.serving.tenants import Tenants
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft.model.load_settings import LoadSettings

_K = 20


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The number, the memory and the lifetime of a server's sessions."""

    max_sessions: int = 256
    """Maximum number of sessions of all tenants. 0 means that the server keeps none."""

    max_memory_gb: float = 2.0
    """Maximum memory of their adapters in GB (10^9 bytes). 0 means that the server keeps none. On a
    CPU it is lowered to half of what a model and one request leave below `Limits.max_memory_gb`."""

    idle_seconds: float = 3600.0
    """Seconds after its last use at which a session expires."""

    total_seconds: float = 86_400.0
    """Seconds after it was made at which a session expires, in use or not."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range.
        """
        check_integer("max_sessions", self.max_sessions, 0)
        check_not_negative("max_memory_gb", self.max_memory_gb)
        check_seconds("idle_seconds", self.idle_seconds)
        check_seconds("total_seconds", self.total_seconds)

    @property
    def keep_none(self) -> bool:
        """True if the server keeps no sessions."""
        return not (self.max_sessions and self.max_memory_gb)


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """The model, the store, the tenants, and the defaults of requests."""

    model: str
    """A name on the Hugging Face hub, or a folder."""

    store: str | ChromaLocation = field(repr=False)  # a URL may contain a password
    """Folder of Chroma, or URL of its server; see `ChromaLocation.of`."""

    collection: str | None = None
    """Name of the collection. None means the only one of the store."""

    embeddings: str | None = None
    """A model whose hidden states are the embeddings, a sentence-transformer, or module:NAME. None
    means the embeddings that the collection names."""

    name: str | None = None
    """Name of the model for clients. None means `model`."""

    tenants: Tenants = field(default_factory=Tenants.anybody)
    """Tokens, and the documents that each may see. By default requests need no token."""

    mode: str = "rag"
    """Default mode of a request: "base", "rag", "ttft", "both" or "auto"."""

    modes: ModeTable | None = None
    """The gain and the time of each mode, for "auto". None means the rule without a table."""

    k: int = None  # type: ignore[assignment]  # replaced by a number below
    """Default number of documents for a prompt. None means as many as an adapter of `learn` saw
    with each example, or 20; the field then has this number."""

    fetch_k: int = 200
    """Default number of candidates to choose the documents from."""

    kernel: str | None = None
    """SIFT's kernel, "rbf" or "linear". None means the default of `SIFTRetriever` for the
    collection's embeddings."""

    length_scale: float | None = None
    """ℓ of the kernel "rbf", likewise."""

    noise_variance: float | None = None
    """SIFT's λ', likewise."""

    training_selection: CalibratedSelection | None = None
    """Chooses the documents in the modes with fine-tuning, in place of the five fields above. None
    means that all modes have the same."""

    context_k: int | None = None
    """Default maximum number of documents in the prompt, the most informative of the `k`. None
    means as many as fit."""

    stopping_alpha: float | None = None
    """SIFT's α for adaptive stopping. None means `k` documents for each prompt."""

    retrieval_query: str = "last"
    """Query for the retriever in a conversation: "last", "turns" or "rewrite"; see
    `ChatTestTimeFineTuned.retrieval_query`."""

    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    """Settings of the fine-tuning. Requests cannot raise its limits."""

    limits: Limits = field(default_factory=Limits)
    """Limits of the engine: batch size, and requests admitted at once."""

    sessions: SessionLimits = field(default_factory=SessionLimits)
    """Limits of the adapters that are kept for later requests (`ttft.session`)."""

    max_tokens: int = 256
    """Default maximum number of tokens of an answer."""

    timeout: float = 600.0
    """Maximum number of seconds for a request."""

    adapter_cache: Path | None = None
    """Folder to store trained adapters in, separately for each tenant. None means that adapters
    are not stored."""

    device: str | None = None
    """Device of the model. None means "cuda" if available, else "cpu"."""

    dtype: str | None = None
    """Data type of the weights. None means the default of `ChatTestTimeFineTuned`."""

    quantization: str | None = None
    """"4bit" or "8bit" (with bitsandbytes). None means no quantization."""

    cors_origins: Sequence[str] = ()
    """Origins of web pages that may send requests, such as "https://app.example". "*" means all,
    and "null" pages without an origin, such as local files; both require tokens."""

    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Highest values that a request may set in `ttft`, by name, such as {"k": 50}, and of
    "max_tokens", "n" and "prompts", the number of prompts in a list. `max_tokens`, the timeout and
    the limits of training never exceed their ceilings, even if the request does not set them. The
    server's own values of other options must not exceed theirs."""

    status_seconds: float = 0.5
    """Seconds for which a stream waits for its first chunk before it sends its headers: an error
    in that time gets a status of its own."""

    comment_seconds: float = 10.0
    """Seconds without a chunk after which a stream sends a comment, so that proxies see life."""

    stall_seconds: float = 300.0
    """Seconds without a gradient step or a token after which a busy engine counts as hung, and
    `/health` answers 503. A step must not take longer."""

    max_body_bytes: int = 2 << 20
    """Maximum size of a request's body; a larger one is rejected before it is read."""

    def __post_init__(self) -> None:
        """Check the settings before a model is loaded.

        Raises:
            ArgumentError: If a value is out of range.
        """
        for name in ("model", "collection", "embeddings", "name", "device"):
            check_string(name, getattr(self, name), optional=name != "model")
        object.__setattr__(self, "cors_origins", strings("cors_origins", self.cors_origins))
        if not isinstance(self.ceilings, Mapping):
            raise ArgumentError(f'ceilings must be like {{"k": 50}}, got {self.ceilings!r}')
        if self.k is None:
            object.__setattr__(self, "k", learned_k(self.model) or _K)
        check_choice("mode", self.mode, (*MODES, AUTO))
        check_table(self.modes)
        if not isinstance(self.training_selection, CalibratedSelection | None):
            raise ArgumentError(
                "training_selection must be a CalibratedSelection, "
                f"got a {type(self.training_selection).__name__}"
            )
        # The collection's embeddings are not known yet; what they bring is checked later.
        for each in (self, self.training_selection or self):
            kernel = kernel_settings(
                None,
                kernel=each.kernel,
                length_scale=each.length_scale,
                noise_variance=each.noise_variance,
            )
            SelectionSettings(k=each.k, stopping_alpha=self.stopping_alpha, **asdict(kernel))
        LoadSettings(self.device, self.dtype, self.quantization)
        check_seconds("timeout", self.timeout)
        check_seconds("status_seconds", self.status_seconds)
        check_seconds("comment_seconds", self.comment_seconds)
        check_seconds("stall_seconds", self.stall_seconds)
        check_integer("fetch_k", self.fetch_k, 1)
        check_integer("context_k", self.context_k, 1, optional=True)
        check_integer("max_tokens", self.max_tokens, 1)
        check_integer("max_body_bytes", self.max_body_bytes, 1)
        for origin in self.cors_origins:
            check_origin(origin, need_tokens=self.tenants.need_tokens)
        own = ("k", "context_k", "fetch_k", "length_scale", "noise_variance", "stopping_alpha")
        check_ceilings(self.ceilings, self.selection_for("ttft"))
        check_ceilings(
            self.ceilings,
            {name: getattr(self, name) for name in own}
            | {name: getattr(self.finetune, name) for name in FineTuneOptions.model_fields}
            | dict.fromkeys(TrainingLimits.model_fields),  # these are lowered to their ceilings
        )
        check_choice("retrieval_query", self.retrieval_query, ("last", "turns", "rewrite"))

    def selection_for(self, mode: str) -> Mapping[str, object]:
        """Return the fields of the retriever whose values for a mode differ from the server's."""
        if self.training_selection is None or not fine_tunes(mode):
            return {}
        values = asdict(self.training_selection)
        return {name: value for name, value in values.items() if value != getattr(self, name)}

    def context_limit(self, asked: int | None = None) -> int | None:
        """Return the maximum number of documents in a prompt; None means as many as fit.

        Args:
            asked: The number that a request sets. None means the server's default.
        """
        limits = (asked or self.context_k, self.ceilings.get("context_k"))
        return min((int(limit) for limit in limits if limit is not None), default=None)

    @property
    def longest(self) -> float:
        """Seconds that a request may take: the timeout, or its ceiling if that is lower."""
        return min(self.timeout, self.ceilings.get("timeout", self.timeout))

    @property
    def model_id(self) -> str:
        """Name of the model for clients."""
        return self.name or self.model


def check_origin(origin: str, *, need_tokens: bool) -> None:
    """Check the origin of web pages.

    Args:
        origin: The origin.
        need_tokens: True if the server rejects requests without a token.

    Raises:
        ArgumentError: If it has a path, or no scheme, or any page could ask without a token.
    """
    if origin in {"*", "null"} and not need_tokens:
        raise ArgumentError(
            f"the origin {origin!r} would let any web page read the documents: name the origins of "
            "your pages, or require tokens (tenants, or an API key)"
        )
    scheme, separator, host = origin.partition("://")
    if origin not in {"*", "null"} and not (scheme and separator and host and "/" not in host):
        raise ArgumentError(
            f"an origin is a scheme and a host, such as https://app.example:8443, or *, got "
            f"{origin!r}"
        )
