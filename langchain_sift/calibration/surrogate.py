"""Which λ' are worth a fine-tuning is told by a Gaussian process, without any."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from langchain_sift.calibration.held_out import HeldOut
from langchain_sift.selection.arguments import Array
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import plain_tokens

_TOKENS = 512  # of a text


def promising(noise_variances: Sequence[float], likelihoods: Sequence[float]) -> tuple[float, ...]:
    """Return the λ' without the least likely third, ascending; of two or three, all.

    Not fewer: on one of three domains its peak was at a hundredth of the λ' that served fine-tuning
    best (examples/evidence).
    """
    count = max(min(3, len(noise_variances)), math.ceil(2 * len(noise_variances) / 3))
    order = np.argsort(-np.array(likelihoods), kind="stable")[:count]
    return tuple(noise_variances[place] for place in sorted(order.tolist()))


def surrogate_likelihoods(
    prompts: Sequence[HeldOut], noise_variances: Sequence[float], language_model: LanguageModel
) -> tuple[float, ...]:
    """Return for each λ' how likely it makes what the texts say, given their embeddings.

    λ' is the noise of what a text teaches, as against what its embedding tells of it
    (arXiv 2410.08020, section 3). So the words of texts, as frequencies of tokens, are regressed
    on their embeddings by the very Gaussian process that chooses, around each prompt. No step of
    training is taken.

    Returns:
        Of each λ' the leave-one-out log likelihood of `leave_one_out`, mean over prompts.
    """
    frequencies: dict[str, Array] = {}
    size = len(language_model.tokenizer)
    for prompt in prompts:
        for text in (prompt.text, *prompt.texts):
            if text not in frequencies:
                frequencies[text] = _token_frequencies(language_model, text, size)
    # Tokens of no text say nothing, and what all texts share is not to be explained.
    mean = np.mean(list(frequencies.values()), axis=0)
    present = np.flatnonzero(mean)
    rows = [
        leave_one_out(
            np.concatenate([prompt.query[None, :], prompt.embeddings]),
            np.array([frequencies[text][present] for text in (prompt.text, *prompt.texts)])
            - mean[present],
            noise_variances,
        )
        for prompt in prompts
    ]
    found: list[float] = np.mean(rows, axis=0).tolist()
    return tuple(found)


def _token_frequencies(language_model: LanguageModel, text: str, size: int) -> Array:
    """Return the roots of the frequencies: Hellinger's distance tells texts apart by them."""
    token_ids = plain_tokens(language_model.tokenizer, text)[:_TOKENS]
    counts = np.bincount(np.array(token_ids, dtype=np.int64), minlength=size)
    roots: Array = np.sqrt(counts / max(1, len(token_ids)))
    return roots


def leave_one_out(embeddings: Array, targets: Array, noise_variances: Sequence[float]) -> Array:
    """Return the leave-one-out log likelihood of Gaussian processes, in nats per number.

    Rasmussen & Williams (2006), eq. 5.10 to 5.12, with the kernel s² (φ(x)ᵀφ(x') + λ' δ) for
    every column of the targets, and the scale s² at its likeliest value.

    Args:
        embeddings: Shape (n, d).
        targets: Shape (n, q).
        noise_variances: Values of λ'.
    """
    values, vectors = np.linalg.eigh(embeddings @ embeddings.T)
    rotated = vectors.T @ targets
    found = []
    for noise_variance in noise_variances:
        precisions = 1.0 / (np.clip(values, 0.0, None) + noise_variance)
        own = (vectors**2) @ precisions  # the diagonal of the inverse
        residuals = (vectors @ (precisions[:, None] * rotated)) / own[:, None]
        scale = max(float(np.mean(residuals**2 * own[:, None])), np.finfo(np.float64).tiny)
        found.append(-0.5 * (math.log(2 * math.pi * scale) + 1 - float(np.mean(np.log(own)))))
    return np.array(found)
