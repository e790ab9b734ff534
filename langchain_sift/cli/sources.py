"""Open the documents that a comparison chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_sift.cli.app import find_collection, open_store
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.load_settings import LoadSettings

if TYPE_CHECKING:
    from langchain_chroma import Chroma
    from rich.progress import Progress

    from langchain_sift.stores.location import ChromaLocation
    from langchain_sift.ttft import LanguageModel

# Each command imports its modules when it runs: the help must not wait for PyTorch.
# ruff: noqa: PLC0415


@dataclass(frozen=True, slots=True)
class StoreSource:
    """A collection that exists."""

    where: ChromaLocation
    collection: str | None
    embeddings: str | None
    loading: LoadSettings

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder for reading."""
        from langchain_sift.stores.locking import locked

        return locked(self.where.text, exclusive=False)

    def check(self) -> None:
        """Check that the collection exists, and that the embeddings are those that filled it."""
        find_collection(self.where, self.collection, self.embeddings)

    def open(self, model: LanguageModel | None, out: Path, progress: Progress) -> Chroma:  # noqa: ARG002
        """Open the collection."""
        return open_store(self.where, self.collection, self.embeddings, self.loading)


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Files to index first, into a store in the folder of the comparison."""

    path: Path
    embeddings: str | None
    loading: LoadSettings

    def locked(self) -> AbstractContextManager[None]:
        """Lock nothing: the folder belongs to the comparison."""
        return nullcontext()

    def check(self) -> None:
        """Check nothing: the files are read when they are indexed."""

    def open(self, model: LanguageModel | None, out: Path, progress: Progress) -> Chroma:
        """Index the files and open their collection.

        Raises:
            ArgumentError: If there is neither a model nor embeddings.
        """
        from langchain_sift.indexing import index_documents, read_corpus
        from langchain_sift.indexing.named_objects import load_embeddings

        embeddings = (
            model if self.embeddings is None else load_embeddings(self.embeddings, self.loading)
        )
        if embeddings is None:
            raise ArgumentError(_NO_EMBEDDINGS)
        documents = read_corpus(self.path)
        indexing = progress.add_task("embedding documents", total=len(documents))
        return index_documents(
            documents,
            embeddings,
            out / "chroma",
            on_progress=lambda done: progress.update(indexing, completed=done),
        )


_NO_EMBEDDINGS = (
    "name the embeddings to index the corpus with (--embeddings), or a model whose hidden states "
    "are the embeddings (--model)"
)


def source_of(  # noqa: PLR0917 - the options of a command, in their order
    store: str | None,
    token: str | None,
    headers: Sequence[str] | None,
    collection: str | None,
    corpus: str | None,
    embeddings: str | None,
    loading: LoadSettings,
) -> StoreSource | CorpusSource:
    """Return the source that the options name.

    Raises:
        ArgumentError: If they name none, or two, the path of the corpus is empty, or there are
            credentials without a store.
    """
    from langchain_sift.indexing.paths import named_path
    from langchain_sift.stores.location import ChromaLocation

    if store is None and (token is not None or headers):
        raise ArgumentError("--store-token and --store-header need --store, the URL of a server")
    if store is not None and corpus is None:
        where = ChromaLocation.of(store, token=token, headers=headers or ())
        return StoreSource(where, collection, embeddings, loading)
    if corpus is not None and store is None:
        return CorpusSource(named_path(corpus), embeddings, loading)
    raise ArgumentError(
        "give either --store, an indexed collection, or --corpus, files to index first"
    )
