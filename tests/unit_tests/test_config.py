"""Settings are checked when they are made, and say what is wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_rank", 0),
        ("lora_rank", True),
        ("lora_alpha", 0.0),
        ("target_modules", "q_proj"),
        ("learning_rate", -1e-4),
        ("learning_rate", math.nan),
        ("steps_per_document", 0),
        ("max_length", 1),
        ("max_gradient_norm", 0.0),
        ("max_update", -1.0),
        ("gradient_reuse", 0),
        ("max_documents", 0),
        ("max_train_tokens", 0),
        ("max_train_seconds", 0.0),
        ("min_gain", -0.1),
        ("max_drift", math.nan),
        ("on_failure", "ignore"),
    ],
)
def test_fine_tuning_that_cannot_work_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}.*{value}"):
        FineTuneConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_requests", 0),
        ("max_tokens", 0),
        ("gather_seconds", -1.0),
    ],
)
def test_limits_that_cannot_work_are_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}.*{value}"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("stop", "a string"),
        ("stop", ("",)),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("seed", 2**63),
    ],
)
def test_answering_that_cannot_work_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=name):
        GenerationConfig(**{name: value})


def test_settings_do_not_change_and_can_be_keys() -> None:
    config = FineTuneConfig(target_modules=["q_proj"])
    assert config.target_modules == ("q_proj",)
    assert {config: 1}[FineTuneConfig(target_modules=("q_proj",))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
