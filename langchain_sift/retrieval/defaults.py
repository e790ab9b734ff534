"""Choose the kernel and λ' that a caller leaves out.

The right values depend on the embeddings. Embeddings of any class may have the attributes `kernel`,
`length_scale` and `noise_variance`: their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from langchain_sift.selection.settings import DEFAULT_LENGTH_SCALE


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """A kernel and λ'."""

    kernel: str
    length_scale: float
    noise_variance: float


DEFAULT_SETTINGS = KernelSettings("linear", DEFAULT_LENGTH_SCALE, 6.5)
"""Chosen on test collections (`examples/evidence/retrieval.md`), and as good for documents that a
model is fine-tuned on (`examples/evidence/real_models.md`)."""

DEFAULT_SETTINGS_RBF = KernelSettings("rbf", DEFAULT_LENGTH_SCALE, 4.0)
"""The best settings of the other kernel, from the first page."""


class KernelOptions(TypedDict):
    """The kernel and λ' of a choice; None means the default of `SIFTRetriever`."""

    kernel: str | None
    length_scale: float | None
    noise_variance: float | None


def kernel_settings(
    embeddings: object,
    *,
    kernel: str | None = None,
    length_scale: float | None = None,
    noise_variance: float | None = None,
) -> KernelSettings:
    """Return the settings, with defaults for those that are None.

    Args:
        embeddings: The embeddings of the query and the documents. Their attributes take
            precedence over the general defaults; an attribute `noise_variance` without `kernel`
            belongs to the linear kernel.
        kernel: "linear" or "rbf".
        length_scale: ℓ of "rbf".
        noise_variance: λ'.
    """
    own = _of_embeddings(embeddings)
    defaults = [*([own] if own else []), DEFAULT_SETTINGS, DEFAULT_SETTINGS_RBF]
    kernel = kernel or defaults[0].kernel
    # An unknown kernel is refused later.
    default = next((each for each in defaults if each.kernel == kernel), defaults[0])
    return KernelSettings(
        kernel,
        default.length_scale if length_scale is None else length_scale,
        default.noise_variance if noise_variance is None else noise_variance,
    )


def _of_embeddings(embeddings: object) -> KernelSettings | None:
    """Return the defaults that the embeddings bring. None if they bring neither kernel nor λ'."""
    kernel = getattr(embeddings, "kernel", None)
    noise_variance = getattr(embeddings, "noise_variance", None)
    if kernel is None and noise_variance is None:
        return None
    general = DEFAULT_SETTINGS_RBF if kernel == "rbf" else DEFAULT_SETTINGS
    return KernelSettings(
        kernel or "linear",
        getattr(embeddings, "length_scale", general.length_scale),
        general.noise_variance if noise_variance is None else noise_variance,
    )
