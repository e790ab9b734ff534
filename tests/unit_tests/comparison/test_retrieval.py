"""The protocol "retrieval" scores the documents of each method, without a language model."""

from __future__ import annotations

import json
import random
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import Report, compare
from langchain_sift.comparison import Prompt
from langchain_sift.comparison.judgments import runs_in
from langchain_sift.comparison.run_folder import read_report
from langchain_sift.errors import ArgumentError, SIFTError
from langchain_sift.report.metrics import contains_answer
from langchain_sift.report.ranking import ranking_scores
from langchain_sift.report.words import normalized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SIZE = 64
SUBJECTS = ["bread", "clocks", "maps", "iron", "harbours", "seeds"]
FACTS = [
    "are sold in the market near the old bridge",
    "were brought by ship from the north",
    "need a dry place in winter",
    "were taxed by the king after the war",
]
TEXTS = {f"{s}-{n}": f"{s} {fact}" for s in SUBJECTS for n, fact in enumerate(FACTS)}


class Words(Embeddings):
    """Embeds a text as the sum of a random vector for each of its words."""

    def embed_query(self, text: str) -> list[float]:
        vectors = [
            np.random.default_rng(zlib.crc32(word.encode())).normal(size=SIZE)
            for word in text.lower().split()
        ]
        return np.sum(vectors, axis=0).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


PROMPTS = [
    Prompt("bread", "bread sold near the bridge", "a", relevant=["bread-0", "bread-1"]),
    Prompt("clocks", "clocks in winter", "b", relevant={"clocks-2": 2, "clocks-0": 1, "maps-0": 0}),
    Prompt("iron", "iron and the king", "b", relevant=[["iron-3", "iron-1"], ["maps-3"]]),
    Prompt("ship", "what came by ship", "a", answers=("the north",)),
]


@pytest.fixture
def make_store(request: pytest.FixtureRequest) -> Callable[..., Chroma]:
    def make(texts: dict[str, str], sources: dict[str, str] | None = None) -> Chroma:
        name = f"retrieval-{zlib.crc32(request.node.nodeid.encode())}"
        chroma = Chroma(name, Words())
        request.addfinalizer(chroma.delete_collection)
        metadatas = [{"source": (sources or {}).get(key, key[:2])} for key in texts]
        chroma.add_texts(list(texts.values()), metadatas, ids=list(texts))
        return chroma

    return make


def by_prompt(report: Report, method: str, k: int) -> dict[str, dict[str, float]]:
    rows = [row for row in report.rows if (row.method, row.k) == (method, k)]
    return {row.prompt: dict(row.scores) for row in rows}


def nearest(text: str, count: int, texts: dict[str, str] = TEXTS) -> list[str]:
    rows = np.array(Words().embed_documents(list(texts.values())))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(rows @ np.array(Words().embed_query(text))), kind="stable")
    return [list(texts)[row] for row in order[:count]]


def test_the_scores_are_those_of_the_chosen_documents(make_store: Callable[..., Chroma]) -> None:
    report = compare(
        PROMPTS, vectorstore=make_store(TEXTS), protocols=("retrieval",), k=(2, 5), seed=3
    )
    assert report.protocols == ("retrieval",)
    assert report.methods == ("nearest", "mmr", "sift")
    assert report.ks == (2, 5)
    assert {row.failure for row in report.rows} == {None}
    for k in report.ks:
        scores = by_prompt(report, "nearest", k)
        for prompt in PROMPTS[:3]:
            ranking = nearest(prompt.text, k)
            assert scores[prompt.id] == ranking_scores(ranking, prompt.judgments, k)
        found = any("the north" in TEXTS[key] for key in nearest(PROMPTS[3].text, k))
        assert scores["ship"] == {"answer_hit": float(found)}
    assert set(by_prompt(report, "sift", 5)["iron"]) == {
        *("alpha_ndcg", "intent_recall", "ndcg", "recall", "mrr", "hit")
    }
    assert report.metrics("retrieval")[0] == "ndcg"
    assert report.relevant["clocks"] == ("clocks-2", "clocks-0")
    row = next(row for row in report.rows if (row.method, row.k) == ("nearest", 5))
    assert row.sources == len({document.id[:2] for document in row.chosen})
    assert row.used == row.distinct == 5
    assert row.seconds == row.seconds_retrieval > 0


