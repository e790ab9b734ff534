"""Build the application on Ray Serve from plain values, and reject invalid ones."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from endpoint import NAME
from ray.serve import Application

from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable
from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.config import FineTuneConfig, Limits
from langchain_sift.errors import ArgumentError, EngineError
from langchain_sift.serving import Tenants, on_ray
from langchain_sift.ttft import batching
from langchain_sift.ttft.training.slots import Slots

ARGS = {"model": "org/name", "store": "http://chroma:8000"}


def deployment_of(application: Application):
    return application._bound_deployment


def test_a_replica_gets_as_many_requests_as_it_trains_together():
    default = deployment_of(on_ray.build_app(ARGS))
    other = deployment_of(on_ray.build_app({**ARGS, "limits": {"max_batch_size": 3}}))
    assert default.max_ongoing_requests == Limits().max_batch_size
    assert other.max_ongoing_requests == 3
    assert default._deployment_config.graceful_shutdown_timeout_s == 600.0
    assert 0 < default.max_queued_requests < 1000
    assert default._deployment_config.backpressure_config.retry_after_s == 1


def test_a_replica_that_is_removed_has_the_time_of_a_request():
    args = {**ARGS, "timeout": 70.0}
    for more, seconds in (({}, 70.0), ({"ceilings": {"timeout": 40}}, 40.0)):
        config = deployment_of(on_ray.build_app({**args, **more}))._deployment_config
        assert config.graceful_shutdown_timeout_s == seconds


def test_a_path_may_begin_at_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = on_ray.settings_of({**ARGS, "adapter_cache": "~/kept"}, Tenants.anybody())
    assert settings.adapter_cache == tmp_path / "kept"
    (tmp_path / "tenants.toml").write_text('[tenants.acme]\ntoken = "fedcba9876543210"\n')
    assert on_ray._tenants("~/tenants.toml").owner_of("fedcba9876543210") is not None


def test_settings_come_from_plain_values():
    args = {
        **ARGS,
        "k": 7,
        "finetune": {"lora_rank": 8, "target_modules": ["q_proj"]},
        "limits": {"max_requests": 9},
        "adapter_cache": "kept",
    }
    figures = {"base": ModeFigures(0.0, 1.0)}
    saved = {"bins": [{"highest": 1, "prompts": 5, "figures": {"base": {"gain": 0, "seconds": 1}}}]}
    args |= {"modes": saved, "training_selection": {"noise_variance": 0.3, "k": 4, "fetch_k": 50}}
    settings = on_ray.settings_of(args, Tenants.anybody())
    assert (settings.model, settings.store, settings.k) == ("org/name", "http://chroma:8000", 7)
    assert settings.finetune == FineTuneConfig(lora_rank=8, target_modules=("q_proj",))
    assert settings.limits == Limits(max_requests=9)
    assert settings.modes == ModeTable((ModeBin(1, 5, figures),))
    assert settings.training_selection == CalibratedSelection(0.3, 4, 50)
    assert settings.adapter_cache is not None
    assert settings.adapter_cache.name == "kept"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"store": "folder"}, "must be the URL of a Chroma server, got 'folder'"),
        ({"modle": "org/name"}, "modle"),
        ({"finetune": {"lora_rang": 8}}, "lora_rang"),
        ({"modes": {"bins": []}}, "must ascend"),
        ({"training_selection": {"k": 3}}, "noise_variance"),
        ({"finetune": {"lora_rank": 0}}, "lora_rank must be"),
        ({"limits": 8}, "limits must map names to values"),
        ({"modes": 3}, "modes must map names to values"),
        ({"training_selection": 3}, "training_selection must map names to values"),
        ({"mode": "rags"}, "mode must be one of"),
        ({"cors_origins": "https://a.example"}, "cors_origins must be a sequence of"),
        ({"cors_origins": [7]}, "cors_origins must be a sequence of"),
        ({"ceilings": ["k"]}, "ceilings must be like"),
        *(
            ({name: 7}, f"{name} must be a non-empty string")
            for name in (
                *("model", "name", "collection", "embeddings", "device", "tenants"),
                "adapter_cache",
            )
        ),
    ],
)
def test_invalid_arguments_are_reported_before_anything_is_loaded(args, message):
    with pytest.raises(ArgumentError, match=message):
        on_ray.build_app({**ARGS, **args})


@pytest.mark.parametrize(
    "name", ["finetune", "limits", "training_selection", "modes", "adapter_cache", "k"]
)
def test_null_means_the_default(name):
    settings = on_ray.settings_of({**ARGS, name: None}, Tenants.anybody())
    assert settings == on_ray.settings_of(ARGS, Tenants.anybody())


def test_a_missing_model_is_reported():
    with pytest.raises(ArgumentError, match="model"):
        on_ray.build_app({"store": "http://chroma:8000"})


def test_a_token_is_required(monkeypatch, tmp_path):
    monkeypatch.delenv("LANGCHAIN_SIFT_API_KEY", raising=False)
    with pytest.raises(ArgumentError, match="requests need no token"):
        on_ray._tenants(None)
    monkeypatch.setenv("LANGCHAIN_SIFT_API_KEY", "short")
    with pytest.raises(ArgumentError, match="at least 16 characters"):
        on_ray._tenants(None)
    monkeypatch.setenv("LANGCHAIN_SIFT_API_KEY", "0123456789abcdef")
    assert on_ray._tenants(None).owner_of("0123456789abcdef") is not None
    path = tmp_path / "tenants.toml"
    path.write_text('[tenants.acme]\ntoken = "fedcba9876543210"\n')
    acme = on_ray._tenants(str(path)).owner_of("fedcba9876543210")
    assert acme is not None
    assert acme.name == "acme"


@pytest.mark.slow
async def test_a_replica_has_all_routes_but_those_of_sessions(new_service, connect):
    sessions = on_ray.settings_of(ARGS, Tenants.anybody()).sessions
    client = await connect(new_service(sessions=sessions))
    for route in ("responses", "embeddings"):
        response = await client.post(f"/v1/{route}", json={"model": NAME, "input": "x"})
        assert response.status_code == 200, response.text
    new = {"model": NAME, "prompt": "x", "ttft": {"session": "new"}}
    other = {**new, "ttft": {"session": "ttft-1"}}
    responses = [
        await client.post("/v1/ttft/sessions", json={"query": "x"}),
        await client.post("/v1/ttft/sessions/ttft-1", json={"query": "x"}),
        await client.get("/v1/ttft/sessions/ttft-1"),
        await client.delete("/v1/ttft/sessions/ttft-1"),
        await client.post("/v1/completions", json=new),
        await client.post("/v1/completions", json=other),
    ]
    for response in responses:
        assert response.status_code == 404
        assert "this server keeps no sessions" in response.json()["error"]["message"]


async def test_a_replica_whose_slots_are_not_at_rest_is_unhealthy(new_service, monkeypatch):
    monkeypatch.setattr(batching, "_IDLE_SECONDS", 60.0)  # then the engine frees its slots
    service = new_service()
    check = partial(on_ray.Endpoint.func_or_class.check_health, SimpleNamespace(_service=service))
    await check()
    await service.engine.aoutcome(service.engine.request(["A text to train on."]))
    with monkeypatch.context() as patched:
        patched.setattr(Slots, "is_at_rest", lambda *_: False)
        with pytest.raises(EngineError, match="not at rest"):
            await check()
    await check()  # the engine replaced its slots
    service.close()
    with pytest.raises(EngineError):
        await check()
