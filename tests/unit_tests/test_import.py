"""What `import langchain_sift` brings, what it leaves out, and what it says of what is missing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap

import pytest

import langchain_sift

EXPECTED = [
    "AsyncChroma",
    "CalibratedSettings",
    "ChatTestTimeFineTuned",
    "FineTuneConfig",
    "GenerationConfig",
    "HiddenStateEmbeddings",
    "Limits",
    "Report",
    "Retrieval",
    "SIFTReranker",
    "SIFTRetriever",
    "ScoredDocument",
    "TestTimeFineTunedLLM",
    "calibrate",
    "compare",
    "create_ttft_chain",
]
HEAVY = ["torch", "transformers", "peft", "chromadb"]


def run(program):
    """Run a program in a fresh interpreter; return what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_public_names_are_these_and_no_others():
    assert langchain_sift.__all__ == EXPECTED
    assert set(EXPECTED) <= set(dir(langchain_sift))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_public_name_is_there(name):
    found = getattr(langchain_sift, name)
    assert found is getattr(importlib.import_module(langchain_sift._EXPORTS[name]), name)
    assert callable(found)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'langchain_sift' has no attribute 'SIFTRetreiver'"):
        _ = langchain_sift.SIFTRetreiver


@pytest.mark.parametrize(
    "statement",
    [
        "import langchain_sift",
        "from langchain_sift import FineTuneConfig, GenerationConfig",
        "import langchain_sift.selection",
    ],
)
def test_importing_loads_none_of_the_heavy_packages(statement):
    loaded = run(f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))")
    assert "langchain_sift" in loaded
    assert set(HEAVY).isdisjoint(loaded)


def test_the_retriever_works_without_the_packages_of_the_extras():
    chosen = run(
        """
        import json, sys
        class NotInstalled:
            def find_spec(self, name, path=None, target=None):
                if name in ("torch", "transformers", "peft", "matplotlib", "jinja2", "rich"):
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, NotInstalled())
        from langchain_chroma import Chroma
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_sift import SIFTRetriever
        store = Chroma.from_texts(["a", "b", "c"], DeterministicFakeEmbedding(size=8))
        found = SIFTRetriever(vectorstore=store, k=2).invoke("a")
        print(json.dumps([document.page_content for document in found]))
        """
    )
    assert len(chosen) == 2
    assert chosen[0] == "a"


@pytest.mark.parametrize(
    "name", ["HiddenStateEmbeddings", "ChatTestTimeFineTuned", "TestTimeFineTunedLLM"]
)
@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_extra_is_named_with_the_command_that_brings_it(name, missing):
    message = run(
        f"""
        import json, sys
        sys.modules["{missing}"] = None  # as where it is not installed
        import langchain_sift
        from langchain_sift.errors import MissingExtraError
        try:
            langchain_sift.{name}
        except MissingExtraError as error:
            assert isinstance(error, ImportError)
            print(json.dumps(str(error)))
        """
    )
    assert "pip install 'langchain-sift[ttft]'" in message
    assert missing in message
