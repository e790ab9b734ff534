"""Read files and write their documents into Chroma collections.

| file | task |
|---|---|
| `formats.py` | read the texts of a file, with one function for each format |
| `files.py` | find files and read their documents |
| `beir.py` | find the files of a test collection in the format of BEIR |
| `chunks.py` | split documents, with ids by content |
| `chroma_clients.py` | connect to a folder or a server |
| `fitted_means.py` | keep the mean of a collection's vectors beside it |
| `chroma_collections.py` | find and open collections with the embeddings that filled them |
| `index.py` | write documents into a collection, each once |
| `repair.py` | name the embeddings of a collection again |
| `named_objects.py` | load embeddings and functions by module:NAME |
"""

from langchain_sift.indexing.chroma_collections import open_collection, save_embeddings
from langchain_sift.indexing.files import read_corpus
from langchain_sift.indexing.index import index_documents

__all__ = ["index_documents", "open_collection", "read_corpus", "save_embeddings"]
