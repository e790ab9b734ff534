"""Fixtures of all tests: a small real model, texts, and a real store that holds them."""

# ruff: noqa: PLC0415 - tests without a model or a store do not load their libraries

from __future__ import annotations

import os
import random
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The libraries read these once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ANONYMIZED_TELEMETRY"] = "False"

# A shell without job control lets background jobs ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from langchain_sift import HiddenStateEmbeddings

END_OF_TEXT = "<|endoftext|>"
SUBJECTS = ["The river", "A baker", "My neighbour", "The engine", "Every comet", "The old king"]
VERBS = ["carries", "measures", "forgets", "repairs", "follows", "paints", "sells", "hides"]
OBJECTS = ["warm bread", "a broken clock", "seven maps", "cold iron", "the harbour", "small seeds"]
PLACES = ["in winter", "near the border", "after school", "under the bridge", "at sea", "by night"]

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    # A busy machine needs seconds to draw what an idle one draws at once.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are not installed; fail it in CI, which has to install them."""
    for marker in item.iter_markers("needs"):
        if not any(map(shutil.which, marker.args)):
            missing = f"install {' or '.join(marker.args)} to run this test"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow unit tests network access to this machine only."""
    for item in items:
        if "unit_tests" in item.path.parts:
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "::1"]))


def make_sentence(rng: random.Random) -> str:
    """Return a random sentence with a number in it."""
    words = (rng.choice(part) for part in (SUBJECTS, VERBS, OBJECTS, PLACES))
    return f"{' '.join(words)}, {rng.randrange(1000)} times."


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Return 60 different paragraphs of one to four sentences."""
    rng = random.Random(7)
    paragraphs = [" ".join(make_sentence(rng) for _ in range(rng.randint(1, 4))) for _ in range(60)]
    assert len(set(paragraphs)) == len(paragraphs)
    return paragraphs


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer of 400 tokens on random sentences."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(1)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [make_sentence(rng) for _ in range(400)],
        vocab_size=400,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=256,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a Llama with random float32 weights; no test may change it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end = tiny_tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_model_path(
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Save the model and its tokenizer to a folder."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def weight_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the name of each model whose weights are loaded; share none with other tests."""
    from langchain_sift.ttft.model import loading

    names: list[str] = []
    load = loading._load_weights

    def record(name: str, source: Any) -> Any:
        weights = load(name, source)
        names.append(name)
        return weights

    monkeypatch.setattr(loading, "_load_weights", record)
    monkeypatch.setattr(loading, "_weights", loading.SharedObjects())
    return names


@pytest.fixture(scope="session")
def embeddings(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> HiddenStateEmbeddings:
    """Return the model's embeddings, fitted to the texts."""
    from langchain_sift import HiddenStateEmbeddings

    return HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(texts)


@pytest.fixture
def store(embeddings: HiddenStateEmbeddings, texts: list[str]) -> Iterator[Chroma]:
    """Return an embedded Chroma with the texts, numbered in id and metadata."""
    from langchain_chroma import Chroma

    chroma = Chroma.from_texts(
        texts,
        embeddings,
        ids=[f"text-{number}" for number in range(len(texts))],
        metadatas=[{"number": number, "even": number % 2 == 0} for number in range(len(texts))],
        collection_name=f"texts-{uuid.uuid4()}",
        collection_metadata=embeddings.collection_metadata(),
    )
    client, name = chroma._client, chroma._collection.name
    yield chroma
    if any(collection.name == name for collection in client.list_collections()):
        client.delete_collection(name)
