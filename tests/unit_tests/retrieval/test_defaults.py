"""Choose the kernel and λ' that are not set."""

from __future__ import annotations

from types import SimpleNamespace

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.retrieval.defaults import (
    FOR_RETRIEVAL,
    FOR_RETRIEVAL_WITH_RBF,
    FOR_TRAINING,
    KernelSettings,
    kernel_settings,
)

PLAIN = SimpleNamespace()


def test_retrieval_and_training_have_their_own_defaults() -> None:
    assert kernel_settings(PLAIN) == kernel_settings(None) == FOR_RETRIEVAL
    assert kernel_settings(PLAIN, for_training=True) == FOR_TRAINING
    assert FOR_RETRIEVAL.noise_variance > FOR_TRAINING.noise_variance


def test_each_kernel_has_its_own_noise_variance() -> None:
    assert kernel_settings(PLAIN, kernel="rbf") == FOR_RETRIEVAL_WITH_RBF
    assert kernel_settings(PLAIN, kernel="rbf", for_training=True) == FOR_RETRIEVAL_WITH_RBF
    assert kernel_settings(PLAIN, kernel="linear", for_training=True) == FOR_TRAINING


def test_settings_take_precedence_over_the_embeddings_and_those_over_the_defaults() -> None:
    own = SimpleNamespace(kernel="rbf", length_scale=0.7, noise_variance=0.2)
    assert kernel_settings(own) == KernelSettings("rbf", 0.7, 0.2)
    assert kernel_settings(own, noise_variance=3.0) == KernelSettings("rbf", 0.7, 3.0)
    assert kernel_settings(own, kernel="linear") == FOR_RETRIEVAL
    assert kernel_settings(own, length_scale=1.0) == KernelSettings("rbf", 1.0, 0.2)


def test_a_noise_variance_of_embeddings_belongs_to_the_linear_kernel() -> None:
    own = SimpleNamespace(noise_variance=0.2)
    assert kernel_settings(own).noise_variance == 0.2
    assert kernel_settings(own, for_training=True).noise_variance == 0.2
    assert kernel_settings(own, kernel="rbf") == FOR_RETRIEVAL_WITH_RBF


def test_hidden_states_have_a_noise_variance_for_each_use() -> None:
    states = HiddenStateEmbeddings
    assert kernel_settings(states).noise_variance == states.noise_variance
    training = kernel_settings(states, for_training=True)
    assert training.noise_variance == states.training_noise_variance
