"""The settings of a comparison that a caller leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from langchain_sift.auto_mode import ModeTable
from langchain_sift.calibrated_settings import (
    CalibratedSelection,
    CalibratedSettings,
    read_settings,
)
from langchain_sift.comparison.tasks import RETRIEVAL
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.questions.learned_examples import learned_k
from langchain_sift.report.rows import BASE
from langchain_sift.retrieval.defaults import KernelOptions

DEFAULT_METHODS = (BASE, "rag:nearest", "rag:sift", "ttft:nearest", "ttft:sift")
RETRIEVAL_METHODS = ("nearest", "mmr", "sift")
"""The default methods if nothing but the retrieval is measured."""

_RETRIEVAL_K = 10  # as in nDCG@10, the most common metric of test collections


class MethodKernels(KernelOptions):
    """The kernel and λ' of all methods, and the calibration for methods without fine-tuning."""

    retrieval: CalibratedSelection | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """The values of settings that a caller leaves out."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    k: int = 20
    fetch_k: int = 200

    kernel: str | None = None
    """None means the default of `SIFTRetriever`."""

    length_scale: float | None = None
    """ℓ of "rbf". None means the default."""

    noise_variance: float | None = None
    """λ'. None means the default."""

    retrieval: CalibratedSelection | None = None
    """Kernel and λ' of methods without fine-tuning. None means the same."""

    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    modes: ModeTable | None = None

    @classmethod
    def of(
        cls,
        calibrated: CalibratedSettings | Path | str | None,
        protocols: Sequence[str],
        model: str | None = None,
    ) -> Defaults:
        """Return the values for some protocols.

        Args:
            calibrated: Calibrated values, or their file. None means the general ones.
            protocols: The protocols; retrieval alone has other methods, fewer documents and the
                values calibrated for retrieval, the others those for fine-tuning. Methods without
                fine-tuning have the kernel and λ' calibrated for retrieval, if there are both.
            model: The name of the model. If it has learned examples and nothing is calibrated, k is
                that of the examples. None means a model without a name.

        Raises:
            ArgumentError: If the file cannot be read, or `calibrate` did not write it.
        """
        retrieval_alone = set(protocols) == {RETRIEVAL}
        general = cls(RETRIEVAL_METHODS, _RETRIEVAL_K) if retrieval_alone else cls()
        if calibrated is None:
            k = None if retrieval_alone else learned_k(model)
            return general if k is None else replace(general, k=k)
        saved = read_settings(calibrated)
        selection = saved.selection(for_training=not retrieval_alone)
        chosen = asdict(selection)
        if saved.mode == "both" and not retrieval_alone:
            chosen["methods"] = (*general.methods, "both:sift")
        if saved.fine_tuning is not None and not retrieval_alone:
            chosen["retrieval"] = saved.retrieval
        return replace(general, **chosen, finetune=saved.finetune_config(), modes=saved.modes)

    def tuned(self, finetune: FineTuneConfig | None, seed: int) -> FineTuneConfig:
        """Return the config of fine-tuning with a seed; one that is not None takes precedence.

        Raises:
            ArgumentError: If it is no config.
        """
        if not isinstance(finetune, FineTuneConfig | None):
            raise ArgumentError(
                f"finetune must be a FineTuneConfig, got a {type(finetune).__name__}: write "
                "FineTuneConfig(lora_rank=4)"
            )
        return replace(self.finetune if finetune is None else finetune, seed=seed)

    def kernels(
        self, kernel: str | None, length_scale: float | None, noise_variance: float | None
    ) -> MethodKernels:
        """Return the kernels of all methods; values that are not None take precedence."""
        given: KernelOptions = {
            "kernel": kernel or self.kernel,
            "length_scale": self.length_scale if length_scale is None else length_scale,
            "noise_variance": self.noise_variance if noise_variance is None else noise_variance,
        }
        asked = zip(given, (kernel, length_scale, noise_variance), strict=True)
        changes: Any = {name: value for name, value in asked if value}
        return {**given, "retrieval": self.retrieval and replace(self.retrieval, **changes)}
