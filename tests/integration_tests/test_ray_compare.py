"""Ray actors measure the rows that one process measures, even if actors die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration_tests.ray_cluster import run_program

# A slow machine takes minutes to start the processes of a cluster.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def results(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ray")
    return run_program("integration_tests.ray_compare", tiny_model_path, folder)


def test_every_row_has_a_result(results: dict[str, Any]) -> None:
    assert results["rows"] == 2 * 12 * (1 + 3 * 2)
    assert results["failures"] == 0


def test_a_killed_actor_and_a_lost_node_change_no_row(results: dict[str, Any]) -> None:
    assert results["equal after kills"]
    assert results["recorded twice"] == 0


def test_an_interrupted_comparison_is_continued_with_other_actors(results: dict[str, Any]) -> None:
    assert results["equal after interruptions"]


def test_chains_run_in_this_process_and_scorers_in_the_actors(results: dict[str, Any]) -> None:
    assert results["answers"] == 4 * (1 + 2 + 1)
    assert results["answers equal"]


def test_a_model_that_the_actors_cannot_load_is_named(results: dict[str, Any]) -> None:
    assert "cannot load '/only/here'" in results["failure to load"]
    assert "there is no such folder" in results["failure to load"]
