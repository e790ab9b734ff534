"""Find the files of a test collection in the format of BEIR (arXiv 2104.08663)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import JSON_LINES

_DEFAULT_SPLIT = "test"


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """The files of a test collection."""

    corpus: Path
    """Documents: objects with "_id", "title" and "text"."""

    queries: Path
    """Queries: objects with "_id" and "text"."""

    qrels: tuple[Path, ...]
    """Relevant documents: a file for each split, such as test.tsv."""

    @classmethod
    def find(cls, path: Path | str) -> BeirFolder | None:
        """Return the files in a folder; None if it is no test collection.

        Args:
            path: A folder with corpus.jsonl, queries.jsonl and qrels/*.tsv; the first two may be
                packed (.jsonl.gz).
        """
        folder = Path(path)
        corpus, queries = (
            next((file for end in JSON_LINES if (file := folder / f"{name}{end}").is_file()), None)
            for name in ("corpus", "queries")
        )
        qrels = tuple(sorted((folder / "qrels").glob("*.tsv")))
        if corpus is None or queries is None or not qrels:
            return None
        return cls(corpus, queries, qrels)

    def split(self) -> Path:
        """Return the qrels of the split "test", or of the only split.

        Raises:
            CorpusError: If there are several splits and none of them is "test".
        """
        by_name = {path.stem: path for path in self.qrels}
        if _DEFAULT_SPLIT in by_name:
            return by_name[_DEFAULT_SPLIT]
        if len(by_name) > 1:
            raise CorpusError(
                f"{self.qrels[0].parent} has the qrels of {', '.join(by_name)}: name one of the "
                f"files (--qrels {self.qrels[0]})"
            )
        return self.qrels[0]
