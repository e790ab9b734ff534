"""Read the settings of a calibration in the retriever, the models and `compare`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
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
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable
from langchain_sift.calibrated_settings import CalibratedFineTuning, CalibratedSelection
from langchain_sift.comparison.defaults import DEFAULT_METHODS, RETRIEVAL_METHODS, Defaults
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RETRIEVAL = CalibratedSettings(
    retrieval=CalibratedSelection(
        noise_variance=0.1, k=5, fetch_k=40, kernel="rbf", length_scale=0.4
    )
)
SAVED = CalibratedSettings(
    fine_tuning=CalibratedFineTuning(
        selection=CalibratedSelection(noise_variance=0.3, k=3, fetch_k=30),
        learning_rate=2e-3,
        lora_rank=4,
        lora_alpha=8.0,
        max_length=32,
        model="org/name",
        protocol="document",
        seed=3,
        target_modules=("q_proj", "v_proj"),
        mode="both",
    )
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    SAVED.save(path)
    return path


def test_a_calibration_may_choose_the_default_learning_rate(tmp_path: Path) -> None:
    assert SAVED.fine_tuning is not None
    default = CalibratedSettings(fine_tuning=replace(SAVED.fine_tuning, learning_rate=None))
    default.save(tmp_path / "s.json")
    loaded = CalibratedSettings.load(tmp_path / "s.json")
    assert loaded == default
    assert loaded.finetune_config().learning_rate is None


def test_settings_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    SAVED.save(path)
    assert CalibratedSettings.load(path) == SAVED
    with pytest.raises(ArgumentError, match="already exists"):
        SAVED.save(path)
    RETRIEVAL.save(path, overwrite=True)
    assert CalibratedSettings.load(path) == RETRIEVAL
    both = SAVED.updated(RETRIEVAL)
    both.save(path, overwrite=True)
    assert CalibratedSettings.load(path) == both
    values = json.loads(path.read_text())
    tuned, selection = values["fine_tuning"], values["retrieval"]
    for change, message in (
        ({"kk": 1}, "unknown kk"),
        ({"version": 1}, "version 1"),
        ({"version": True}, "version True"),
        ({"retrieval": 3}, "retrieval must be an object"),
        ({"retrieval": {**selection, "k": 0}}, "k must be"),
        ({"retrieval": {**selection, "kernel": ""}}, "kernel must be"),
        ({"retrieval": {**selection, "kernel": "cosine"}}, "kernel must be"),
        ({"retrieval": {**selection, "length_scale": -1}}, "length_scale must be"),
        ({"retrieval": {"k": 3}}, "retrieval with no fetch_k, noise_variance"),
        ({"fine_tuning": {**tuned, "kk": 3}}, "fine_tuning with unknown kk"),
        ({"fine_tuning": {**tuned, "learning_rate": "x"}}, "learning_rate must be"),
        ({"fine_tuning": {**tuned, "learning_rate": 0}}, "learning_rate must be"),
        ({"fine_tuning": {**tuned, "target_modules": 5}}, "target_modules must have names"),
        ({"fine_tuning": {**tuned, "mode": "boht"}}, "mode must be"),
        ({"fine_tuning": {**tuned, "selection": {}}}, "selection with no fetch_k"),
        ({"fine_tuning": {"model": "m"}}, "fine_tuning with no learning_rate"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(ArgumentError, match=f"bad.json.*{message}"):
            CalibratedSettings.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps({"version": values["version"]}))
    with pytest.raises(ArgumentError, match="neither retrieval nor fine_tuning"):
        CalibratedSettings.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"bad\.json is not a settings file of `calibrate`"):
        CalibratedSettings.load(tmp_path / "bad.json")
    with pytest.raises(ArgumentError, match="cannot be read: Is a directory"):
        CalibratedSettings.load(tmp_path)


def test_a_retriever_from_settings_equals_one_with_these_fields(store: Chroma, file: Path) -> None:
    given = SIFTRetriever(
        vectorstore=store, k=3, fetch_k=30, noise_variance=0.3, kernel="linear", length_scale=None
    )
    for settings in (SAVED, file, str(file)):
        made = SIFTRetriever.from_settings(settings, vectorstore=store)
        assert made == given
        assert made.invoke("rice grows") == given.invoke("rice grows")
    other = SIFTRetriever.from_settings(file, vectorstore=store, k=5, gain_key="gain")
    assert (other.k, other.noise_variance, other.gain_key) == (5, 0.3, "gain")


def test_each_use_has_its_settings_and_one_alone_serves_both(store: Chroma) -> None:
    both = RETRIEVAL.updated(SAVED)
    assert both == SAVED.updated(RETRIEVAL)
    for settings, for_training, expected in (
        (both, False, RETRIEVAL.retrieval),
        (both, True, SAVED.fine_tuning.selection),
        (RETRIEVAL, True, RETRIEVAL.retrieval),
        (SAVED, False, SAVED.fine_tuning.selection),
    ):
        made = SIFTRetriever.from_settings(settings, vectorstore=store, for_training=for_training)
        assert {name: getattr(made, name) for name in asdict(expected)} == asdict(expected)
    newer = CalibratedSettings(retrieval=replace(RETRIEVAL.retrieval, k=2))
    assert both.updated(newer).retrieval.k == 2
    assert both.updated(newer).fine_tuning == SAVED.fine_tuning
    table = ModeTable((ModeBin(1.0, 5, {"base": ModeFigures(0.0, 1.0)}),))
    with_table = replace(both, modes=table)
    assert with_table.updated(newer).modes == table
    assert with_table.updated(SAVED).modes is None  # measured with other fine-tuning
    assert replace(RETRIEVAL, modes=table).updated(newer).modes is None
    assert both.updated(replace(SAVED, modes=table)).modes == table
    assert (RETRIEVAL.model, both.model) == (None, "org/name")
    assert RETRIEVAL.finetune_config() == FineTuneConfig()
    with pytest.raises(ArgumentError, match="name no model"):
        ChatTestTimeFineTuned.from_settings(RETRIEVAL)


@pytest.mark.parametrize("model_class", [ChatTestTimeFineTuned, TestTimeFineTunedLLM])
def test_a_model_from_settings_answers_as_one_with_the_same_fields(
    model_class: type[ChatTestTimeFineTuned | TestTimeFineTunedLLM],
    file: Path,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    loaded = {"model": tiny_model, "tokenizer": tiny_tokenizer, "max_tokens": 4}
    config = FineTuneConfig(
        lora_rank=4,
        lora_alpha=8.0,
        learning_rate=2e-3,
        max_length=32,
        seed=3,
        target_modules=("q_proj", "v_proj"),
    )
    made = model_class.from_settings(file, **loaded)
    given = model_class(finetune=config, **loaded)
    assert made.finetune == given.finetune
    documents = [Document("rice grows in wet fields")]
    answers = [model.invoke("rice", documents=documents) for model in (made, given)]
    texts = [getattr(answer, "text", answer) for answer in answers]
    assert texts[0] == texts[1]
    assert model_class.from_settings(file).model == "org/name"


def test_a_comparison_has_the_calibrated_mode_among_its_methods(file: Path) -> None:
    assert Defaults.of(file, ["document"]).methods == (*DEFAULT_METHODS, "both:sift")
    assert Defaults.of(file, ["retrieval"]).methods == RETRIEVAL_METHODS
    assert Defaults.of(RETRIEVAL, ["qa"]).methods == DEFAULT_METHODS


@pytest.mark.slow
def test_methods_without_fine_tuning_are_compared_with_the_settings_of_retrieval(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def variances(**settings: object) -> dict[str, list[float]]:
        report = compare(
            ["Who repairs the broken clock near the border?"],
            ["rag:sift", "ttft:sift"],
            vectorstore=store,
            model=tiny_model,
            tokenizer=tiny_tokenizer,
            protocols=["document"],
            k=3,
            **settings,
        )
        return {row.method: [each.posterior_variance for each in row.chosen] for row in report.rows}

    both, tuned = SAVED.updated(RETRIEVAL), SAVED.finetune_config()
    found = variances(settings=both)
    assert found["rag:sift"] == variances(settings=RETRIEVAL, finetune=tuned)["rag:sift"]
    assert found["ttft:sift"] == variances(settings=SAVED)["ttft:sift"]
    explicit = {"noise_variance": 0.7, "kernel": "linear", "fetch_k": 30, "finetune": tuned}
    assert variances(settings=both, **explicit) == variances(**explicit)


def test_explicit_arguments_of_a_comparison_take_precedence_over_settings(
    store: Chroma,
    file: Path,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    arguments = {"model": tiny_model, "tokenizer": tiny_tokenizer, "vectorstore": store}
    found = compare(["rice grows in fields"], ["ttft:sift"], settings=file, **arguments).settings
    tuned = asdict(SAVED.fine_tuning)
    expected = {**tuned, **tuned["selection"], "k": [3], "seed": 0}  # the comparison's own seed
    for name in ("k", "fetch_k", "kernel", "noise_variance", "learning_rate", "lora_rank", "seed"):
        assert found[name] == expected[name]
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
