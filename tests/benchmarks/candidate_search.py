"""Measure the variance that each candidate search leaves, in Chroma stores, by domain.

    python tests/benchmarks/candidate_search.py --corpus DIR --encoder NAME_OR_PATH --out FILE

DIR holds one `DOMAIN.jsonl.gz` for each domain, with lines {"id", "split", "text"}: the store is
filled with the split "memory", and the queries are the first halves of texts of the split
"validation". The encoder is a Hugging Face model; the embeddings are its mean-pooled hidden states.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import torch
from langchain_chroma import Chroma
from transformers import AutoModel, AutoTokenizer

from langchain_sift import Retrieval, SIFTRetriever

SETTINGS: dict[str, dict[str, Any]] = {
    "nearest, 50": {"fetch_k": 50},
    "nearest, 200": {"fetch_k": 200},
    "residual, 3": {"candidate_search": "residual", "step_fetch_k": 3},
    "residual, 5": {"candidate_search": "residual", "step_fetch_k": 5},
    "residual, 10": {"candidate_search": "residual", "step_fetch_k": 10},
    "exhaustive": {"candidate_search": "exhaustive"},
}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    encode = Encoder(arguments.encoder, arguments.cache)
    results = {
        domain: {
            f"noise_variance={noise_variance}": measure(
                store, queries, k=arguments.k, noise_variance=noise_variance
            )
            for noise_variance in arguments.noise_variance
        }
        for domain, store, queries in domains(arguments.corpus, encode, arguments.queries)
    }
    arguments.out.write_text(
        json.dumps(
            {
                "command": arguments.command,
                "commit": arguments.commit,
                "date": time.strftime("%Y-%m-%d"),
                "k": arguments.k,
                "queries": arguments.queries,
                "domains": results,
            },
            indent=1,
        )
        + "\n"
    )


def domains(
    corpus: Path, encode: Encoder, max_queries: int
) -> Iterator[tuple[str, Chroma, np.ndarray]]:
    """Yield the name of each domain, its store and the vectors of its queries."""
    client = chromadb.EphemeralClient()
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        memory = [row for row in rows if row["split"] == "memory"]
        queries = [row["text"] for row in rows if row["split"] == "validation"][:max_queries]
        domain = path.name.removesuffix(".jsonl.gz")
        texts = [row["text"] for row in memory]
        vectors = encode(domain, texts)
        store = Chroma(client=client, collection_name=f"{domain}-{uuid.uuid4()}")
        for start in range(0, len(memory), 1000):
            part = slice(start, start + 1000)
            store._collection.add(
                ids=[row["id"] for row in memory[part]],
                documents=texts[part],
                embeddings=list(vectors[part]),
            )
        print(domain, len(texts), flush=True)  # noqa: T201 - it takes minutes
        yield domain, store, encode(f"{domain}-queries", [t[: len(t) // 2] for t in queries])


def measure(
    store: Chroma, queries: np.ndarray, *, k: int, noise_variance: float
) -> dict[str, dict[str, float]]:
    """Return the figures of each candidate search, averaged over the queries."""
    retriever = SIFTRetriever(vectorstore=store, k=k, noise_variance=noise_variance)
    retrieved: dict[str, list[Retrieval]] = {}
    seconds = {}
    for name, settings in SETTINGS.items():
        retriever.retrieve_by_vector(queries[0], **settings)
        started = time.perf_counter()
        retrieved[name] = [retriever.retrieve_by_vector(query, **settings) for query in queries]
        seconds[name] = (time.perf_counter() - started) / len(queries)
    exact = retrieved["exhaustive"]
    return {
        name: {
            "posterior_variance": _mean(r.choices[-1].posterior_variance for r in retrievals),
            "shared_with_exhaustive": _mean(
                len({c.id for c in r.choices} & {c.id for c in e.choices}) / len(e.choices)
                for r, e in zip(retrievals, exact, strict=True)
            ),
            "mean_similarity": _mean(c.similarity for r in retrievals for c in r.choices),
            "negative_similarity": _mean(c.similarity < 0 for r in retrievals for c in r.choices),
            "candidates": _mean(r.candidates for r in retrievals),
            "most_candidates": float(max(r.candidates for r in retrievals)),
            "seconds": seconds[name],
        }
        for name, retrievals in retrieved.items()
    }


class Encoder:
    """Mean-pooled hidden states of unit norm, kept in a folder from one run to the next."""

    def __init__(self, name: str, cache: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._model = AutoModel.from_pretrained(name).eval()
        self._cache = cache

    def __call__(self, name: str, texts: list[str]) -> np.ndarray:
        path = self._cache / f"{name}.npy"
        if path.exists() and len(vectors := np.load(path)) == len(texts):
            return vectors
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        vectors = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), 32):
            places = order[start : start + 32]
            vectors[places] = self._encode([texts[place] for place in places])
        self._cache.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
        return vectors

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> np.ndarray:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self._model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        vectors: np.ndarray = torch.nn.functional.normalize(pooled, dim=-1).float().numpy()
        return vectors


def _mean(values: Iterator[float]) -> float:
    return float(np.mean(list(values)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/vectors"))
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--noise-variance", type=float, nargs="+", default=[0.01, 1.0])
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    arguments.command = (
        f"python tests/benchmarks/candidate_search.py --queries {arguments.queries} "
        f"--k {arguments.k} --noise-variance {' '.join(map(str, arguments.noise_variance))}"
    )
    return arguments


if __name__ == "__main__":
    main()
