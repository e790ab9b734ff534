"""Documents out of files, and into Chroma's collections.

| file | what it does |
|---|---|
| `corpus.py` | documents, line by line |
| `files.py`, `formats.py` | files of many kinds: found and split into chunks; text out of each |
| `collections.py` | collections: found, opened, and with which embeddings they were filled |
| `filling.py` | documents, or chunks of files, into one |
| `sharing.py` | whether other processes may have a store open |
| `named_objects.py` | embeddings and functions by their names |
"""

from langchain_sift.errors import require

require("ttft", "torch", "transformers")

from langchain_sift.indexing.chroma_collections import open_collection  # noqa: E402
from langchain_sift.indexing.corpus import read_corpus  # noqa: E402
from langchain_sift.indexing.index import index_documents  # noqa: E402

__all__ = ["index_documents", "open_collection", "read_corpus"]
