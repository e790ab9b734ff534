"""A sentence-transformer is named once, by folder or on the hub, and embeds as its own library."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pytest
import torch
from langchain_core.documents import Document
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import BertConfig, BertModel
from typer.testing import CliRunner, Result

from langchain_sift import HiddenStateEmbeddings
from langchain_sift.cli import app
from langchain_sift.errors import MissingExtraError, ModelLoadError
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.chunks import split
from langchain_sift.indexing.files import Part
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.indexing.sentence_embeddings import (
    SentenceTransformerEmbeddings,
    is_sentence_transformer,
)
from langchain_sift.indexing.text_limits import text_limits
from langchain_sift.indexing.token_lengths import ChunkLengths, cut_texts, token_limit_of
from langchain_sift.ttft.model.load_settings import LoadSettings
from langchain_sift.ttft.model.loading import load_language_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPTS = {"query": "question: ", "document": "passage: "}


@pytest.fixture(scope="module")
def model(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Save a tiny BERT with mean pooling and a dense layer, which no test may change."""
    folder = tmp_path_factory.mktemp("sentence-transformer")
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = BertModel(BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=4))
        dense = Dense(32, 16)
    bert.save_pretrained(folder / "bert")
    tiny_tokenizer.save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert"), max_seq_length=64), Pooling(32), dense]
    SentenceTransformer(modules=modules, prompts=PROMPTS).save(str(folder / "tiny"))
    return folder / "tiny"


