"""Copies and pickles are the same before and after the first answer, and share what is heavy."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.rate_limiters import InMemoryRateLimiter

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    HiddenStateEmbeddings,
    SIFTReranker,
    SIFTRetriever,
    TestTimeFineTunedLLM,
)
from langchain_sift.ttft import Engine, load_language_model
from langchain_sift.vllm import VLLMAdapters

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DOCUMENTS = [Document("The river carries warm bread in winter, 3 times.")]
MODELS = [ChatTestTimeFineTuned, TestTimeFineTunedLLM]
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda value: value.model_copy(),
    "model_copy(deep=True)": lambda value: value.model_copy(deep=True),
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),  # noqa: S301 - made in this line
}


def make(model_class: type[Any], path: Path, **fields: Any) -> Any:
    settings = {"max_tokens": 4, "finetune": FineTuneConfig(lora_rank=2), "dtype": "float32"}
    return model_class(model=str(path), **settings, **fields)


def answer(model: Any) -> str:
    reply = model.invoke("The river", documents=DOCUMENTS)
    return reply if isinstance(reply, str) else str(reply.content)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("model_class", MODELS)
def test_a_copy_of_a_named_model_answers_as_the_model(
    how: str, model_class: type[Any], tiny_model_path: Path, weight_loads: list[str]
) -> None:
    model = make(model_class, tiny_model_path, stop=["x"], metadata={"a": {"b": 1}})
    early = COPIES[how](model)
    assert weight_loads == []
    expected = answer(model)
    late = COPIES[how](model)
    for copied in (early, late):
        assert type(copied) is model_class
        assert copied.model_dump() == model.model_dump()
        assert answer(copied) == expected
        assert copied.engine is model.engine
    assert weight_loads == [str(tiny_model_path)]


@pytest.mark.parametrize("how", ["deepcopy", "model_copy(deep=True)"])
def test_a_deep_copy_has_its_own_settings_and_shares_the_rest(
    how: str,
    store: Chroma,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    retriever = SIFTRetriever(vectorstore=store, k=2)
    model = ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        retriever=retriever,
        rate_limiter=InMemoryRateLimiter(requests_per_second=1e6),
        finetune=FineTuneConfig(lora_rank=2),
        metadata={"a": {"b": 1}},
        max_tokens=4,
    )
    expected = model.invoke("The river").content
    copied = COPIES[how](model)
    for name in ("model", "tokenizer", "retriever", "rate_limiter"):
        assert getattr(copied, name) is getattr(model, name)
    copied.metadata["a"]["b"] = 2
    copied.max_tokens = 1
    assert (model.metadata, model.max_tokens) == ({"a": {"b": 1}}, 4)
    assert model.invoke("The river").content == expected
    assert COPIES[how]({"models": [model]} if how == "deepcopy" else model)


@pytest.mark.slow
def test_a_named_model_is_loaded_again_where_it_is_unpickled(
    tiny_model_path: Path, weight_loads: list[str]
) -> None:
    model = make(ChatTestTimeFineTuned, tiny_model_path)
    before = pickle.dumps(model)
    expected = answer(model)
    after = pickle.dumps(model)
    assert max(len(before), len(after)) < 5000  # no weights
    model.engine.close()  # ends the thread, which holds the weights
    del model
    gc.collect()
    for pickled in (before, after):
        assert answer(pickle.loads(pickled)) == expected  # noqa: S301 - made above
    assert len(weight_loads) > 1


@pytest.mark.slow
def test_the_pickle_of_a_loaded_model_has_its_weights(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    config = FineTuneConfig(lora_rank=2)
    model = TestTimeFineTunedLLM(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=config, max_tokens=4
    )
    expected = answer(model)
    copied = COPIES["pickle"](model)
    assert copied.model is not tiny_model
    assert answer(copied) == expected


def test_a_retriever_that_cannot_be_pickled_is_named(store: Chroma, tiny_model_path: Path) -> None:
    model = make(ChatTestTimeFineTuned, tiny_model_path, retriever=SIFTRetriever(vectorstore=store))
    for _ in range(2):
        with pytest.raises(TypeError, match="SIFTRetriever on a Chroma cannot be pickled"):
            pickle.dumps(model)
        answer(model)


@pytest.mark.parametrize("by", ["model_copy", "assignment"])
def test_a_changed_adapter_gets_another_engine_also_after_the_first_answer(
    by: str, tiny_model_path: Path, weight_loads: list[str]
) -> None:
    model = make(ChatTestTimeFineTuned, tiny_model_path)
    answer(model)
    other = FineTuneConfig(lora_rank=3)
    changed = model.model_copy(update={"finetune": other}) if by == "model_copy" else model
    changed.finetune = other
    answer(changed)
    assert changed.engine.config == other
    assert model._kept_engine == [model.engine]
    assert changed._kept_engine == [changed.engine]
    assert weight_loads == [str(tiny_model_path)]
    # What does not shape the adapters keeps the engine.
    assert changed.model_copy(update={"max_tokens": 2})._engine is changed.engine


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_copies_of_embeddings_embed_alike_and_share_the_weights(
    how: str, tiny_model_path: Path, texts: list[str]
) -> None:
    embeddings = HiddenStateEmbeddings(tiny_model_path).fit(texts[:4])
    copied = COPIES[how](embeddings)
    assert copied.embed_query(texts[5]) == embeddings.embed_query(texts[5])
    assert copied._language_model.model is embeddings._language_model.model
    assert len(pickle.dumps(embeddings)) < 5000


def test_embeddings_of_a_loaded_model_pickle_with_the_weights(
    embeddings: HiddenStateEmbeddings, texts: list[str]
) -> None:
    copied = COPIES["pickle"](embeddings)
    assert copied.embed_query(texts[5]) == embeddings.embed_query(texts[5])
    assert copied._language_model.model is not embeddings._language_model.model
    assert copy.deepcopy(embeddings)._language_model is embeddings._language_model


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_reranker_chooses_alike(
    how: str, embeddings: HiddenStateEmbeddings, texts: list[str]
) -> None:
    reranker = SIFTReranker(embeddings=embeddings, top_n=3)
    documents = [Document(text) for text in texts[:9]]
    expected = reranker.compress_documents(documents, texts[20])
    assert COPIES[how](reranker).compress_documents(documents, texts[20]) == expected


@pytest.mark.parametrize("how", [how for how in COPIES if how != "pickle"])
def test_a_copied_retriever_shares_its_store(how: str, store: Chroma, texts: list[str]) -> None:
    retriever = SIFTRetriever(vectorstore=store, k=3, search_kwargs={"filter": {"even": True}})
    for _ in range(2):
        copied = COPIES[how](retriever)
        assert copied.vectorstore is store
        assert copied.invoke(texts[3]) == retriever.invoke(texts[3])


def test_an_engine_is_shared_by_copies_and_refuses_to_be_pickled(tiny_model_path: Path) -> None:
    engine = Engine(load_language_model(tiny_model_path), FineTuneConfig(lora_rank=2))
    assert copy.copy(engine) is copy.deepcopy(engine) is engine
    with pytest.raises(TypeError, match="an Engine cannot be pickled: make one in the process"):
        pickle.dumps(engine)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_adapters_for_vllm_can_be_copied_also_after_their_first_use(
    how: str, tmp_path: Path
) -> None:
    adapters = VLLMAdapters("http://localhost:1/v1", tmp_path, api_key="key")
    for _ in range(2):
        copied = COPIES[how](adapters)
        assert copied._client_settings.keys() == adapters._client_settings.keys()
        assert (copied.base_url, copied._headers) == (adapters.base_url, adapters._headers)


@pytest.mark.slow
def test_a_model_can_be_copied_while_it_answers(tiny_model_path: Path) -> None:
    model = make(ChatTestTimeFineTuned, tiny_model_path)
    expected = answer(model)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.extend(answer(model) for _ in range(5)))
    thread.start()
    copies = [COPIES[how](model) for how in COPIES for _ in range(5)]
    thread.join()
    assert answers == [expected] * 5
    assert answer(copies[-1]) == expected
