"""The endpoint on Ray Serve: the same answers, and what happens when somebody leaves or dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration_tests.ray_cluster import run_program
from integration_tests.servers import HOST, Server


@pytest.fixture(scope="module")
def tokens(tiny_model_path: Path, server: Server, tmp_path_factory: Any) -> dict[str, Any]:
    return run("ray_tokens", tiny_model_path, server, tmp_path_factory)


@pytest.fixture(scope="module")
def faults(tiny_model_path: Path, server: Server, tmp_path_factory: Any) -> dict[str, Any]:
    return run("ray_faults", tiny_model_path, server, tmp_path_factory)


def run(program: str, model: Path, server: Server, factory: Any) -> dict[str, Any]:
    url = f"http://{HOST}:{server.port}"
    return run_program(f"integration_tests.{program}", model, factory.mktemp("ray"), url)


def test_ray_answers_what_one_process_answers_with_and_without_http(tokens: dict[str, Any]) -> None:
    assert len(tokens["alone"]) == 4
    assert all(tokens for _, tokens, _, _ in tokens["alone"])
    assert tokens["through HTTP"] == tokens["alone"]
    assert tokens["on Ray"] == tokens["alone"]


def test_nobody_is_answered_without_a_token(tokens: dict[str, Any]) -> None:
    assert tokens["without a token"] == 401


def test_the_health_is_that_of_engine_and_store(faults: dict[str, Any]) -> None:
    assert faults["health"] == {"status": "ok", "engine": "ok", "store": "ok"}


def test_training_ends_within_a_step_of_the_client_s_leaving(faults: dict[str, Any]) -> None:
    left = faults["left"]
    assert left["steps after"] <= 1
    assert left["steps in all"] < 8
    assert not left["answered"]


def test_what_is_too_much_is_refused_at_once_with_a_time_to_come_again(
    faults: dict[str, Any],
) -> None:
    flood = faults["flood"]
    assert set(flood["statuses"]) == {"200", "503"}
    assert sum(flood["statuses"].values()) == flood["asked"]
    assert flood["with Retry-After"] == flood["statuses"]["503"] > flood["asked"] // 2
    assert flood["refused in seconds, median"] < 2


def test_a_killed_replica_costs_its_own_request_and_no_other(faults: dict[str, Any]) -> None:
    killed = faults["replica killed"]
    assert killed["on the victim"] == 1
    assert killed["statuses"] == [200, 500]
    assert killed["failed in seconds"] < 10
    assert killed["asked again"] == [200]
    assert set(killed["others"]) == {"200"}
    assert killed["two replicas answer after seconds"] < 60


def test_a_lost_node_costs_no_answer_and_none_is_given_twice(faults: dict[str, Any]) -> None:
    lost = faults["node lost"]
    assert lost["last answers"] == {"200": 100}
    assert set(lost["first answers"]) <= {"200", "500", "503"}
    assert lost["answered twice"] == 0
    assert lost["begun more often than asked"] == 0
    assert lost["longest pause, seconds"] < 30
    assert lost["two replicas, after a node came, seconds"] < 60