@pytest.fixture
def docs(texts: list[str], tmp_path: Path) -> Path:
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:8]))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_vectors_are_those_of_the_library_with_the_prompts_of_the_model(
    model: Path, texts: list[str]
) -> None:
    embeddings = load_embeddings(str(model))
    library = SentenceTransformer(str(model), device="cpu")
    expected = library.encode([PROMPTS["document"] + text for text in texts[:5]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(embeddings.embed_documents(texts[:5]), expected, atol=1e-5)
    query = library.encode(PROMPTS["query"] + texts[0], normalize_embeddings=True)
    assert np.allclose(embeddings.embed_query(texts[0]), query, atol=1e-5)
    assert not np.allclose(query, expected[0], atol=1e-3)
    assert embeddings.embed_documents([]) == []
    assert embeddings.max_length == 64
    assert embeddings.tokenizer("A river").input_ids


def test_limits_are_known_without_the_weights(
    model: Path, tiny_model_path: Path, texts: list[str]
) -> None:
    for path in (model, tiny_model_path):
        loaded = load_embeddings(str(path))
        embeddings = loaded if path == model else HiddenStateEmbeddings(loaded)
        limits = text_limits(str(path))
        if limits is None:  # this release of the library keeps its limit elsewhere
            assert path == model
            continue
        assert limits.max_length == embeddings.max_length
        assert limits.document_prompt == getattr(embeddings, "document_prompt", "")
        for text in texts[:5]:
            assert limits.tokenizer.encode(text) == embeddings.tokenizer.encode(text)
    assert text_limits("own:Embeddings") is None
    assert text_limits("./no-such-folder") is None


def test_a_chunk_has_room_for_the_prompt_of_documents(model: Path, texts: list[str]) -> None:
    embeddings = load_embeddings(str(model))
    limits = text_limits(str(model)) or embeddings
    text = "\n".join(texts[:40])
    for owner in (embeddings, limits):
        chunking = ChunkLengths().chunking(partial(copy.copy, owner))
        part = Part(Document(text), (), has_lines_of_file=True)
        chunks = split(SourceFile.of(Path("a.txt")), [part], chunking)
        read = [
            len(embeddings.tokenizer.encode(PROMPTS["document"] + chunk.page_content))
            for chunk in chunks
        ]
        assert 50 < max(read) <= 64
        assert cut_texts(embeddings, chunks) is None
    client = SentenceTransformer(str(model), device="cpu")
    others = SimpleNamespace(_client=client, encode_kwargs={"prompt_name": "document"})
    plain = SimpleNamespace(_client=client)
    assert token_limit_of(plain, client.tokenizer) == 64
    expected = token_limit_of(embeddings, client.tokenizer)
    assert token_limit_of(others, client.tokenizer) == expected < 64


def test_threads_get_the_same_vectors(model: Path, texts: list[str]) -> None:
    embeddings = SentenceTransformerEmbeddings(str(model))
    one_by_one = [embeddings.embed_query(text) for text in texts[:16]]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(embeddings.embed_query, texts[:16])) == one_by_one


def test_the_dtype_is_that_of_the_settings(model: Path) -> None:
    embeddings = SentenceTransformerEmbeddings(str(model), LoadSettings("cpu", "bfloat16"))
    assert next(embeddings._model.parameters()).dtype == torch.bfloat16
    assert len(embeddings.embed_query("A river")) == 16


@pytest.mark.slow
def test_commands_find_the_embeddings_of_a_collection_by_their_name(
    model: Path, docs: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    store = tmp_path / "store"
    indexed = run("index", docs, "--store", store, "--embeddings", model)
    assert indexed.exit_code == 0, indexed.output
    explained = run("explain", "A river", "--store", store, "--k", 2, "--json")
    assert explained.exit_code == 0, explained.output
    assert len(json.loads(explained.stdout)["sift"]) == 2
    diagnosed = run("doctor", "--store", store, "--json")
    assert diagnosed.exit_code == 0, diagnosed.output
    prompt = load_embeddings(str(model)).tokenizer.encode(PROMPTS["document"])
    assert json.loads(diagnosed.stdout)["lengths"]["limit"] == 64 - len(prompt)
    repaired = run("repair", "--store", store, "--embeddings", model)
    assert repaired.exit_code == 0, repaired.output
    again = run("index", docs, "--store", store)
    assert json.loads(again.stdout)["added"] == 0
    other = run("index", docs, "--store", store, "--embeddings", tiny_model_path)
    assert f"holds embeddings of '{model}', not of" in " ".join(other.stderr.split())


def test_the_collection_of_a_comparison_names_it_too(
    model: Path, texts: list[str], tmp_path: Path
) -> None:
    documents = [Document(text, id=str(number)) for number, text in enumerate(texts[:4])]
    store = index_documents(documents, load_embeddings(str(model)), tmp_path)
    explained = run("explain", "A river", "--store", tmp_path, "--json")
    assert explained.exit_code == 0, explained.output
    assert store.embeddings.embed_query("A river")


def test_a_model_on_the_hub_is_recognized(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(model, repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    embeddings = load_embeddings("org/tiny")
    assert embeddings.model_name == "org/tiny"
    assert embeddings.embed_query("A river") == load_embeddings(str(model)).embed_query("A river")
    assert not is_sentence_transformer("org/other")


def test_another_model_is_none(tiny_model_path: Path, tmp_path: Path) -> None:
    assert not is_sentence_transformer(str(tiny_model_path))
    assert not is_sentence_transformer(str(tmp_path / "nothing"))
    assert not is_sentence_transformer("./nothing")
    assert not is_sentence_transformer("nothing.gguf")


def test_a_hub_that_cannot_be_asked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelLoadError, match="cannot ask the hub for the model 'org/other': "):
        is_sentence_transformer("org/other")


def test_copies_share_the_model_and_a_pickle_loads_it(model: Path) -> None:
    embeddings = SentenceTransformerEmbeddings(str(model))
    assert copy.copy(embeddings) is copy.deepcopy(embeddings) is embeddings
    loaded = pickle.loads(pickle.dumps(embeddings))  # noqa: S301 - made in this line
    assert loaded.embed_query("A river") == embeddings.embed_query("A river")


def test_pickles_damage_and_code_are_refused(model: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(model, tmp_path / name))

    pickled = copied("pickled")
    (pickled / "2_Dense" / "model.safetensors").rename(pickled / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"2_Dense/pytorch_model.bin is a pickle"):
        load_embeddings(str(pickled))
    damaged = copied("damaged")
    (damaged / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=f"sentence-transformer '{damaged}'"):
        load_embeddings(str(damaged))
    coded = copied("coded")
    modules = json.loads((coded / "modules.json").read_text())
    modules[1]["type"] = "evil.Module"
    (coded / "modules.json").write_text(json.dumps(modules))
    (coded / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelLoadError, match=f"sentence-transformer '{coded}'"):
        load_embeddings(str(coded))
    assert not (tmp_path / "ran").exists()


def test_as_a_language_model_it_is_refused_before_its_weights_are_read(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelLoadError, match=r"an embeddings model .*--embeddings"):
        load_language_model(str(model))
    assert "MISSING" not in "".join(capfd.readouterr())


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["sentence_transformers"] = None
import importlib.util
real = importlib.util.find_spec
hidden = {"torch", "sentence_transformers"}
importlib.util.find_spec = lambda name, *more: None if name in hidden else real(name, *more)
from langchain_sift.__main__ import main
main()
"""


def test_without_torch_a_command_names_the_extra(model: Path, docs: Path, tmp_path: Path) -> None:
    command = ["index", str(docs), "--store", str(tmp_path / "none"), "--embeddings", str(model)]
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *command],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in result.stderr
    assert "langchain-sift[embeddings]" in result.stderr


def test_the_extra_is_named_where_the_package_is_missing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"langchain-sift\[embeddings\]"):
        load_embeddings(str(model))
