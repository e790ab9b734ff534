"""Measure each selection with fifty copies of every document in the store.

    python examples/evidence/redundancy.py --data DIR --base examples/demo/model \
        --domains nih_grants,us_patents

Uses the prompts and settings of `run.py`, with a store of each document once and a store of 50
copies. "plain" is the store's retriever, which does not recognize copies. The results are added to
redundancy.json, which keeps the results of other domains.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from run import NOISE_VARIANCE, RECIPE, prompts_of, read

from langchain_sift import HiddenStateEmbeddings, compare
from langchain_sift.ttft import LanguageModel, load_language_model

COPIES = 50
K = 50
METHODS = ("base", "ttft:sift", "ttft:plain")
RESULTS = Path(__file__).parent / "redundancy.json"


def store_with_copies(
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


def measure(model: LanguageModel, data: Path, domain: str, count: int) -> dict[str, Any]:
    """Measure percent of base and standard error of both methods on both stores."""
    prompts = prompts_of(read(data, domain, "validation"), count)
    texts = {row["text"]: row["id"] for row in read(data, domain, "memory")}
    documents = [Document(id=key, page_content=text) for text, key in texts.items()]
    embeddings = HiddenStateEmbeddings(model).fit(list(texts)[:: max(1, len(texts) // 256)])
    vectors = embeddings.embed_documents(list(texts))
    result: dict[str, Any] = {"prompts": len(prompts)}
    for name, copies in (("once", 1), ("fifty times", COPIES)):
        store = store_with_copies(embeddings, documents, vectors, copies)
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
        summaries = report.summary("document")
        result[name] = {
            method: [round(s.percent_of_base, 2), round(s.standard_error, 2)]
            for method, s in summaries.items()
            if method != "base"
        }
    return result


def main() -> None:
    """Measure all domains, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domains", default="nih_grants", help="comma-separated")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=20)
    arguments = parser.parse_args()
    model = load_language_model(str(arguments.base))
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    for domain in arguments.domains.split(","):
        record["domains"][domain] = measure(model, arguments.data, domain, arguments.prompts)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(domain, json.dumps(record["domains"][domain]))


if __name__ == "__main__":
    main()
