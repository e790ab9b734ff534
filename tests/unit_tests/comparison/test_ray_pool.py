"""Resources and models of Ray actors; the integration tests run real actors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison import compare
from langchain_sift.comparison.measurement import MeasurementSettings
from langchain_sift.comparison.ray_pool import ActorModel, _share
from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import LanguageModel, load_language_model

SETTINGS = {"limits": Limits(), "settings": MeasurementSettings(FineTuneConfig(), max_tokens=1)}


@pytest.mark.slow
@given(st.lists(st.integers(0, 16), min_size=1, max_size=4), st.integers(1, 12))
def test_equal_shares_fit_into_the_nodes_and_larger_ones_do_not(cpus, count):
    nodes = [{"CPU": float(number)} for number in cpus]
    if sum(cpus) < count:
        with pytest.raises(ArgumentError, match=f"the cluster has {sum(cpus)}"):
            _share(nodes, count, None)
        return
    share = _share(nodes, count, None)["num_cpus"]
    assert sum(number // share for number in cpus) >= count
    assert sum(number // (share + 1) for number in cpus) < count


def test_each_actor_has_a_gpu_if_the_cluster_has_any():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert _share(nodes, 2, None) == {"num_gpus": 1, "num_cpus": 1}
    with pytest.raises(ArgumentError, match="the cluster has 2"):
        _share(nodes, 3, None)
    assert _share(nodes, 2, "cpu") == {"num_cpus": 8}


@pytest.mark.slow
def test_an_actor_loads_the_same_folder_in_the_same_precision(tiny_model_path):
    loaded = load_language_model(tiny_model_path, dtype="float32")
    model = ActorModel.like(loaded, **SETTINGS)
    assert (model.name, model.revision, model.dtype) == (str(tiny_model_path), None, "float32")
    assert model.device is None
    loaded = load_language_model(tiny_model_path, dtype="float32", device="cpu")
    assert ActorModel.like(loaded, **SETTINGS).device == "cpu"


def test_a_model_of_the_hub_is_the_same_commit(tiny_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_model, "name_or_path", "/hub/models--org--name/snapshots/0abc")
    model = ActorModel.like(LanguageModel("org/name", tiny_model, tiny_tokenizer), **SETTINGS)
    assert (model.name, model.revision) == ("org/name", "0abc")


def test_a_loaded_model_is_rejected(tiny_model, tiny_tokenizer, store):
    with pytest.raises(ArgumentError, match="give the name or folder"):
        compare(["a text"], ray=2, model=tiny_model, tokenizer=tiny_tokenizer, vectorstore=store)


def test_at_least_one_actor(tiny_model, tiny_tokenizer, store):
    with pytest.raises(ArgumentError, match="ray must be an integer of at least 1, or None, got 0"):
        compare(["a text"], ray=0, model=tiny_model, tokenizer=tiny_tokenizer, vectorstore=store)
