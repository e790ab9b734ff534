"""Every document fifty times in the store: what that does to each way to choose.

    python examples/evidence/redundancy.py --data DIR --domain nih_grants \
        --base examples/demo/model --out build/evidence/redundancy

The same prompts and settings as `run.py`, with the store as it is and with 50 copies of each
document. "plain" is the store's own retriever, which returns a copy like any other document.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from run import NOISE_VARIANCE, RECIPE, prompts_of, read

from langchain_sift import HiddenStateEmbeddings, compare
from langchain_sift.ttft import load_language_model

COPIES = 50
K = 50
METHODS = ("base", "ttft:sift", "ttft:plain")


def filled(
    embeddings: HiddenStateEmbeddings, documents: list[Document], vectors: list[list[float]], n: int
) -> InMemoryVectorStore:
    """Return a store with n copies of each document, embedded once."""
    store = InMemoryVectorStore(embeddings)
    for copy in range(n):
        for document, vector in zip(documents, vectors, strict=True):
            key = f"{document.id}#{copy}"
            store.store[key] = {
                "id": key,
                "vector": vector,
                "text": document.page_content,
                "metadata": {},
            }
    return store


def main() -> None:
    """Measure both stores, and print and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domain", default="nih_grants")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=20)
    asked = parser.parse_args()
    model = load_language_model(str(asked.base))
    prompts = prompts_of(read(asked.data, asked.domain, "validation"), asked.prompts)
    rows = read(asked.data, asked.domain, "memory")
    texts = {row["text"]: row["id"] for row in rows}  # the de-duplicated store
    documents = [Document(id=key, page_content=text) for text, key in texts.items()]
    embeddings = HiddenStateEmbeddings(model).fit(list(texts)[:: max(1, len(texts) // 256)])
    vectors = embeddings.embed_documents(list(texts))
    found = {}
    for copies in (1, COPIES):
        store = filled(embeddings, documents, vectors, copies)
        report = compare(
            prompts,
            METHODS,
            model=model,
            vectorstore=store,
            retrievers={"plain": store.as_retriever(search_kwargs={"k": K})},
            k=K,
            noise_variance=NOISE_VARIANCE,
            finetune=RECIPE,
            leaks="ignore",
            on_row=lambda row: print(row.prompt, row.method, file=sys.stderr),
        )
        found[str(copies)] = {
            method: {
                "percent_of_base": round(summary.percent_of_base, 2),
                "standard_error": round(summary.standard_error, 2),
                "distinct_documents": float(np.round(summary.distinct_documents, 1)),
            }
            for method, summary in report.summary("document").items()
        }
    record = {"domain": asked.domain, "prompts": len(prompts), "k": K, "copies": found}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "redundancy.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
