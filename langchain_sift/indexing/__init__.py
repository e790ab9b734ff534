"""Read files and write their documents into Chroma collections.

| file | task |
|---|---|
| `folders.py` | find files |
| `own_files.py` | recognise what `compare` and `calibrate` wrote |
| `left_out.py` | recognise files and folders that hold no documents |
| `formats/` | read the texts of a file, with one module for each kind of format |
| `loaders.py` | read files with LangChain's loaders |
| `metadata.py` | make metadata that Chroma can filter |
| `attachments.py` | read files within files, such as attachments of mail |
| `files.py` | read the documents of files |
| `beir.py` | find the files of a test collection in the format of BEIR |
| `headings.py` | keep headings with their texts |
| `chunks.py` | split documents, with their positions |
| `token_lengths.py` | measure texts in the tokens of their embeddings |
| `text_limits.py` | read how much of a text embeddings take, without their weights |
| `row_ids.py` | name rows by text, file and metadata |
| `chroma_clients.py` | connect to a folder or a server |
| `companions.py` | keep data of a collection in collections beside it |
| `fitted_means.py` | keep the mean of a collection's vectors |
| `known_files.py` | keep the paths of a collection's files |
| `chroma_collections.py` | find and open collections with the embeddings that filled them |
| `embedded_texts.py` | embed texts, and check their vectors |
| `row_requests.py` | read, write and delete rows |
| `index.py` | write documents into a collection, each once |
| `synchronize.py` | bring a collection to the state of its files |
| `emptied_folders.py` | stop before rows of folders that may not be mounted are deleted |
| `file_runs.py` | index files: find, read, split, synchronize |
| `repair.py` | name the embeddings of a collection again |
| `named_objects.py` | load embeddings and functions by module:NAME |
"""

from langchain_sift.indexing.chroma_collections import open_collection, save_embeddings
from langchain_sift.indexing.files import read_corpus
from langchain_sift.indexing.index import index_documents

__all__ = ["index_documents", "open_collection", "read_corpus", "save_embeddings"]
