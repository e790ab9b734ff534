"""Measure how near the settings that `calibrate_retrieval` chooses come to the best labelled ones.

    python examples/evidence/retrieval_calibration.py --data DIR --embeddings minilm=FOLDER \
        --embeddings mpnet=FOLDER --cache DIR --out examples/evidence/retrieval_calibration.json

DIR holds the collections (see `retrieval_data.py`). A FOLDER holds a model of the package
sentence-transformers. For each collection, the settings are chosen once without labels, from the
texts alone, and once with all labels. Both are scored with the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache as cache_result
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from retrieval import load_embeddings
from retrieval_data import Collection, embed, read_collections

from langchain_sift.calibrated_settings import CalibratedSelection
from langchain_sift.calibration import RetrievalCalibration, calibrate_retrieval
from langchain_sift.comparison import Prompt
from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS, KernelSettings

K = 10
METRICS = {"ndcg": "ndcg", "recall": "recall", "found": "intent_recall"}


class CachedEmbeddings(Embeddings):
    """Embeds each query once, and loads the embeddings when a query is not known."""

    def __init__(
        self, load: Callable[[], Embeddings], known: Mapping[str, Sequence[float]]
    ) -> None:
        """Take the vectors of the known queries."""
        self._known = known
        self._embed = cache_result(lambda text: load().embed_query(text))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as queries."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the known vector, or embed the text."""
        return list(self._known[text]) if text in self._known else self._embed(text)


def store_of(
    model: str, load: Callable[[], Embeddings], collection: Collection, cache: Path
) -> InMemoryVectorStore:
    """Return a store of the collection's documents, with vectors from the cache."""
    texts = list(collection.documents.values())
    questions = [query.text for query in collection.queries]
    vectors = embed(model, load, texts, cache, queries=False).tolist()
    asked = embed(model, load, questions, cache, queries=True).tolist()
    known = dict(zip(questions, asked, strict=True))
    store = InMemoryVectorStore(CachedEmbeddings(load, known))
    for (name, text), vector in zip(collection.documents.items(), vectors, strict=True):
        store.store[name] = {"id": name, "text": text, "vector": vector, "metadata": {}}
    return store


def prompts_of(collection: Collection) -> list[Prompt]:
    """Return the queries with their labels, grouped by parts if the metric counts parts."""
    grouped = collection.metric == "found"
    return [
        Prompt(
            id=str(number),
            text=query.text,
            relevant=[sorted(part) for part in query.relevant]
            if grouped
            else sorted(set().union(*query.relevant)),
        )
        for number, query in enumerate(collection.queries)
    ]


def score_of(labelled: RetrievalCalibration, chosen: CalibratedSelection | KernelSettings) -> float:
    """Return the labelled score of settings."""
    return next(
        point.scores[0]
        for point in labelled.kernels
        if point.settings.kernel == chosen.kernel
        and point.settings.noise_variance == chosen.noise_variance
        and (chosen.kernel == "linear" or point.settings.length_scale == chosen.length_scale)
    )


def measure(
    store: InMemoryVectorStore, collection: Collection, made: RetrievalCalibration
) -> dict[str, Any]:
    """Calibrate with labels, and compare the settings that were chosen without by the labels."""
    labelled = calibrate_retrieval(
        store, prompts_of(collection), metric=METRICS[collection.metric], k=K
    )
    best = max(point.scores[0] for point in labelled.kernels)
    gain = labelled.held_out[0].gain
    return {
        "chosen_without_labels": made.settings.to_json()["retrieval"],
        "chosen_with_labels": labelled.settings.to_json()["retrieval"],
        "nearest": round(labelled.nearest[0], 4),
        "default": round(score_of(labelled, DEFAULT_SETTINGS), 4),
        "without_labels": round(score_of(labelled, made.selection), 4),
        "best": round(best, 4),
        "percent_below_best": round(100 * (1 - score_of(labelled, made.selection) / best), 2),
        "held_out_gain_with_labels": [
            round(value, 4) for value in (gain.value, gain.low, gain.high)
        ],
    }


def main() -> None:
    """Measure all collections with all embeddings, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embeddings", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for model, folder in (each.split("=", 1) for each in arguments.embeddings):
        load = cache_result(partial(load_embeddings, folder))
        made: dict[tuple[str, ...], RetrievalCalibration] = {}
        for collection in read_collections(arguments.data):
            store = store_of(model, load, collection, arguments.cache)
            # Copies of a text are one text, and the questions play no part without labels.
            texts = tuple(sorted(set(collection.documents.values())))
            if texts not in made:
                made[texts] = calibrate_retrieval(store, k=K)
            measured = measure(store, collection, made[texts])
            results.setdefault(model, {})[collection.name] = measured
            print(model, collection.name, file=sys.stderr)
            text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
            arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
