"""Compare `HiddenStateEmbeddings` of a small model with transformers."""

from __future__ import annotations

import uuid

import chromadb
import numpy as np
import pytest
import torch
from chromadb.api.shared_system_client import SharedSystemClient
from langchain_chroma import Chroma
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from numpy.testing import assert_allclose, assert_array_equal
from transformers import OPTConfig, OPTForCausalLM

from langchain_sift import HiddenStateEmbeddings, SIFTReranker, SIFTRetriever
from langchain_sift.errors import ArgumentError, EmbeddingError, ModelLoadError, NotFittedError
from langchain_sift.retrieval.explanation import explain
from langchain_sift.stores.interface import adapter_for
from langchain_sift.ttft import load_language_model


class Standard:
    """The parameters of LangChain's standard tests."""

    @pytest.fixture(autouse=True)
    def _use(self, tiny_model, tiny_tokenizer, embeddings):
        self.parameters = {
            "model": tiny_model,
            "tokenizer": tiny_tokenizer,
            "mean": embeddings.mean,
        }

    @property
    def embeddings_class(self):
        return HiddenStateEmbeddings

    @property
    def embedding_model_params(self):
        return self.parameters


class TestStandardUnit(Standard, EmbeddingsUnitTests):
    """LangChain's unit tests."""


class TestStandardIntegration(Standard, EmbeddingsIntegrationTests):
    """LangChain's integration tests; they need no network here."""


def by_transformers(model, tokenizer, text, max_length=256):
    """Return the mean of the last hidden states of one text alone."""
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
    with torch.no_grad():  # without output_hidden_states, after which no model can be pickled
        states = model.base_model(**encoded).last_hidden_state
    return states[0].double().mean(dim=0).numpy()


def test_a_vector_is_the_centred_mean_of_the_last_hidden_states_at_unit_norm(
    embeddings, tiny_model, tiny_tokenizer, texts
):
    states = np.array([by_transformers(tiny_model, tiny_tokenizer, text) for text in texts])
    centred = states - states.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert_allclose(embeddings.embed_documents(texts), expected, atol=1e-5)


def test_every_vector_has_unit_norm(embeddings, texts):
    vectors = np.array(embeddings.embed_documents([*texts, "", "?", "x" * 5000]))
    assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-12)


def test_the_hidden_states_of_the_texts_fitted_to_are_centred(embeddings, texts):
    centred = embeddings._states(texts) - embeddings.mean
    assert np.abs(centred.mean(axis=0)).max() < 1e-5
    assert np.abs(embeddings.mean).max() > 1e-2


@pytest.mark.slow
def test_a_vector_does_not_depend_on_the_other_texts(embeddings, texts):
    together = embeddings.embed_documents([*texts, "", "a", "word " * 300])
    alone = [embeddings.embed_query(text) for text in [*texts, "", "a", "word " * 300]]
    reordered = embeddings.embed_documents(texts[::-1])[::-1]
    assert_allclose(together, alone, atol=1e-5)
    assert_allclose(reordered, together[: len(texts)], atol=1e-5)


def test_a_query_is_embedded_as_a_document_is(embeddings, texts):
    assert_allclose(embeddings.embed_query(texts[0]), embeddings.embed_documents(texts[:1])[0])


def test_of_a_long_text_only_the_beginning_counts(tiny_model, tiny_tokenizer, texts):
    text = " ".join(texts)
    short = HiddenStateEmbeddings(tiny_model, tiny_tokenizer, max_length=10).fit(texts)
    kept = tiny_tokenizer.decode(tiny_tokenizer(text)["input_ids"][:10])
    assert tiny_tokenizer(kept)["input_ids"] == tiny_tokenizer(text)["input_ids"][:10]
    assert_allclose(short.embed_query(text), short.embed_query(kept), atol=1e-6)
    state = by_transformers(tiny_model, tiny_tokenizer, text, max_length=10) - short.mean
    assert_allclose(short.embed_query(text), state / np.linalg.norm(state), atol=1e-5)


def test_max_length_is_never_more_than_the_context(tiny_model, tiny_tokenizer):
    found = HiddenStateEmbeddings(tiny_model, tiny_tokenizer, max_length=10_000)
    assert found.max_length == tiny_model.config.max_position_embeddings


def test_a_models_states_may_be_narrower_than_its_layers(tiny_tokenizer, texts):
    shape = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64}
    config = OPTConfig(
        vocab_size=400, num_hidden_layers=2, num_attention_heads=4, dropout=0.0, **shape
    )
    model = OPTForCausalLM(config).eval()
    fitted = HiddenStateEmbeddings(model, tiny_tokenizer).fit(texts)
    state = by_transformers(model, tiny_tokenizer, texts[0]) - fitted.mean
    assert_allclose(fitted.embed_query(texts[0]), state / np.linalg.norm(state), atol=1e-5)
    again = HiddenStateEmbeddings(model, tiny_tokenizer, mean=fitted.mean)
    assert again.embed_query(texts[0]) == fitted.embed_query(texts[0])
    with pytest.raises(ArgumentError, match=r"shape \(16,\), got \(32,\)"):
        HiddenStateEmbeddings(model, tiny_tokenizer, mean=[0.0] * 32)


def test_a_surrogate_is_embedded_as_a_replacement_character(embeddings):
    broken, mended = ("The \ud83d river \udc80", "The \ufffd river \ufffd")
    assert embeddings.embed_query(broken) == embeddings.embed_query(mended)


def test_an_empty_text_has_a_finite_vector(embeddings, texts):
    vector = np.array(embeddings.embed_query(""))
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector - embeddings.embed_query(texts[0])) > 0.1


