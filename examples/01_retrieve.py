"""Retrieve with SIFT over Chroma, and see what nearest neighbours would have chosen.

python examples/01_retrieve.py
"""

from pathlib import Path

from langchain_chroma import Chroma

from langchain_sift import HiddenStateEmbeddings, SIFTRetriever
from langchain_sift.indexing import read_corpus

DEMO = Path(__file__).parent / "demo"
QUERY = "The core will provide biostatistics and data management to all projects."

documents = read_corpus(DEMO / "corpus" / "nih_grants.jsonl.gz")
texts = [document.page_content for document in documents]

# The model's own representation, centred on a mean that is kept with the collection.
embeddings = HiddenStateEmbeddings(model=str(DEMO / "model")).fit(texts[:256])
store = Chroma.from_documents(
    documents, embeddings, collection_metadata=embeddings.collection_metadata()
)

for search_type in ("similarity", "sift"):
    retriever = SIFTRetriever(vectorstore=store, k=5, search_type=search_type)
    print(f"\n{search_type}:")
    for document in retriever.invoke(QUERY):
        print(f"  {document.id}  {document.page_content[:90]!r}")
