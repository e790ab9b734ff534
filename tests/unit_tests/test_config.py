"""Check settings when they are made, with the bad value in the message."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
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
        ("target_modules", "last-0"),
        ("target_modules", "last-N"),
        ("target_modules", ()),
        ("target_modules", 5),
        ("target_modules", None),
        ("target_modules", [["q_proj"]]),
        ("target_modules", ("q_proj", "")),
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
        ("learning_rate", "1"),
        ("learning_rate", 10**400),
        ("lora_alpha", "16"),
        ("lora_alpha", None),
        ("max_update", True),
        ("max_train_seconds", "1"),
        ("min_gain", [0.1]),
        ("on_failure", "ignore"),
        ("seed", "a"),
        ("seed", -1),
        ("seed", 1 << 63),
    ],
)
def test_a_bad_value_for_fine_tuning_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}.*{re.escape(str(value))}"):
        FineTuneConfig(**{name: value})


@pytest.mark.parametrize("value", ["one text", 5, None, [5], ["a", None]])
def test_texts_for_the_drift_are_a_sequence_of_texts(value: Any) -> None:
    with pytest.raises(ArgumentError, match="drift_texts must be a sequence of str, got"):
        FineTuneConfig(drift_texts=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_requests", 0),
        ("max_tokens", 0),
        ("gather_seconds", -1.0),
        ("gather_seconds", "1"),
    ],
)
def test_a_bad_limit_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}.*{value}"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", "0.5"),
        ("temperature", 1j),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", math.nan),
        ("repetition_penalty", 0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", None),
        ("stop", "a string"),
        ("stop", ("",)),
        ("stop", [1]),
        ("stop", [b"a"]),
        ("stop", [None]),
        ("stop", 1),
        ("stop", None),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("seed", 2**63),
    ],
)
def test_a_bad_value_for_generation_is_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=name):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize("number", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_every_type_of_number_is_accepted(number: float) -> None:
    assert GenerationConfig(temperature=number).temperature == number
    assert FineTuneConfig(learning_rate=number, lora_alpha=number).lora_alpha == number


def test_stop_strings_may_be_any_iterable() -> None:
    assert GenerationConfig(stop=iter(["a", "b"])).stop == ("a", "b")


def test_the_nearest_choice_of_layers_is_suggested() -> None:
    for value in ("all-linear", "attention", "mlp", "last-12"):
        assert FineTuneConfig(target_modules=value).target_modules == value
    for value, nearest in (("atention", "attention"), ("all_linear", "all-linear")):
        with pytest.raises(ArgumentError, match=f"did you mean '{nearest}'"):
            FineTuneConfig(target_modules=value)


def test_settings_are_frozen_and_hashable() -> None:
    config = FineTuneConfig(target_modules=["q_proj"])
    assert config.target_modules == ("q_proj",)
    assert {config: 1}[FineTuneConfig(target_modules=("q_proj",))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
