"""Choose the kernel and λ' that are not set."""

from __future__ import annotations

from types import SimpleNamespace

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.retrieval.defaults import (
    DEFAULT_SETTINGS,
    DEFAULT_SETTINGS_RBF,
    KernelSettings,
    kernel_settings,
)

PLAIN = SimpleNamespace()


def test_each_kernel_has_its_own_noise_variance() -> None:
    assert kernel_settings(PLAIN) == kernel_settings(None) == DEFAULT_SETTINGS
    assert kernel_settings(PLAIN, kernel="linear") == DEFAULT_SETTINGS
    assert kernel_settings(PLAIN, kernel="rbf") == DEFAULT_SETTINGS_RBF


def test_settings_take_precedence_over_the_embeddings_and_those_over_the_defaults() -> None:
    own = SimpleNamespace(kernel="rbf", length_scale=0.7, noise_variance=0.2)
    assert kernel_settings(own) == KernelSettings("rbf", 0.7, 0.2)
    assert kernel_settings(own, noise_variance=3.0) == KernelSettings("rbf", 0.7, 3.0)
    assert kernel_settings(own, kernel="linear") == DEFAULT_SETTINGS
    assert kernel_settings(own, length_scale=1.0) == KernelSettings("rbf", 1.0, 0.2)


def test_a_noise_variance_of_embeddings_belongs_to_the_linear_kernel() -> None:
    own = SimpleNamespace(noise_variance=0.2)
    assert kernel_settings(own).noise_variance == 0.2
    assert kernel_settings(own, kernel="rbf") == DEFAULT_SETTINGS_RBF


def test_hidden_states_have_their_own_noise_variance() -> None:
    states = HiddenStateEmbeddings
    assert kernel_settings(states).noise_variance == states.noise_variance
    assert states.noise_variance != DEFAULT_SETTINGS.noise_variance
