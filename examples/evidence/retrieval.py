"""Measure how SIFT's settings and other selections retrieve, on test collections.

    python examples/evidence/retrieval.py --data DIR --check DIR --embeddings MiniLM=FOLDER \
        --embeddings mpnet=FOLDER --hidden-states NAME=MODEL --cache DIR \
        --out examples/evidence/retrieval.json

The first DIR holds the collections that choose the settings (see `retrieval_data.py`), the second
the collection MED of the University of Glasgow, which checks them. A FOLDER holds a model of the
package sentence-transformers. NAME=MODEL is a causal model, whose hidden states are measured too,
without copies. The texts are embedded once and kept in the cache. Candidates are the 200 nearest
neighbours. Identical texts are one candidate, except for nearest neighbours.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache as cache_result
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pyversity import diversify
from retrieval_data import Collection, Query, embed, read_collections, read_medline

from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.report.ranking import Judgments, intent_recall, ndcg, recall
from langchain_sift.retrieval.defaults import DEFAULT_SETTINGS, DEFAULT_SETTINGS_RBF
from langchain_sift.selection import mmr
from langchain_sift.selection.arguments import as_matrices
from langchain_sift.selection.opposites import choose_for_retrieval
from langchain_sift.selection.settings import SelectionSettings

KS = (5, 10)
FETCH_K = 200
METRICS = {"ndcg": ndcg, "recall": recall, "found": intent_recall}
RESAMPLES = 2000

Choose = Callable[[np.ndarray, np.ndarray], Sequence[int]]
"""Choose max(KS) of the candidates, shape (n, d), for a query, shape (d,)."""


def sift(kernel: str, length_scale: float, noise_variance: float) -> Choose:
    """Return a choice with SIFT, as `SIFTRetriever` chooses."""
    settings = SelectionSettings(
        k=max(KS), kernel=kernel, length_scale=length_scale, noise_variance=noise_variance
    )

    def choose(query: np.ndarray, rows: np.ndarray) -> Sequence[int]:
        return choose_for_retrieval(as_matrices(query, rows), settings).indices.tolist()

    return choose


def first(query: np.ndarray, rows: np.ndarray) -> Sequence[int]:
    """Choose the nearest: the candidates come in this order."""
    del query
    return range(min(max(KS), len(rows)))


def by_mmr(query: np.ndarray, rows: np.ndarray) -> Sequence[int]:
    """Choose with maximal marginal relevance, λ = 0.5, LangChain's default."""
    return mmr(query, rows, k=max(KS)).indices.tolist()


def by_pyversity(query: np.ndarray, rows: np.ndarray, *, strategy: str) -> Sequence[int]:
    """Choose with a strategy of pyversity, with its default diversity of 0.5."""
    result = diversify(rows, rows @ query, max(KS), strategy=strategy)
    return np.asarray(result.indices).tolist()


def by_activeft(query: np.ndarray, rows: np.ndarray) -> Sequence[int]:
    """Choose with the authors' library, λ' = 0.01: the exact selection, without its search."""
    import torch  # noqa: PLC0415 - for this method alone
    from activeft import ActiveDataLoader  # noqa: PLC0415
    from activeft.acquisition_functions.vtl import VTL  # noqa: PLC0415
    from activeft.sift import Dataset  # noqa: PLC0415

    chooser = VTL(
        target=torch.tensor(query[None], dtype=torch.float32),
        num_workers=0,
        subsample=False,
        force_nonsequential=False,
        noise_std=0.1,
    )
    loader = ActiveDataLoader(
        dataset=Dataset(torch.tensor(rows, dtype=torch.float32)),
        batch_size=max(KS),
        acquisition_function=chooser,
    )
    return [int(index) for index in loader.next()[0]]