def test_no_texts_have_no_vectors(embeddings):
    assert embeddings.embed_documents([]) == []


@pytest.mark.slow
def test_the_mean_is_restored_from_a_closed_collection(
    tiny_model_path, texts, tmp_path, tiny_model, tiny_tokenizer
):
    name = f"kept-{uuid.uuid4()}"
    fitted = HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(texts)
    Chroma.from_texts(
        texts,
        fitted,
        collection_name=name,
        persist_directory=str(tmp_path),
        collection_metadata=fitted.collection_metadata(),
    )
    SharedSystemClient.clear_system_cache()  # as in another process
    metadata = chromadb.PersistentClient(str(tmp_path)).get_collection(name).metadata
    model = load_language_model(str(tiny_model_path), dtype="float32")
    reopened = HiddenStateEmbeddings.from_collection_metadata(metadata, model=model)
    assert_array_equal(reopened.mean, fitted.mean)
    assert reopened.embed_documents(texts[:5]) == fitted.embed_documents(texts[:5])
    store = Chroma(name, reopened, persist_directory=str(tmp_path))
    assert store.similarity_search(texts[7], k=1)[0].page_content == texts[7]


@pytest.mark.parametrize("metadata", [None, {}, {"hnsw:space": "cosine"}])
def test_a_collection_without_a_mean_is_refused(metadata, tiny_model, tiny_tokenizer):
    with pytest.raises(NotFittedError, match="the collection has no mean in its metadata"):
        HiddenStateEmbeddings.from_collection_metadata(
            metadata, model=tiny_model, tokenizer=tiny_tokenizer
        )


def test_unfitted_embeddings_are_refused(tiny_model, tiny_tokenizer):
    unfitted = HiddenStateEmbeddings(tiny_model, tiny_tokenizer)
    for use in (
        lambda: unfitted.embed_query("a"),
        lambda: unfitted.embed_documents([]),
        unfitted.collection_metadata,
    ):
        with pytest.raises(NotFittedError, match=r"call fit\(texts\)"):
            use()


def test_embeddings_are_fitted_once(embeddings, texts):
    before = embeddings.mean.copy()
    with pytest.raises(ArgumentError, match="fitted already"):
        embeddings.fit(texts[:10])
    assert_array_equal(embeddings.mean, before)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_texts_have_no_mean(tiny_model, tiny_tokenizer, count):
    with pytest.raises(ArgumentError, match=f"at least two.* got {count}"):
        HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(["one"] * count)


@pytest.mark.parametrize("count", [3, 5, 7])
def test_rounding_is_no_distance_from_the_mean(tiny_model, tiny_tokenizer, count):
    same = HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(["the same text"] * count)
    with pytest.raises(EmbeddingError, match="from the mean: fit"):
        same.embed_documents(["the same text"])


def test_a_text_that_equals_the_mean_is_refused(tiny_model, tiny_tokenizer):
    same = HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(["one", "one"])
    with pytest.raises(EmbeddingError, match=r"text 1 has distance 0\.0 from the mean: fit"):
        same.embed_documents(["another", "one"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"mean": [0.0] * 31}, r"mean must have shape \(32,\), got \(31,\)"),
        ({"tokenizer": None}, "tokenizer is required with a loaded model"),
    ],
)
def test_a_bad_argument_is_named(tiny_model, tiny_tokenizer, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        HiddenStateEmbeddings(tiny_model, **{"tokenizer": tiny_tokenizer, **arguments})


def test_a_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"cannot load the model .*nowhere"):
        HiddenStateEmbeddings(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("given", "of_hidden_states", "of_others"),
    [({}, 10.0, 6.5), ({"noise_variance": 0.3}, 0.3, 0.3)],
)
def test_the_default_noise_variance_is_that_of_the_embeddings(
    embeddings, texts, given, of_hidden_states, of_others
):
    others = DeterministicFakeEmbedding(size=8)
    for own, expected in ((embeddings, of_hidden_states), (others, of_others)):
        store = InMemoryVectorStore.from_texts(texts, own)
        made = SIFTRetriever.from_retriever(store.as_retriever(), **given)
        for retriever in (SIFTRetriever(vectorstore=store, **given), made):
            settings = retriever._settings({}, adapter_for(store))
            assert settings.selection.noise_variance == expected
        settings, _ = SIFTReranker(embeddings=own, **given)._settings()
        assert settings.noise_variance == expected
        assert explain(store, texts[0], k=2, **given).noise_variance == expected


@pytest.mark.parametrize(("given", "got"), [("abc", "one text"), (["a", 1], "a int"), (5, "a int")])
def test_arguments_that_are_no_texts_are_named(embeddings, tiny_model, tiny_tokenizer, given, got):
    message = f"texts must be a sequence of texts, got {got}"
    with pytest.raises(ArgumentError, match=message):
        embeddings.embed_documents(given)
    with pytest.raises(ArgumentError, match=message):
        HiddenStateEmbeddings(tiny_model, tiny_tokenizer).fit(given)


def test_texts_are_embedded_once_after_fit_and_once_in_a_call(tiny_model, tiny_tokenizer, texts):
    rows = []
    embeddings = HiddenStateEmbeddings(tiny_model, tiny_tokenizer)
    handle = embeddings._language_model.model.base_model.register_forward_pre_hook(
        lambda _, __, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    try:
        embeddings.fit(texts)
        fitted = embeddings.embed_documents(texts)
        assert sum(rows) == len(texts)
        again = embeddings.embed_documents([*texts, *texts])
        assert sum(rows) == 2 * len(texts)
    finally:
        handle.remove()
    assert_allclose(fitted, again[: len(texts)], atol=1e-6)
    assert_array_equal(again[: len(texts)], again[len(texts) :])
