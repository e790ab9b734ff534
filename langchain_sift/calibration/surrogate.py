"""Rank values of λ' by Gaussian-process likelihood, without fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from langchain_sift.calibration.held_out import HeldOut
from langchain_sift.selection.arguments import Array
from langchain_sift.selection.settings import Kernel
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import plain_tokens

_MAX_TOKENS = 512  # of a text


def promising(noise_variances: Sequence[float], likelihoods: Sequence[float]) -> tuple[float, ...]:
    """Drop the least likely third of the λ', and none of two or three; return them ascending.

    Dropping more would be wrong: on one of five domains the likelihood was highest at a hundredth
    of the λ' that was best for fine-tuning (`examples/evidence/calibration.json`).
    """
    count = max(min(3, len(noise_variances)), math.ceil(2 * len(noise_variances) / 3))
    order = np.argsort(-np.array(likelihoods), kind="stable")[:count]
    return tuple(noise_variances[index] for index in sorted(order.tolist()))


def surrogate_likelihoods(
    prompts: Sequence[HeldOut], noise_variances: Sequence[float], language_model: LanguageModel
) -> tuple[float, ...]:
    """Compute the likelihood of the texts given their embeddings, for each λ'.

    λ' is the variance of a text's content that its embedding does not explain (arXiv 2410.08020,
    section 3). For each prompt, SIFT's Gaussian process therefore predicts the token frequencies
    of the texts from their embeddings. No gradient step is taken.

    Returns:
        The log likelihood of `leave_one_out` for each λ', mean over prompts.
    """
    frequencies: dict[str, Array] = {}
    size = len(language_model.tokenizer)
    for prompt in prompts:
        for text in (prompt.text, *prompt.texts):
            if text not in frequencies:
                frequencies[text] = _token_frequencies(language_model, text, size)
    # Tokens without occurrences carry no information; the mean of all texts needs no explanation.
    mean = np.mean(list(frequencies.values()), axis=0)
    present = np.flatnonzero(mean)
    rows = [
        leave_one_out(
            np.concatenate([prompt.query[None, :], prompt.embeddings]),
            np.array([frequencies[text][present] for text in (prompt.text, *prompt.texts)])
            - mean[present],
            noise_variances,
            prompt.kernel,
        )
        for prompt in prompts
    ]
    likelihoods: list[float] = np.mean(rows, axis=0).tolist()
    return tuple(likelihoods)


def _token_frequencies(language_model: LanguageModel, text: str, size: int) -> Array:
    """Return the square roots of the token frequencies, whose distance is Hellinger's."""
    token_ids = plain_tokens(language_model.tokenizer, text)[:_MAX_TOKENS]
    counts = np.bincount(np.array(token_ids, dtype=np.int64), minlength=size)
    roots: Array = np.sqrt(counts / max(1, len(token_ids)))
    return roots


def leave_one_out(
    embeddings: Array, targets: Array, noise_variances: Sequence[float], kernel: Kernel
) -> Array:
    """Compute the leave-one-out log likelihood of Gaussian processes, in nats per number.

    Rasmussen & Williams (2006), eq. 5.10 to 5.12, with the kernel s² (k(x, x') + λ' δ) for every
    column of the targets, and the maximum-likelihood value of the scale s².

    Args:
        embeddings: Unit vectors, shape (n, d).
        targets: Shape (n, q).
        noise_variances: Values of λ'.
        kernel: k(x, x').
    """
    # K + λ' I has the eigenvectors of K, and eigenvalues larger by λ'.
    eigenvalues, vectors = np.linalg.eigh(
        kernel.of_products(np, embeddings @ embeddings.T, 1.0, 1.0)
    )
    rotated = vectors.T @ targets
    likelihoods = []
    for noise_variance in noise_variances:
        precisions = 1.0 / (np.clip(eigenvalues, 0.0, None) + noise_variance)
        diagonal = (vectors**2) @ precisions  # of (K + λ' I)⁻¹: inverse variances, eq. 5.12
        residuals = (vectors @ (precisions[:, None] * rotated)) / diagonal[:, None]  # y − μ, 5.12
        scale = max(float(np.mean(residuals**2 * diagonal[:, None])), np.finfo(np.float64).tiny)
        # Eq. 5.10, at the likeliest s².
        mean_log_precision = float(np.mean(np.log(diagonal)))
        likelihoods.append(-0.5 * (math.log(2 * math.pi * scale) + 1 - mean_log_precision))
    return np.array(likelihoods)