DEFAULT = (DEFAULT_SETTINGS.kernel, DEFAULT_SETTINGS.length_scale, DEFAULT_SETTINGS.noise_variance)
RBF = (
    DEFAULT_SETTINGS_RBF.kernel,
    DEFAULT_SETTINGS_RBF.length_scale,
    DEFAULT_SETTINGS_RBF.noise_variance,
)
METHODS: Mapping[str, Choose] = {
    "nearest": first,
    "sift": sift(*DEFAULT),
    "sift, rbf": sift(*RBF),
    "sift, rbf, ℓ = 0.35, λ' = 0.1": sift("rbf", 0.35, 0.1),
    "sift, λ' = 1": sift("linear", 1.0, 1.0),
    "sift, λ' = 0.01": sift("linear", 1.0, 0.01),
    "mmr": by_mmr,
    "pyversity, mmr": partial(by_pyversity, strategy="mmr"),
    "pyversity, msd": partial(by_pyversity, strategy="msd"),
    "pyversity, dpp": partial(by_pyversity, strategy="dpp"),
    "activeft, λ' = 0.01": by_activeft,
}
GRID = [
    *(("linear", 1.0, noise) for noise in (0.01, 0.1, 1.0, 3.0, 5.0, 6.5, 8.0, 10.0, 15.0, 30.0)),
    *(
        ("rbf", length_scale, noise)
        for length_scale in (0.25, 0.35, 0.43, 0.5, 0.7, 1.0)
        for noise in (0.01, 0.1, 1.0, 4.0, 15.0)
    ),
]


@dataclass(frozen=True)
class Candidates:
    """The candidates for a query: rows of the collection, nearest first."""

    query: Query
    vector: np.ndarray
    nearest: list[str]
    """Ids of the nearest rows, copies included."""

    ids: list[str]
    """Ids of the candidates, of different texts."""

    rows: np.ndarray


def candidates_of(
    collection: Collection, documents: np.ndarray, queries: np.ndarray
) -> Iterator[Candidates]:
    """Find the nearest neighbours of each query."""
    ids, texts = list(collection.documents), list(collection.documents.values())
    for query, vector in zip(collection.queries, queries, strict=True):
        order = np.argsort(-(documents @ vector), kind="stable")
        distinct = {}
        for row in order:
            distinct.setdefault(texts[row], row)
            if len(distinct) == FETCH_K:
                break
        rows = list(distinct.values())
        nearest = [ids[row] for row in order[: max(KS)]]
        yield Candidates(query, vector, nearest, [ids[row] for row in rows], documents[rows])


def embedded(
    collection: Collection, model: str, load: Callable[[], Any], cache: Path
) -> list[Candidates]:
    """Return the candidates for each query of a collection."""
    texts = list(collection.documents.values())
    documents = embed(model, load, texts, cache, queries=False)
    questions = [query.text for query in collection.queries]
    queries = embed(model, load, questions, cache, queries=True)
    return list(candidates_of(collection, documents, queries))


def score(collection: Collection, query: Query, ranking: Sequence[str], k: int) -> float:
    """Score a ranking in the collection's metric; a copy of a chosen document finds nothing."""
    relevant = {document: 1 for part in query.relevant for document in part}
    return METRICS[collection.metric](ranking, Judgments(relevant, query.relevant), k)


def scores_of(
    collection: Collection, candidates: Sequence[Candidates], name: str, choose: Choose
) -> Mapping[int, np.ndarray]:
    """Return the scores of a method for each k, shape (queries,)."""
    rankings = [
        each.nearest
        if name == "nearest"
        else [each.ids[index] for index in choose(each.vector, each.rows)]
        for each in candidates
    ]
    return {
        k: np.array(
            [
                score(collection, each.query, ranking, k)
                for each, ranking in zip(candidates, rankings, strict=True)
            ]
        )
        for k in KS
    }