def test_the_documents_are_those_that_rag_and_fine_tuning_would_have(
    make_store: Callable[..., Chroma],
) -> None:
    report = compare(
        PROMPTS,
        ("sift", "rag:sift", "ttft:sift", "ttft:sift:replace"),
        vectorstore=make_store(TEXTS),
        protocols=("retrieval",),
        k=6,
        noise_variance=0.5,
    )
    chosen = {(row.method, row.prompt): row.chosen for row in report.rows}
    for prompt in PROMPTS:
        for method in ("rag:sift", "ttft:sift"):
            assert chosen["sift", prompt.id] == chosen[method, prompt.id]
        assert len({document.id for document in chosen["sift", prompt.id]}) == 6
    assert report.summary("retrieval")["ttft:sift:replace"].distinct_documents < 6


def test_copies_of_a_text_are_one_document(make_store: Callable[..., Chroma]) -> None:
    copied = {f"copy of {key}": text for key, text in TEXTS.items()}
    prompts = [Prompt("bread", "bread sold near the bridge", relevant=["copy of bread-0"])]

    def repeated(_: str) -> list[Document]:
        keys = ("bread-0", "copy of bread-0", "maps-1")
        return [Document(TEXTS[key.removeprefix("copy of ")], id=key) for key in keys]

    report = compare(
        prompts,
        ("nearest", "mine"),
        vectorstore=make_store(TEXTS | copied),
        protocols=("retrieval",),
        retrievers={"mine": RunnableLambda(repeated)},
        k=3,
    )
    ours, mine = report.rows
    assert ours.scores == mine.scores == {"ndcg": 1.0, "recall": 1.0, "mrr": 1.0, "hit": 1.0}
    assert ours.chosen[0].copies == 2
    assert (ours.distinct, mine.used, mine.distinct) == (3, 3, 2)
    assert mine.redundancy > 0.5
    assert not report.notes


def test_documents_that_the_store_lacks_are_relevant_and_reported(
    make_store: Callable[..., Chroma],
) -> None:
    ids = ["bread-0", *(f"lost-{n}" for n in range(7))]
    prompts = [
        Prompt("bread", "bread sold near the bridge", relevant=ids),
        Prompt("clocks", "clocks in winter", relevant=["clocks-2"]),
        Prompt("none", "what is not labelled"),
    ]
    store = make_store(TEXTS)
    report = compare(prompts, vectorstore=store, protocols=("retrieval",), k=4)
    assert by_prompt(report, "nearest", 4)["bread"]["recall"] == 1 / 8
    unlabelled, missing = report.notes
    assert unlabelled.startswith("1 of 3 prompts have neither relevant documents nor answers")
    assert missing.startswith(
        "7 of 9 relevant documents, of 1 prompt, are not in the store (lost-0"
    )
    assert "no method can find them" in missing
    assert report.to_json()["notes"] == list(report.notes)
    assert {row.prompt for row in report.rows} == {"bread", "clocks"}
    lost = [Prompt("bread", "bread", relevant=["x", "y"])]
    with pytest.raises(ArgumentError, match=r"none of the 2 relevant documents \(x, y\).*bread-0"):
        compare(lost, vectorstore=store, protocols=("retrieval",))
    with pytest.raises(ArgumentError, match='no prompt has "relevant" documents or "answers"'):
        compare(["bread"], vectorstore=store, protocols=("retrieval",))


def test_answers_that_no_document_contains_are_reported(make_store: Callable[..., Chroma]) -> None:
    answers = [("The North!",), ("no such answer", "ship"), ("nor this",), ("sh",)]
    prompts = [
        *(Prompt(str(n), "what came by ship", answers=each) for n, each in enumerate(answers)),
        Prompt("bread", "bread", relevant=["bread-0"], answers=("not read",)),
    ]
    store = make_store(TEXTS)
    report = compare(prompts, vectorstore=store, protocols=("retrieval",), k=len(TEXTS))
    contained = [any(contains_answer(text, each) for text in TEXTS.values()) for each in answers]
    assert contained == [True, True, False, False]
    hits = [by_prompt(report, "nearest", len(TEXTS))[str(n)]["answer_hit"] for n in range(4)]
    assert hits == contained
    (note,) = [note for note in report.notes if "answer" in note]
    assert "contains an answer of 2 of 4 prompts: no method can find one" in note


