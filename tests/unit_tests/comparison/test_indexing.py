"""A corpus is embedded once, and its mean never moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_sift.comparison import index_documents
from langchain_sift.errors import CorpusError
from langchain_sift.ttft import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture
def model(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel("tiny", tiny_model, tiny_tokenizer)


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(id=f"d{n}", page_content=text) for n, text in enumerate(texts)]


def test_an_interrupted_index_goes_on_and_a_finished_one_is_used(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    progress: list[int] = []
    store = index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress[0] == 0
    assert progress[-1] == len(documents)
    before = store.get(include=["embeddings"])
    store.delete(["d7"])

    progress.clear()
    again = index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress == [len(documents) - 1, len(documents)]
    after = again.get(include=["embeddings"])
    order = [after["ids"].index(name) for name in before["ids"]]
    np.testing.assert_allclose(after["embeddings"][order], before["embeddings"], atol=1e-6)

    progress.clear()
    index_documents(documents, model, tmp_path, on_progress=progress.append)
    assert progress == [len(documents)]


def test_another_corpus_gets_a_collection_of_its_own(
    documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    one = index_documents(documents, model, tmp_path)
    other = index_documents(documents[:10], model, tmp_path)
    assert one._collection.name != other._collection.name
    assert (one._collection.count(), other._collection.count()) == (len(documents), 10)


@pytest.mark.parametrize("count", [0, 1])
def test_a_corpus_without_a_choice_is_refused(
    count: int, documents: list[Document], model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=f"has {count} documents"):
        index_documents(documents[:count], model, tmp_path)
