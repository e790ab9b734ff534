"""Read files with a loader of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.formats import READERS, Reader, Reading, Record
from langchain_sift.indexing.formats.cells import fields_of
from langchain_sift.indexing.named_objects import import_object


def readers_with(loaders: Sequence[str]) -> Mapping[str, Reader]:
    """Return the readers of formats, with loaders before those of this package.

    Args:
        loaders: Each is ENDING=module:NAME, for the files whose names end so, or module:NAME for
            all files. NAME is a class or function that takes a path, and returns a loader of
            LangChain's or documents.

    Raises:
        ArgumentError: If a loader cannot be imported or called.
    """
    made: dict[str, Reader] = {}
    for loader in loaders:
        ending, equals, name = loader.rpartition("=")
        if equals and not ending.startswith("."):
            raise ArgumentError(
                f"the loader {loader!r} must be module:NAME or .ENDING=module:NAME, such as "
                ".rtf=own_loaders:RTFLoader"
            )
        make = import_object(name)
        if not callable(make):
            raise ArgumentError(f"the loader {name!r} is a {type(make).__name__}, not callable")
        made[ending.lower()] = _reader(name, make)
    # An empty ending fits every name: it comes last, and nothing after it.
    every = made.pop("", None)
    if every is not None:
        return {**made, "": every}
    return {**made, **{ending: reader for ending, reader in READERS.items() if ending not in made}}


def _reader(name: str, make: Callable[[str], Any]) -> Reader:
    def read(path: Path, reading: Reading) -> Iterator[Record]:
        """Yield the documents of the loader, with their metadata."""
        del reading
        try:
            loaded = make(str(path))
            documents: Iterable[object] = (
                loaded.lazy_load() if hasattr(loaded, "lazy_load") else loaded
            )
            found = [document for document in documents if isinstance(document, Document)]
        except Exception as error:  # any code may run
            reason = str(error).strip().partition("\n")[0]
            raise CorpusError(
                f"{path}: {name} cannot read it: {type(error).__name__}: {reason}"
            ) from error
        for document in found:
            yield Record(document.page_content, fields_of(document.metadata))

    return read
