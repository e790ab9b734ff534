"""Time `HiddenStateEmbeddings` and `index` beside the model's bare forward pass.

    python tests/benchmarks/embedding.py --model MODEL --out tests/benchmarks/results/embedding.json

The documents of the handbook, once in short and once in long chunks. The bare passes run over the
tokens, which are ready, and keep no result: each chunk alone, or in padded batches of chunks sorted
by length; the faster one counts. All ways run in turn, several times; the fastest counts. With
SmolLM2 it takes at most three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from langchain_core.documents import Document
from record import fastest, write

from langchain_sift import HiddenStateEmbeddings
from langchain_sift.indexing import index_documents
from langchain_sift.ttft import LanguageModel, load_language_model
from langchain_sift.ttft.model.tokens import text_tokens

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook" / "documents"
BATCH, MAX_LENGTH = 1024, 512
ALONE, SORTED = "bare forward pass, alone", "bare forward pass, sorted batches"


def chunks(language_model: LanguageModel, characters: int, tokens: int) -> dict[str, list[int]]:
    """Return different chunks with their token ids, about as many tokens as asked for."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(HANDBOOK.rglob("*.md"))]
    found: dict[str, list[int]] = {}
    for text in texts:
        for start in range(0, len(text), characters):
            chunk = text[start : start + characters]
            if chunk.strip() and sum(map(len, found.values())) < tokens:
                found[chunk] = text_tokens(language_model.tokenizer, chunk)[:MAX_LENGTH]
    return found


def padded_batches(rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return batches of rows of similar length, at most `BATCH` tokens in each, or one row."""
    batches: list[list[Sequence[int]]] = []
    for row in sorted(rows, key=len, reverse=True):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > BATCH:
            batches.append([])
        batches[-1].append(row)
    return [
        torch.tensor([[*row, *[0] * (len(batch[0]) - len(row))] for row in batch])
        for batch in batches
    ]


def measure(
    language_model: LanguageModel, characters: int, tokens: int, rounds: int
) -> dict[str, object]:
    found = chunks(language_model, characters, tokens)
    documents = [Document(text, id=str(number)) for number, text in enumerate(found)]
    embeddings = HiddenStateEmbeddings(language_model)
    embeddings.mean = embeddings.hidden_states([documents[0].page_content])[0] + 1.0

    def bare(batches: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode():
            for ids in batches:
                language_model.model.base_model(input_ids=ids, use_cache=False)

    def index() -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            index_documents(documents, language_model, folder)

    alone = [torch.tensor([ids]) for ids in found.values()]
    batches = padded_batches(list(found.values()))
    ways: dict[str, Callable[[], object]] = {
        ALONE: lambda: bare(alone),
        SORTED: lambda: bare(batches),
        "embed_documents": lambda: embeddings.embed_documents(list(found)),
        "index_documents": index,
    }
    seconds = fastest(ways, rounds)
    best = min(seconds[ALONE], seconds[SORTED])
    return {
        "characters": characters,
        "documents": len(documents),
        "tokens": sum(map(len, found.values())),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "throughput against the faster bare pass": {
            name: round(best / value, 3) for name, value in seconds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--characters", nargs="+", type=int, default=[100, 1500])
    parser.add_argument("--tokens", type=int, default=8000, help="of the documents of each length")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    language_model = load_language_model(asked.model, dtype="float32")
    results: dict[str, object] = {"threads": torch.get_num_threads()}
    for characters in asked.characters:
        measured = measure(language_model, characters, asked.tokens, asked.rounds)
        results[f"{characters} characters"] = measured
        sys.stdout.write(json.dumps(measured, indent=1) + "\n")
        sys.stdout.flush()
    if asked.out is not None:
        write(asked.out, results)


if __name__ == "__main__":
    main()
