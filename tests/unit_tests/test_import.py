"""Import the package with and without the extras."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    "calibrate_retrieval",
    "compare",
    "create_ttft_chain",
]
HEAVY = ["torch", "transformers", "peft", "chromadb"]


HIDING = """
import sys, sysconfig
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        spec = self.finder.find_spec(name, path, target)
        # Ray contains a copy of psutil in its own folder.
        folders = tuple(sysconfig.get_path(kind) + "/" + name for kind in ("purelib", "platlib"))
        if spec is None or name not in hidden or not str(spec.origin).startswith(folders):
            return spec
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run(program, hidden=()):
    """Run a program in a fresh interpreter, as if the hidden packages were not installed.

    Returns:
        The value that it printed as JSON.
    """
    before = f"hidden = {set(hidden)}\n{HIDING}" if hidden else ""
    done = subprocess.run(
        [sys.executable, "-c", before + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_public_names_are_exactly_these():
    assert langchain_sift.__all__ == EXPECTED
    assert set(EXPECTED) <= set(dir(langchain_sift))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_public_name_can_be_imported(name):
    found = getattr(langchain_sift, name)
    assert found is getattr(importlib.import_module(langchain_sift._EXPORTS[name]), name)
    assert callable(found)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'langchain_sift' has no attribute 'SIFTRetreiver'"):
        _ = langchain_sift.SIFTRetreiver


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_retriever_works_without_the_packages_of_the_extras():
    chosen = run(
        """
        import json
        from langchain_chroma import Chroma
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_sift import SIFTRetriever
        store = Chroma.from_texts(["a", "b", "c"], DeterministicFakeEmbedding(size=8))
        found = SIFTRetriever(vectorstore=store, k=2).invoke("a")
        print(json.dumps([document.page_content for document in found]))
        """,
        hidden=["torch", "transformers", "peft", "matplotlib", "jinja2", "rich"],
    )
    assert len(chosen) == 2
    assert chosen[0] == "a"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(missing):
    messages = run(
        f"""
        import json, sys
        sys.modules["{missing}"] = None  # as if it were not installed
        import langchain_sift
        from langchain_sift.errors import MissingExtraError
        messages = {{}}
        for name in ("HiddenStateEmbeddings", "ChatTestTimeFineTuned", "TestTimeFineTunedLLM"):
            try:
                getattr(langchain_sift, name)(model="name")
            except MissingExtraError as error:
                assert isinstance(error, ImportError)
                messages[name] = str(error)
        try:
            from langchain_sift.ttft import load_language_model
        except MissingExtraError as error:
            messages["load_language_model"] = str(error)
        print(json.dumps(messages))
        """
    )
    assert len(messages) == 4
    for message in messages.values():
        assert "pip install 'langchain-sift[ttft]'" in message
        assert missing in message


def test_hidden_packages_are_not_found():
    found = run(
        """
        import json, importlib.util
        names = ["torch", "psutil", "pytest", "numpy"]
        print(json.dumps([name for name in names if importlib.util.find_spec(name)]))
        """,
        hidden=["torch", "psutil", "pytest"],
    )
    assert found == ["numpy"]


def installed_with(name, extras):
    """Return the distributions that pip installs for one with extras, itself included."""
    found, waiting = set(), [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        distribution = waiting.pop()
        if distribution in found:
            continue
        try:
            requirements = [Requirement(line) for line in requires(distribution[0]) or []]
        except PackageNotFoundError:
            continue  # an alternative that is not installed here
        found.add(distribution)
        for requirement in requirements:
            environments = [{"extra": extra} for extra in ("", *distribution[1])]
            if not requirement.marker or any(map(requirement.marker.evaluate, environments)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "rooms", "without"),
    [
        (
            [],
            ["stores", "retrievers", "document_compressors", "retrieval"],
            ["faiss", "qdrant", "locking"],
        ),
        (
            ["ttft"],
            ["ttft", "embeddings", "language_models", "chat_models", "llms", "chains", "vllm"],
            [],
        ),
        (
            ["compare"],
            ["indexing", "report", "comparison", "calibration", "cli"],
            ["ray_pool", "serve"],
        ),
        (["serve"], ["serving", "cli.serve"], ["on_ray"]),
        (["compare", "ray"], ["serving", "comparison"], []),
    ],
)
def test_an_extra_contains_all_packages_that_its_modules_import(extras, rooms, without):
    installed = installed_with("langchain-sift", extras)
    hidden = [
        package
        for package, distributions in packages_distributions().items()
        if installed.isdisjoint(map(canonicalize_name, distributions))
    ]
    assert {"pytest", "faiss"} <= set(hidden)
    imported = run(
        f"""
        import json, pkgutil, sys
        imported = []
        for room in {rooms}:
            name = "langchain_sift." + room
            __import__(name)
            inside = getattr(sys.modules[name], "__path__", [])
            for module in pkgutil.walk_packages(inside, name + "."):
                if module.name.rpartition(".")[2] not in {without}:
                    __import__(module.name)
            imported.append(name)
        print(json.dumps(imported))
        """,
        hidden=hidden,
    )
    assert imported == [f"langchain_sift.{room}" for room in rooms]
