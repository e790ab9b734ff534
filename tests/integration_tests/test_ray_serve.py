"""Serve on Ray: equal answers, disconnects, overload, and the loss of a replica or a node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from integration_tests.ray_cluster import run_program
from integration_tests.servers import HOST, Server

# A slow machine takes minutes to start the processes of a cluster.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def tokens(tiny_model_path: Path, server: Server, tmp_path_factory: Any) -> dict[str, Any]:
    return run("ray_tokens", tiny_model_path, server, tmp_path_factory)


@pytest.fixture(scope="module")
def faults(tiny_model_path: Path, server: Server, tmp_path_factory: Any) -> dict[str, Any]:
    return run("ray_faults", tiny_model_path, server, tmp_path_factory)


def run(program: str, model: Path, server: Server, factory: Any) -> dict[str, Any]:
    url = f"http://{HOST}:{server.port}"
    return run_program(f"integration_tests.{program}", model, factory.mktemp("ray"), url)


def test_answers_on_ray_equal_those_over_http_and_in_process(tokens: dict[str, Any]) -> None:
    assert len(tokens["alone"]) == 4
    assert all(count for _, count, _, _ in tokens["alone"])
    assert tokens["through HTTP"] == tokens["alone"]
    assert tokens["on Ray"] == tokens["alone"]


def test_a_token_is_required(tokens: dict[str, Any]) -> None:
    assert tokens["without a token"] == 401


def test_health_reports_engine_and_store(faults: dict[str, Any]) -> None:
    assert faults["health"] == {"status": "ok", "engine": "ok", "store": "ok"}


def test_training_stops_after_a_disconnect(faults: dict[str, Any]) -> None:
    disconnect = faults["left"]
    # Of those that fit into the time. A busy machine takes a while to pass the disconnect on.
    assert disconnect["steps after"] <= 5
    assert disconnect["steps in all"] < 40
    assert not disconnect["answered"]


def test_requests_beyond_capacity_are_rejected_with_retry_after(faults: dict[str, Any]) -> None:
    flood = faults["flood"]
    assert set(flood["statuses"]) == {"200", "503"}
    assert sum(flood["statuses"].values()) == flood["asked"]
    assert flood["with Retry-After"] == flood["statuses"]["503"] > flood["asked"] // 2
    assert flood["refused in seconds, median"] < flood["answered in seconds, least"]


def test_a_killed_replica_fails_only_its_request(faults: dict[str, Any]) -> None:
    killed = faults["replica killed"]
    assert killed["on the victim"] == 1
    assert killed["statuses"] == [200, 500]
    assert killed["asked again"] == [200]
    assert set(killed["others"]) == {"200"}
    assert math.isfinite(killed["two replicas answer after seconds"])


def test_a_lost_node_loses_no_answer_and_repeats_none(faults: dict[str, Any]) -> None:
    lost = faults["node lost"]
    assert lost["last answers"] == {"200": 100}
    assert set(lost["first answers"]) <= {"200", "500", "503"}
    assert lost["answered twice"] == 0
    assert lost["begun more often than asked"] == 0
    assert math.isfinite(lost["two replicas, after a node came, seconds"])
