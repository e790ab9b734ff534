"""Read files and write their documents into Chroma collections.

| file | task |
|---|---|
| `formats.py` | read the texts of a file, with one function for each format |
| `files.py` | find files and read their documents |
| `chunks.py` | split documents, with ids by content |
| `chroma_collections.py` | find and open collections with the embeddings that filled them |
| `index.py` | write documents into a collection, each once |
| `named_objects.py` | load embeddings and functions by module:NAME |
"""

from langchain_sift.errors import require

require("ttft", "torch", "transformers")

from langchain_sift.indexing.chroma_collections import open_collection  # noqa: E402
from langchain_sift.indexing.files import read_corpus  # noqa: E402
from langchain_sift.indexing.index import index_documents  # noqa: E402

__all__ = ["index_documents", "open_collection", "read_corpus"]
