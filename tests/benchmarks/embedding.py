"""Time `HiddenStateEmbeddings` and `index` beside the model's bare forward pass.

    python tests/benchmarks/embedding.py --model MODEL --out tests/benchmarks/results/embedding.json

The documents of the handbook in chunks of 500 characters. The bare pass runs each chunk alone, its
tokens ready, and keeps no result. All ways run in turn, several times; the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from langchain_core.documents import Document
from record import fastest, write

from langchain_sift import HiddenStateEmbeddings
from langchain_sift.indexing import index_documents
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.model.tokens import text_tokens

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook" / "documents"
CHARACTERS = 500


def chunks(count: int) -> list[Document]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(HANDBOOK.rglob("*.md"))]
    parts = [
        text[start : start + CHARACTERS]
        for text in texts
        for start in range(0, len(text), CHARACTERS)
    ]
    distinct = list(dict.fromkeys(parts))[:count]
    return [Document(part, id=str(number)) for number, part in enumerate(distinct)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    language_model = load_language_model(asked.model, dtype="float32")
    documents = chunks(asked.count)
    token_ids = [
        torch.tensor([text_tokens(language_model.tokenizer, document.page_content)])
        for document in documents
    ]
    embeddings = HiddenStateEmbeddings(language_model)
    embeddings.mean = embeddings.hidden_states([documents[0].page_content])[0] + 1.0

    def bare() -> None:
        with torch.inference_mode():
            for ids in token_ids:
                language_model.model.base_model(input_ids=ids, use_cache=False)

    def embed() -> None:
        embeddings.embed_documents([document.page_content for document in documents])

    def index() -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            index_documents(documents, language_model, folder)

    ways: dict[str, Callable[[], None]] = {
        "bare forward pass": bare,
        "embed_documents": embed,
        "index_documents": index,
    }
    seconds = fastest(ways, asked.rounds)
    results = {
        "documents": len(documents),
        "tokens": sum(ids.numel() for ids in token_ids),
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "throughput against the bare forward pass": {
            name: round(seconds["bare forward pass"] / value, 3) for name, value in seconds.items()
        },
    }
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, results)


if __name__ == "__main__":
    main()