def test_the_answers_that_texts_contain_are_those_that_a_metric_finds_in_one() -> None:
    rng = random.Random(0)

    def sentence(length: int) -> str:
        return " ".join(rng.choices(("ab", "Abc", "a", "b-c", "日本", "é", "-"), k=length))

    texts = ["", *(sentence(rng.randint(1, 9)) for _ in range(8))]
    answers = [sentence(rng.randint(1, 4)) for _ in range(200)]
    runs = {answer: tuple(normalized(answer).split()) for answer in answers}
    found = {answer for answer in answers if any(contains_answer(t, [answer]) for t in texts)}
    assert 10 < len(found) < len(runs) - 10
    assert runs_in(iter(texts), {*runs.values(), ()}) == {runs[answer] for answer in found}
    assert runs_in(texts, set()) == set()


def test_labels_may_name_the_files_of_chunks(make_store: Callable[..., Chroma]) -> None:
    sources = {key: f"{key.partition('-')[0]}.txt" for key in TEXTS}
    prompts = [
        Prompt("bread", "bread sold near the bridge", relevant=["bread.txt", "maps.txt"]),
        Prompt("lost", "clocks in winter", relevant=["lost.txt"]),
    ]
    store = make_store(TEXTS, sources)
    report = compare(
        prompts,
        ("nearest",),
        vectorstore=store,
        protocols=("retrieval",),
        label_key="source",
        k=8,
    )
    names = [sources[key] for key in nearest(prompts[0].text, 8)]
    assert names.count("bread.txt") > 1
    expected = ranking_scores(names, prompts[0].judgments, 8)
    assert by_prompt(report, "nearest", 8) == {
        "bread": expected,
        "lost": dict.fromkeys(expected, 0),
    }
    assert "1 of 3 relevant documents" in report.notes[0]
    assert report.relevant["lost"] == ("lost.txt",)
    relevant = {"bread.txt", "maps.txt"}
    assert set(report.relevant["bread"]) == {key for key in sources if sources[key] in relevant}
    with pytest.raises(ArgumentError, match=r"metadata 'source' .* is such as 'bread.txt'"):
        compare(prompts[1:], vectorstore=store, protocols=("retrieval",), label_key="source")
    with pytest.raises(ArgumentError, match=r"no document has the metadata 'file'"):
        compare(prompts, vectorstore=store, protocols=("retrieval",), label_key="file")


def test_the_rows_of_a_file_are_shown_where_a_label_names_the_file(
    make_store: Callable[..., Chroma],
) -> None:
    sources = {key: f"{key.partition('-')[0]}.csv:1" for key in TEXTS}
    prompts = [Prompt("a", "bread", relevant=["maps.csv"])]
    store = make_store(TEXTS, sources)
    with pytest.raises(ArgumentError, match=r"'source' .* is such as 'maps.csv:1'"):
        compare(prompts, vectorstore=store, protocols=("retrieval",), label_key="source")
    prompts.append(Prompt("b", "clocks", relevant=["clocks.csv:1"]))
    report = compare(prompts, vectorstore=store, protocols=("retrieval",), label_key="source")
    assert (
        "(maps.csv); the metadata 'source' of its documents is such as 'maps.csv:1'."
        in (report.notes[0])
    )


def test_a_filter_hides_documents(make_store: Callable[..., Chroma]) -> None:
    store = make_store(TEXTS)
    report = compare(
        PROMPTS[:2],
        ("nearest",),
        vectorstore=store,
        protocols=("retrieval",),
        filter={"source": "br"},
        k=10,
    )
    assert by_prompt(report, "nearest", 10)["bread"]["recall"] == 1.0
    assert by_prompt(report, "nearest", 10)["clocks"]["recall"] == 0.0
    assert report.notes[0].startswith("2 of 4 relevant documents, of 1 prompt")


def test_a_run_that_was_cut_is_continued(make_store: Callable[..., Chroma], tmp_path: Path) -> None:
    store = make_store(TEXTS)

    def run(**more: object) -> Report:
        return compare(
            [*PROMPTS, Prompt("none", "no label")],
            vectorstore=store,
            protocols=("retrieval",),
            k=(1, 4),
            jobs=1,
            out=tmp_path,
            **more,
        )

    whole = run()
    rows = tmp_path / "results.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    assert len(lines) == 4 * 3 * 2
    rows.write_text("".join(lines[:9]) + lines[9][:20])
    seen = []
    again = run(resume=True, on_row=seen.append)
    assert len(seen) == len(lines)
    assert [row.scores for row in again.rows] == [row.scores for row in whole.rows]
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert kept[:8] == [json.loads(line) for line in lines[:8]]
    read = read_report(tmp_path)
    assert (read.rows, read.notes, read.relevant) == (again.rows, again.notes, again.relevant)


