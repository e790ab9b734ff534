"""Documents into a persistent Chroma collection, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import CorpusError
from langchain_sift.ttft.loading import LanguageModel

_BATCH = 128
_TEXTS_FOR_THE_MEAN = 256


def index_documents(
    documents: Sequence[Document],
    embeddings: Embeddings | LanguageModel,
    directory: Path,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Chroma:
    """Return a collection of the documents, filling it where it is not filled yet.

    The collection's name is a hash of ids, texts and embeddings: the same corpus is embedded
    once, another one gets a collection of its own, and an interrupted run goes on.

    Args:
        documents: With ids.
        embeddings: Or a model, whose hidden states then are the embeddings.
        directory: Chroma's folder.
        on_progress: Called with the number of documents that are in.

    Raises:
        CorpusError: If there are fewer than two documents.
    """
    if len(documents) < 2:  # noqa: PLR2004
        msg = f"the corpus has {len(documents)} documents: there is nothing to choose from"
        raise CorpusError(msg)
    name = f"sift-{_fingerprint(documents, embeddings)}"
    if isinstance(embeddings, LanguageModel):
        store = _hidden_state_collection(documents, embeddings, directory, name)
    else:
        store = Chroma(name, embeddings, persist_directory=str(directory))
    present = set(store.get(include=[])["ids"])
    missing = [document for document in documents if document.id not in present]
    on_progress(len(documents) - len(missing))
    for start in range(0, len(missing), _BATCH):
        store.add_documents(missing[start : start + _BATCH])
        on_progress(len(documents) - len(missing) + min(start + _BATCH, len(missing)))
    return store


def _hidden_state_collection(
    documents: Sequence[Document], model: LanguageModel, directory: Path, name: str
) -> Chroma:
    """Open the collection, centred on the mean that it holds, or fit and store one."""
    found = Chroma(name, persist_directory=str(directory))
    metadata = found._collection.metadata  # langchain_chroma shows it nowhere else
    if metadata:
        embeddings = HiddenStateEmbeddings.from_collection_metadata(metadata, model=model)
    else:
        step = max(1, len(documents) // _TEXTS_FOR_THE_MEAN)
        sample = [document.page_content for document in documents[::step]]
        embeddings = HiddenStateEmbeddings(model).fit(sample)
        found.delete_collection()
    return Chroma(
        name,
        embeddings,
        persist_directory=str(directory),
        collection_metadata=metadata or embeddings.collection_metadata(),
    )


def _fingerprint(documents: Sequence[Document], embeddings: Embeddings | LanguageModel) -> str:
    if isinstance(embeddings, LanguageModel):
        config = embeddings.model.config.to_json_string(use_diff=True)
        weights = next(embeddings.model.parameters()).detach().float().cpu().numpy()
        identity = f"{config}\0{hashlib.sha256(weights.tobytes()).hexdigest()}"
    else:
        # Not its repr, which may hold an address in memory.
        kind = type(embeddings)
        model = getattr(embeddings, "model_name", None) or getattr(embeddings, "model", "")
        identity = f"{kind.__module__}.{kind.__qualname__}\0{model}"
    digest = hashlib.sha256(identity.encode())
    for document in documents:
        for part in (str(document.id), document.page_content):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:24]
