"""Count the modules, functions, calls and hand-overs that one request passes through.

    python tests/benchmarks/journeys.py [--json FILE] [--trace]

A hand-over is a call that follows a call in another module of the package, in any thread. Only
functions of `langchain_sift` count: calls inside NumPy, PyTorch, Chroma and LangChain do not, nor
do comprehensions. Resuming a generator counts as a call.

The journeys:

- query: `SIFTRetriever.invoke` on an embedded Chroma collection, k=3;
- prompt: `ChatTestTimeFineTuned.invoke` with one document in `documents=` and four tokens, on the
  model of `examples/demo`;
- prompt, 3 documents: the same with three documents, each of which adds a training step.

Each request is made once before, so that loading and caches stay out of the figures. Two threads
alternate as the machine lets them: of several runs the one with the median of hand-overs counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from types import FrameType

import chromadb
import numpy as np
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, SIFTRetriever

PACKAGE = "langchain_sift"
MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model"
TEXTS = [
    "The river rises in the hills and turns east at the old mill.",
    "The old mill was rebuilt in 1871 after a fire.",
    "Barges carried grain down the river until the railway came.",
    "The railway station stands on the site of the grain market.",
    "A fire in the market destroyed eleven houses.",
    "Eels are caught below the weir every autumn.",
]
# Code that `dataclass` generates is no line of the package's source.
GENERATED = "<string>"
# Frames of their own until Python 3.12 only.
COMPREHENSIONS = {"<dictcomp>", "<genexpr>", "<listcomp>", "<setcomp>"}
RUNS = 5


@dataclass
class Journey:
    """The package's calls during one request, in their order, as (module, function)."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def figures(self) -> dict[str, int]:
        """Return the counts."""
        modules = [module for module, _ in self.calls]
        return {
            "modules": len(set(modules)),
            "functions": len(set(self.calls)),
            "calls": len(self.calls),
            "hand_overs": sum(one != other for one, other in pairwise(modules)),
            "threads": len(self.threads),
        }

    def path(self) -> list[str]:
        """Return the modules in the order of the visits."""
        return [module for module, _ in groupby(module for module, _ in self.calls)]


class Recorder:
    """A profile hook of all threads that are started after it was installed."""

    def __init__(self) -> None:
        self._journey: Journey | None = None
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)

    @contextmanager
    def recording(self) -> Iterator[Journey]:
        """Record the calls that the block makes, in all threads."""
        self._journey = journey = Journey()
        try:
            yield journey
        finally:
            self._journey = None

    def _hook(self, frame: FrameType, event: str, _: object) -> None:
        journey = self._journey
        if journey is None or event != "call":
            return
        module, code = str(frame.f_globals.get("__name__", "")), frame.f_code
        if code.co_filename == GENERATED or code.co_name in COMPREHENSIONS:
            return
        if module.split(".", maxsplit=1)[0] == PACKAGE:
            name = module.removeprefix(f"{PACKAGE}.")
            journey.calls.append((name, code.co_qualname))
            journey.threads.add(threading.get_ident())


class RandomEmbeddings(Embeddings):
    """A vector for each text, drawn with the text's length as the seed."""

    def embed_query(self, text: str) -> list[float]:
        return np.random.default_rng(len(text)).normal(size=16).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def query() -> Callable[[], object]:
    """Return a query of an embedded Chroma collection."""
    store = Chroma(
        collection_name="journeys",
        client=chromadb.EphemeralClient(),
        embedding_function=RandomEmbeddings(),
    )
    store.add_texts(TEXTS)
    retriever = SIFTRetriever(vectorstore=store, k=3)
    return lambda: retriever.invoke("What burned down?")


def prompt(count: int) -> Callable[[], object]:
    """Return a prompt of a chat model with so many documents."""
    model = ChatTestTimeFineTuned(
        model=str(MODEL),
        finetune=FineTuneConfig(lora_rank=4, max_length=64),
        max_tokens=4,
    )
    documents = [Document(text) for text in TEXTS[:count]]
    return lambda: model.invoke("What burned down?", documents=documents)


REQUESTS: dict[str, Callable[[], Callable[[], object]]] = {
    "query": query,
    "prompt": partial(prompt, 1),
    "prompt, 3 documents": partial(prompt, 3),
}


def trace(recorder: Recorder, request: Callable[[], object]) -> Journey:
    """Return the journey of the request with the median of hand-overs."""
    request()
    journeys = []
    for _ in range(RUNS):
        with recorder.recording() as journey:
            request()
        journeys.append(journey)
    return sorted(journeys, key=lambda journey: journey.figures()["hand_overs"])[RUNS // 2]


def table(figures: dict[str, dict[str, int]]) -> str:
    """Return the figures as a table in Markdown."""
    names = list(next(iter(figures.values())))
    rows = [["journey", *names], ["---", *("--:" for _ in names)]]
    rows += [[journey, *map(str, counts.values())] for journey, counts in figures.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def path_and_functions(name: str, journey: Journey) -> str:
    """Return the modules in the order of the visits, and how often each function was called."""
    visits, calls = Counter(journey.path()), Counter(module for module, _ in journey.calls)
    lines = [f"{name}: {' -> '.join(journey.path())}", ""]
    lines += [
        f"{count:5} visits {calls[module]:6} calls  {module}"
        for module, count in visits.most_common()
    ]
    functions = sorted(Counter(".".join(call) for call in journey.calls).items())
    return "\n".join([*lines, "", *(f"{count:6}  {name}" for name, count in functions), "\n"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--trace", action="store_true", help="print the path and the functions")
    parser.add_argument("--only", choices=list(REQUESTS), help="trace one journey")
    arguments = parser.parse_args()
    recorder = Recorder()
    chosen = [arguments.only] if arguments.only else list(REQUESTS)
    journeys = {name: trace(recorder, REQUESTS[name]()) for name in chosen}
    figures = {name: journey.figures() for name, journey in journeys.items()}
    if arguments.trace:
        for name, journey in journeys.items():
            sys.stdout.write(path_and_functions(name, journey))
    text = json.dumps(figures, indent=1)
    sys.stdout.write(f"{table(figures)}\n{text}\n")
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
