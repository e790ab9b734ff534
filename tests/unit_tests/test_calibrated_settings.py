"""Read the settings of a calibration in the retriever, the models and `compare`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_sift import (
    CalibratedSettings,
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
    compare,
)
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SAVED = CalibratedSettings(
    noise_variance=0.3,
    learning_rate=2e-3,
    k=3,
    fetch_k=30,
    lora_rank=4,
    lora_alpha=8.0,
    max_length=32,
    model="org/name",
    protocol="document",
    seed=3,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    SAVED.save(path)
    return path


def test_settings_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    SAVED.save(path)
    assert CalibratedSettings.load(path) == SAVED
    with pytest.raises(ArgumentError, match="already exists"):
        SAVED.save(path)
    SAVED.save(path, overwrite=True)
    values = json.loads(path.read_text())
    for change, message in (
        ({"kk": 1}, "unknown kk"),
        ({"version": 2}, "version 2"),
        ({"k": 0}, "k must be"),
        ({"noise_variance": "x"}, "noise_variance must be"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(ArgumentError, match=f"bad.json.*{message}"):
            CalibratedSettings.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"bad\.json is not a settings file of `calibrate`"):
        CalibratedSettings.load(tmp_path / "bad.json")
    with pytest.raises(ArgumentError, match="cannot be read: Is a directory"):
        CalibratedSettings.load(tmp_path)


def test_a_retriever_from_settings_equals_one_with_these_fields(store: Chroma, file: Path) -> None:
    given = SIFTRetriever(vectorstore=store, k=3, fetch_k=30, noise_variance=0.3)
    for settings in (SAVED, file, str(file)):
        made = SIFTRetriever.from_settings(settings, vectorstore=store)
        assert made == given
        assert made.invoke("rice grows") == given.invoke("rice grows")
    other = SIFTRetriever.from_settings(file, vectorstore=store, k=5, gain_key="gain")
    assert (other.k, other.noise_variance, other.gain_key) == (5, 0.3, "gain")


@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_model_from_settings_answers_as_one_with_the_same_fields(
    model_class: type[ChatTestTimeFineTuned | TestTimeFineTunedLLM],
    file: Path,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    loaded = {"model": tiny_model, "tokenizer": tiny_tokenizer, "max_tokens": 4}
    config = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=2e-3, max_length=32, seed=3)
    made = model_class.from_settings(file, **loaded)
    given = model_class(finetune=config, **loaded)
    assert made.finetune == given.finetune
    documents = [Document("rice grows in wet fields")]
    answers = [model.invoke("rice", documents=documents) for model in (made, given)]
    texts = [getattr(answer, "text", answer) for answer in answers]
    assert texts[0] == texts[1]
    assert model_class.from_settings(file).model == "org/name"


def test_explicit_arguments_of_a_comparison_take_precedence_over_settings(
    store: Chroma,
    file: Path,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    arguments = {"model": tiny_model, "tokenizer": tiny_tokenizer, "vectorstore": store}
    found = compare(["rice grows in fields"], ["ttft:sift"], settings=file, **arguments).settings
    assert {name: found[name] for name in asdict(SAVED) if name in found} == {
        **{name: value for name, value in asdict(SAVED).items() if name in found},
        "k": [3],
        "model": found["model"],
        "seed": 0,  # of the comparison, not of the calibration
    }
    given = compare(
        ["rice grows in fields"],
        ["ttft:sift"],
        settings=SAVED,
        k=2,
        noise_variance=0.5,
        finetune=FineTuneConfig(lora_rank=4, learning_rate=1e-3, max_length=32),
        **arguments,
    ).settings
    assert (given["k"], given["noise_variance"], given["learning_rate"]) == ([2], 0.5, 1e-3)
    assert given["fetch_k"] == 30


@pytest.mark.slow
def test_bad_settings_are_named(store: Chroma, tmp_path: Path, file: Path) -> None:
    with pytest.raises(ArgumentError, match=r"none\.json"):
        SIFTRetriever.from_settings(tmp_path / "none.json", vectorstore=store)
    with pytest.raises(ValidationError, match="kk"):
        SIFTRetriever.from_settings(file, vectorstore=store, kk=3)
    with pytest.raises(ValidationError, match="tokens"):
        ChatTestTimeFineTuned.from_settings(file, tokens=3)
    with pytest.raises(ArgumentError, match="noise_variance must be"):
        compare(["x"], model="m", vectorstore=store, settings=SAVED, noise_variance=0.0)