def compared(scores: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Return the mean score, and the difference from the baseline with its 95 % interval."""
    differences = scores - baseline
    rng = np.random.default_rng(0)
    samples = rng.integers(0, len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[samples].mean(axis=1), [2.5, 97.5])
    return {
        "score": round(float(scores.mean()), 4),
        "difference": round(float(differences.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def milliseconds(choose: Choose, candidates: Sequence[Candidates]) -> float:
    """Return the median duration of a choice."""
    durations = []
    for each in candidates[:50]:
        began = time.perf_counter()
        choose(each.vector, each.rows)
        durations.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(durations)), 3)


def check(
    folder: Path, models: Mapping[str, str], cache: Path
) -> dict[str, dict[int, dict[str, float]]]:
    """Compare the default with nearest neighbours on a collection that chose no setting."""
    collection = read_medline(folder)
    model, path = next(iter(models.items()))
    candidates = embedded(collection, model, cache_result(partial(load_embeddings, path)), cache)
    nearest = scores_of(collection, candidates, "nearest", first)
    return {
        name: {
            k: compared(scores, nearest[k])
            for k, scores in scores_of(collection, candidates, name, METHODS[name]).items()
        }
        for name in ("nearest", "sift", "sift, rbf", "sift, λ' = 0.01", "mmr")
    }


def measure(data: Path, models: Mapping[str, str], cache: Path) -> dict[str, Any]:
    """Measure all methods and the grid of settings on all collections."""
    collections = read_collections(data)
    results: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    durations: dict[str, float] = {}
    for model, folder in models.items():
        load = cache_result(partial(load_embeddings, folder))
        for collection in collections:
            candidates = embedded(collection, model, load, cache)
            nearest = scores_of(collection, candidates, "nearest", first)
            for name, choose in METHODS.items():
                scores = scores_of(collection, candidates, name, choose)
                results.setdefault(model, {}).setdefault(collection.name, {})[name] = {
                    k: compared(scores[k], nearest[k]) for k in KS
                }
                if name != "nearest":
                    durations.setdefault(name, milliseconds(choose, candidates))
            for setting in GRID:
                scores = scores_of(collection, candidates, "", sift(*setting))
                row = grid.setdefault(" ".join(map(str, setting)), {})
                row.setdefault(model, {})[collection.name] = {
                    k: round(float(scores[k].mean()), 4) for k in KS
                }
            print(model, collection.name, file=sys.stderr)
    return {"results": results, "grid": grid, "milliseconds": durations}


def measure_hidden_states(data: Path, model: str, path: str, cache: Path) -> dict[str, Any]:
    """Compare settings of the linear kernel with nearest neighbours, on vectors of a causal model.

    The embeddings are fitted on 200 documents of each collection.
    """
    results: dict[str, Any] = {}
    for collection in read_collections(data):
        if "copies" in collection.name:
            continue
        texts = list(collection.documents.values())
        load = cache_result(partial(load_hidden_states, path, texts))
        candidates = embedded(collection, model, load, cache)
        nearest = scores_of(collection, candidates, "nearest", first)
        methods = {"nearest": first} | {
            f"sift, λ' = {noise:g}": sift(kernel, length_scale, noise)
            for kernel, length_scale, noise in GRID
            if kernel == "linear"
        }
        results[collection.name] = {
            name: {
                k: compared(scores, nearest[k])
                for k, scores in scores_of(collection, candidates, name, choose).items()
            }
            for name, choose in methods.items()
        }
        print(model, collection.name, file=sys.stderr)
    return results


def load_embeddings(folder: str) -> Any:
    """Load a model of sentence-transformers."""
    from langchain_sift.indexing.named_objects import load_embeddings  # noqa: PLC0415

    return load_embeddings(folder)


def load_hidden_states(path: str, texts: Sequence[str]) -> Any:
    """Load a causal model, and fit its embeddings to texts."""
    sample = random.Random(0).sample(list(texts), 200)
    return HiddenStateEmbeddings(model=path, max_length=160).fit(sample)


def main() -> None:
    """Measure, and write the results and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--check", type=Path, required=True, help="folder of the collection MED")
    parser.add_argument("--embeddings", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--hidden-states", required=True, metavar="NAME=MODEL")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    models = dict(each.split("=", 1) for each in arguments.embeddings)
    causal, path = arguments.hidden_states.split("=", 1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    measured = {
        "command": "python examples/evidence/retrieval.py --data DIR --check DIR "
        + " ".join(f"--embeddings {name}=FOLDER" for name in models)
        + f" --hidden-states {causal}=MODEL",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "default": list(DEFAULT),
        "rbf": list(RBF),
        "check": check(arguments.check, models, arguments.cache),
        "hidden_states": measure_hidden_states(arguments.data, causal, path, arguments.cache),
        "hidden_states_default": HiddenStateEmbeddings.noise_variance,
        **measure(arguments.data, models, arguments.cache),
    }
    text = json.dumps(measured, indent=1, ensure_ascii=False) + "\n"
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
