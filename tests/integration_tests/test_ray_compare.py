"""Ray's actors measure what one process measures, whoever of them dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration_tests.ray_cluster import run_program


@pytest.fixture(scope="module")
def found(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ray")
    return run_program("integration_tests.ray_compare", tiny_model_path, folder)


def test_there_is_something_to_compare(found: dict[str, Any]) -> None:
    assert found["rows"] == 2 * 12 * (1 + 3 * 2)
    assert found["failures"] == 0


def test_a_killed_actor_and_a_lost_node_cost_no_row_and_change_none(found: dict[str, Any]) -> None:
    assert found["equal after kills"]
    assert found["recorded twice"] == 0


def test_an_interrupted_comparison_goes_on_with_other_actors(found: dict[str, Any]) -> None:
    assert found["equal after interruptions"]


def test_chains_are_asked_here_and_scorers_score_there(found: dict[str, Any]) -> None:
    assert found["answers"] == 4 * (1 + 2 + 1)
    assert found["answers equal"]


def test_a_model_that_the_actors_do_not_find_is_named(found: dict[str, Any]) -> None:
    assert "cannot load '/only/here'" in found["failure to load"]
    assert "there is no such folder" in found["failure to load"]
