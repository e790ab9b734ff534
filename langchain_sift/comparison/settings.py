"""Check the settings of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from langchain_sift.auto_mode import ModeTable
from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.checks import check_integer, check_positive, check_string
from langchain_sift.comparison.judging import Judge
from langchain_sift.comparison.methods import Method
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.tasks import METRICS_OF, RETRIEVAL
from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.report.conditions import Condition, parse_condition
from langchain_sift.report.metrics import FROM_0_TO_1
from langchain_sift.report.rows import CHAIN, SELECTION
from langchain_sift.report.summaries import PERCENT_OF_BASE
from langchain_sift.retrieval.defaults import KernelOptions, kernel_settings
from langchain_sift.selection.settings import SelectionSettings

Retriever = Runnable[str, list[Document]]
Chain = Runnable[Any, Any]
Scorer = Callable[[str, Prompt], float]

LEAKS = ("report", "exclude", "ignore")
_GATHER_SECONDS = 0.2  # long enough to batch all prompts of a unit, on a busy machine as well


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSettings:
    """The settings of a comparison, checked; `compare` explains them."""

    methods: tuple[Method, ...]
    protocols: tuple[str, ...]

    ks: tuple[int, ...]
    """Numbers of documents, ascending."""

    fetch_k: int
    """Number of candidates; raised to the largest k."""

    finetune: FineTuneConfig
    """Its seed is the seed of random choices as well."""

    kernel: str | None = None
    """Kernel of the methods that set none. None means the default of `SIFTRetriever`."""

    length_scale: float | None = None
    """ℓ of "rbf", likewise."""

    noise_variance: float | None = None
    """λ', likewise."""

    retrieval: CalibratedSelection | None = None
    """Its kernel and λ' are those of methods without fine-tuning. None means the same."""

    modes: ModeTable | None = None
    """The gain and the time of each mode, for methods of the mode "auto". None means the rule
    without a table."""

    retrievers: Mapping[str, Retriever] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    judge: Judge | None = None
    """The judge of answers. None means that no model grades them."""

    filter: Mapping[str, object] | None = None
    """Filter of the store. None means all documents."""

    label_key: str | None = None
    """Metadata key that `relevant` names documents by. None means their ids."""

    max_tokens: int = 32

    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    """Arguments for the model's chat template."""

    leaks: str = "report"
    jobs: int = 8

    ray: int | None = None
    """Number of Ray actors. None means this process."""

    max_memory_gb: float | None = None
    """As in `Limits`; with Ray, of each actor."""

    def __post_init__(self) -> None:
        """Check the numbers and `leaks`; the config and the names are checked already.

        Raises:
            ArgumentError: If a value is out of range or has another type, or no protocol can
                measure a method.
        """
        # The embeddings are not known yet; what they bring is checked later.
        for k, for_training in itertools.product(self.ks, (False, True)):
            kernel = kernel_settings(None, **self.kernel_of(for_training=for_training))
            SelectionSettings(k=k, **asdict(kernel))
        check_string("label_key", self.label_key, optional=True)
        check_integer("fetch_k", self.fetch_k, 1)
        check_integer("jobs", self.jobs, 1)
        check_integer("max_tokens", self.max_tokens, 1)
        if self.chat_template_kwargs:  # the check needs transformers
            from langchain_sift.language_models.chat_templates.template_arguments import (  # noqa: PLC0415
                check_template_arguments,
            )

            check_template_arguments(self.chat_template_kwargs)
        check_integer("ray", self.ray, 1, optional=True)
        check_positive("max_memory_gb", self.max_memory_gb, optional=True)
        if "qa" not in self.protocols and (self.judge is not None or self.scorers):
            raise ArgumentError(
                'a judge and scorers grade the answers of the protocol "qa": add it, or leave them '
                "out"
            )
        if self.judge is not None and self.ray is not None:
            raise ArgumentError("a judge grades in this process: leave judge or ray out")
        self._check_functions()
        if self.leaks not in LEAKS:
            raise ArgumentError(f"leaks must be one of {', '.join(LEAKS)}, got {self.leaks!r}")
        if not self.methods:
            raise ArgumentError("there is no method to compare: name at least one")
        for method in self.methods:
            self._check_protocols(method)
        object.__setattr__(self, "fetch_k", max(self.fetch_k, *self.ks))

    def _check_functions(self) -> None:
        """Reject retrievers and chains that are no runnables, and scorers that are no functions."""
        for kind, runnables in (("retriever", self.retrievers), ("chain", self.chains)):
            for name, found in runnables.items():
                if not isinstance(found, Runnable):
                    raise ArgumentError(
                        f"the {kind} {name!r} must be a runnable of LangChain, got a "
                        f"{type(found).__name__}: make one of a function with RunnableLambda"
                    )
        for name, scorer in self.scorers.items():
            if not callable(scorer):
                raise ArgumentError(
                    f"the scorer {name!r} must be a function, got a {type(scorer).__name__}"
                )
            if not name.strip() or name in {*FROM_0_TO_1, PERCENT_OF_BASE}:
                raise ArgumentError(
                    f"{name!r} cannot name a scorer: use a word that names no metric of `compare`"
                )

    def _check_protocols(self, method: Method) -> None:
        if method.mode == CHAIN and set(self.protocols) - {RETRIEVAL} != {"qa"}:
            raise ArgumentError('only the protocol "qa" scores the answers of chains')
        if method.context_k is not None and not self.needs_model:
            name = f"{method.name!r}: context_k"
            raise ArgumentError(f"{name} has no effect on the protocol {RETRIEVAL}: leave it out")
        if any(method in self.methods_of(protocol) for protocol in self.protocols):
            return
        if method.mode == SELECTION:
            raise ArgumentError(
                f"{method.name!r} chooses documents and does not use them: write "
                f"rag:{method.name}, ttft:{method.name} or both:{method.name}, or measure it under "
                f"the protocol {RETRIEVAL}"
            )
        raise ArgumentError(
            f"{method.name!r} chooses no documents: the protocol {RETRIEVAL} cannot measure it"
        )

    def kernel_of(self, *, for_training: bool) -> KernelOptions:
        """Return the kernel and λ' of methods that set none."""
        own = self if for_training or self.retrieval is None else self.retrieval
        return {
            "kernel": own.kernel,
            "length_scale": own.length_scale,
            "noise_variance": own.noise_variance,
        }

    def methods_of(self, protocol: str) -> tuple[Method, ...]:
        """Return the methods that are measured under a protocol.

        Retrieval measures all that choose documents. The other protocols measure all that answer.
        """
        if protocol == RETRIEVAL:
            return tuple(method for method in self.methods if method.selection)
        return tuple(method for method in self.methods if method.mode != SELECTION)

    def conditions(self, texts: Sequence[str]) -> list[Condition]:
        """Read conditions on the metrics of the comparison.

        Raises:
            ArgumentError: As `parse_condition`.
        """
        metrics = {name for protocol in self.protocols for name in METRICS_OF[protocol]}
        metrics |= {*self.scorers}
        names = [method.name for method in self.methods]
        return [parse_condition(text, metrics=metrics, methods=names, ks=self.ks) for text in texts]

    @property
    def needs_model(self) -> bool:
        """True if a protocol needs a language model."""
        return set(self.protocols) != {RETRIEVAL}

    @property
    def rows_per_prompt(self) -> int:
        """Number of rows that a prompt gets."""
        return sum(
            len(self.ks) if method.selection else 1
            for protocol in self.protocols
            for method in self.methods_of(protocol)
        )

    def limits(self) -> Limits:
        """Return limits of the engine under which no request of a unit is rejected."""
        requests = self.jobs * len(self.ks)
        # With the objective "distill" there are up to three lessons about each document.
        lessons = 3 if self.finetune.objective == "distill" else 1
        steps = max(self.ks) * self.finetune.steps_per_document * lessons
        default = Limits()
        return Limits(
            max_batch_size=self.jobs,
            gather_seconds=_GATHER_SECONDS,
            max_requests=max(default.max_requests, requests),
            max_tokens=max(default.max_tokens, requests * steps * self.finetune.max_length),
            max_memory_gb=self.max_memory_gb,
        )


def parse_ks(k: int | Iterable[int]) -> tuple[int, ...]:
    """Return the numbers of documents in ascending order, each once.

    Raises:
        ArgumentError: If there are none, or one is no positive integer.
    """
    ks = tuple(k) if isinstance(k, Iterable) and not isinstance(k, str) else (k,)
    if not ks:
        raise ArgumentError("k must be a number of documents, or several, got none")
    for each in ks:
        check_integer("k", each, 1)
    return tuple(sorted(set(ks)))