def test_the_metric_that_most_prompts_have_decides(make_store: Callable[..., Chroma]) -> None:
    store = make_store(TEXTS)
    for prompts in (PROMPTS, PROMPTS[::-1]):
        report = compare(prompts, vectorstore=store, protocols=("retrieval",), k=3)
        assert report.metrics("retrieval")[0] == "ndcg"


def test_the_verdict_is_against_nearest_neighbours(make_store: Callable[..., Chroma]) -> None:
    report = compare(PROMPTS, vectorstore=make_store(TEXTS), protocols=("retrieval",), k=3)
    finding = report.findings["retrieval"]
    assert "nDCG@3" in finding.verdict or "No method improved on nearest" in finding.verdict
    pairs = {(d.first, d.second) for d in finding.differences["ndcg"]}
    assert {("mmr", "nearest"), ("sift", "nearest")} <= pairs
    assert {d.prompts for d in finding.differences["ndcg"]} == {3}


@pytest.mark.parametrize(
    ("methods", "protocols", "message"),
    [
        (("base",), ("retrieval",), "'base' chooses no documents"),
        (("sift",), ("document",), "write rag:sift, ttft:sift or both:sift"),
        (("answers",), ("retrieval",), 'only the protocol "qa"'),
        ((), ("retrieval",), "no method to compare"),
        (("rag:sift",), ("document",), "give a model"),
        (("sift",), ("retreival",), "no protocol 'retreival'"),
    ],
)
def test_a_method_needs_a_protocol_that_measures_it(
    methods: tuple[str, ...],
    protocols: tuple[str, ...],
    message: str,
    make_store: Callable[..., Chroma],
) -> None:
    chain = RunnableLambda(lambda _: "so")
    with pytest.raises(ArgumentError, match=message):
        compare(
            PROMPTS,
            methods,
            vectorstore=make_store(TEXTS),
            protocols=protocols,
            chains={"answers": chain},
        )


def test_documents_and_answers_are_scored_in_one_run(
    make_store: Callable[..., Chroma],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    report = compare(
        PROMPTS,
        ("rag:nearest", "mmr"),
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=make_store(TEXTS),
        protocols=("qa", "retrieval"),
        k=2,
        max_tokens=2,
    )
    measured = {(row.protocol, row.method) for row in report.rows}
    assert measured == {
        ("qa", "base"),
        ("qa", "rag:nearest"),
        ("retrieval", "rag:nearest"),
        ("retrieval", "mmr"),
    }
    assert {row.failure for row in report.rows} == {None}
    assert report.metrics("retrieval")[0] == "ndcg"
    assert "contains" in report.metrics("qa")


WRONG = (5, 2.5, "x", ["x"], {"a": 1}, [1.5], object(), True, ("a", 1), b"z", {1: 2})
ARGUMENTS = sorted(set(signature(compare).parameters) - {"vectorstore", "model", "tokenizer"})


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_value_of_another_type_is_an_error_of_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(["bread", "river", "clock"], ids=["1", "2", "3"])
    given = {
        "prompts": [Prompt("1", "q", relevant=["1"])],
        "methods": ["nearest"],
        "protocols": ["retrieval"],
        "k": 2,
    }
    for wrong in WRONG:
        with suppress(SIFTError):  # some of them are right
            compare(vectorstore=store, **{**given, name: wrong})  # type: ignore[arg-type]


def test_a_filter_that_matches_nothing_is_named() -> None:
    store = Chroma(uuid.uuid4().hex, embedding_function=DeterministicFakeEmbedding(size=8))
    store.add_texts(["bread", "river"], metadatas=[{"source": "a"}] * 2, ids=["1", "2"])
    prompts = [Prompt("1", "q", relevant=["1"])]
    with pytest.raises(ArgumentError, match=r"nothing matches \{'source': 'b'\}"):
        compare(prompts, ["nearest"], vectorstore=store, protocols=["retrieval"],
                filter={"source": "b"})  # fmt: skip
    store.delete(["1", "2"])
    with pytest.raises(ArgumentError, match="the store is empty"):
        compare(prompts, ["nearest"], vectorstore=store, protocols=["retrieval"])
