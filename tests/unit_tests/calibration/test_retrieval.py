"""Calibrate retrieval without a language model, with labels and without."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift import SIFTRetriever
from langchain_sift.calibration import calibrate_retrieval
from langchain_sift.calibration.made_queries import made_queries, sentences_of
from langchain_sift.calibration.retrieval import kernels_to_try
from langchain_sift.comparison import Prompt
from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.report.ranking import ranking_scores
from langchain_sift.retrieval.defaults import (
    DEFAULT_SETTINGS,
    DEFAULT_SETTINGS_RBF,
    KernelSettings,
)
from langchain_sift.stores.calls import run
from langchain_sift.stores.interface import blocking_adapter_for
from langchain_sift.stores.sampling import sampled_rows

pytestmark = pytest.mark.slow

WORDS = ["river", "bread", "clock", "map", "iron", "harbour", "seed", "comet", "king", "winter"]
FILLERS = ["also", "indeed", "however", "thus"]


def facts(copies: int = 1, count: int = 40) -> list[Document]:
    """Return texts of three sentences; each copy has another filler."""
    rng = random.Random(3)
    documents = []
    for n in range(count):
        sentences = [
            " ".join([*rng.choices(WORDS, k=6), f"number{n}", f"part{part}"]) + "."
            for part in range(3)
        ]
        text = " ".join(sentences)
        documents += [
            Document(f"{text} {FILLERS[copy]}" if copy else text, id=f"{n}-{copy}")
            for copy in range(copies)
        ]
    return documents


def store_of(documents: list[Document]) -> InMemoryVectorStore:
    store = InMemoryVectorStore(WordEmbeddings())
    store.add_documents(documents)
    return store


def questions(count: int = 20) -> list[Prompt]:
    """Return questions about two facts at once, with the copies of both as intents."""
    prompts = []
    for n in range(count):
        other = (n + 7) % 40
        relevant = [[f"{fact}-{copy}" for copy in range(4)] for fact in (n, other)]
        text = f"number{n} part0 part1 number{other} part0"
        prompts.append(Prompt(id=f"q{n}", text=text, relevant=relevant))
    return prompts


@pytest.mark.parametrize("metric", ["ndcg", "intent_recall"])
def test_scores_are_those_of_a_retriever_with_the_same_settings(metric: str) -> None:
    store, prompts = store_of(facts(copies=4)), questions()
    found = calibrate_retrieval(store, prompts, metric=metric, k=6, fetch_k=60)
    assert found.queries == 20

    def score(**settings: object) -> float:
        retriever = SIFTRetriever(vectorstore=store, k=6, fetch_k=60, **settings)
        scores = []
        for prompt in prompts:
            ids = [str(document.id) for document in retriever.invoke(prompt.text)]
            scores.append(ranking_scores(ids, prompt.judgments, 6)[metric])
        return sum(scores) / len(scores)

    assert found.nearest[0] == pytest.approx(score(search_type="similarity"))
    by_settings = {point.settings: point.scores[0] for point in found.kernels}
    kernels = kernels_to_try(WordEmbeddings())
    assert set(by_settings) == set(kernels)
    for settings in kernels[::5]:
        assert by_settings[settings] == pytest.approx(
            score(
                kernel=settings.kernel,
                length_scale=settings.length_scale,
                noise_variance=settings.noise_variance,
            )
        )
    chosen = found.settings.retrieval
    same_k = SIFTRetriever.from_settings(found.settings, vectorstore=store, k=6)
    assert (same_k.kernel, same_k.fetch_k) == (chosen.kernel, 60)
    assert score(
        kernel=chosen.kernel,
        length_scale=chosen.length_scale,
        noise_variance=chosen.noise_variance,
    ) == pytest.approx(max(by_settings.values()))


def test_copies_and_questions_of_two_parts_make_a_gain_that_held_out_queries_confirm() -> None:
    found = calibrate_retrieval(store_of(facts(copies=4)), questions(), metric="intent_recall", k=4)
    (held_out,) = found.held_out
    assert found.verdict == "better"
    assert held_out.gain.low > 0
    assert held_out.kind == "intent_recall"
    assert [point.k for point in found.counts] == [1, 2, 4]
    assert [point.score for point in found.counts] == sorted(p.score for p in found.counts)
    printed = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert printed["settings"]["retrieval"]["kernel"] == found.selection.kernel


def test_answers_are_found_in_the_texts_and_missing_labels_are_reported() -> None:
    store = store_of(facts())
    prompts = [
        Prompt(id=str(n), text=f"number{n} part0", answers=(f"number{n} part1",)) for n in range(20)
    ]
    found = calibrate_retrieval(store, [*prompts, Prompt(id="x", text="no label")], k=3)
    assert found.held_out[0].kind == "answer_hit"
    hits = [
        any(
            prompt.answers[0] in text.page_content
            for text in store.similarity_search(prompt.text, 3)
        )
        for prompt in prompts
    ]
    assert found.nearest[0] == pytest.approx(sum(hits) / len(hits))
    assert 0 < found.nearest[0] < 1
    assert found.queries == 20
    assert any("1 of 21 prompts" in note for note in found.notes)
    assert any("20 queries are few" in note for note in found.notes)
    both = [*questions(12), Prompt(id="y", text="only answers", answers=("a",))]
    both[0] = Prompt(id="q0", text="number0", relevant=["0-0", "no such id"])
    notes = " ".join(calibrate_retrieval(store_of(facts(copies=4)), both, k=3).notes)
    assert "no such id" in notes
    assert "1 queries have other labels" in notes


def test_queries_that_find_nothing_choose_nothing() -> None:
    store = store_of(facts())
    unanswered = [
        Prompt(id=str(n), text=f"number{n} part0", answers=(f"number{n} nowhere",))
        for n in range(20)
    ]
    with pytest.raises(ArgumentError, match=r"for any query \(answer_hit is 0\).*k, which is 3"):
        calibrate_retrieval(store, unanswered, k=3)
    # Texts that are in the store, and far from the query.
    far = [Prompt(id=str(n), text=f"number{n} part0", relevant=[f"{n + 15}-0"]) for n in range(12)]
    with pytest.raises(ArgumentError, match=r"for any query \(hit is 0\).*k, which is 1"):
        calibrate_retrieval(store, far, metric="hit", k=1, fetch_k=1)
    some = [replace(each, answers=("part1",)) for each in unanswered[:12]]
    notes = calibrate_retrieval(store, [*some, *unanswered[12:]], k=3).notes
    assert "contains an answer of 8 of 20 prompts" in notes[0]


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({}, DEFAULT_SETTINGS),
        ({"noise_variance": 10.0}, replace(DEFAULT_SETTINGS, noise_variance=10.0)),
        (
            {"noise_variance": 7.5, "length_scale": 0.3},
            replace(DEFAULT_SETTINGS, noise_variance=7.5),
        ),
        ({"kernel": "rbf"}, DEFAULT_SETTINGS_RBF),
        ({"kernel": "rbf", "length_scale": 0.33}, replace(DEFAULT_SETTINGS_RBF, length_scale=0.33)),
    ],
)
def test_of_equal_settings_the_default_of_the_embeddings_is_chosen(
    defaults: dict[str, object], expected: KernelSettings
) -> None:
    embeddings = WordEmbeddings()
    vars(embeddings).update(defaults)
    store = InMemoryVectorStore(embeddings)
    store.add_documents(facts())
    # A text itself is the query: all settings find it first.
    labelled = [
        Prompt(id=fact.id, text=fact.page_content, relevant=[fact.id]) for fact in facts()[:12]
    ]
    found = calibrate_retrieval(store, labelled, metric="mrr", k=2)
    assert {point.scores for point in found.kernels} == {(1.0,)}
    assert len({point.settings for point in found.kernels}) == len(found.kernels)
    chosen = found.selection
    assert (chosen.kernel, chosen.noise_variance) == (expected.kernel, expected.noise_variance)
    if chosen.kernel == "rbf":
        assert chosen.length_scale == expected.length_scale


def test_bad_input_is_named() -> None:
    store, prompts = store_of(facts()), questions()
    for change, message in (
        ({"metric": "ndgc"}, "ndgc"),
        ({"metric": "answer_hit"}, "no query has the labels of the metric 'answer_hit'"),
        ({"k": 0}, "k must be"),
        ({"fetch_k": 1.5}, "fetch_k must be"),
        ({"prompts": 0}, "prompts must be"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            calibrate_retrieval(store, prompts, **change)
    unknown = [Prompt(id=str(n), text="river", relevant=[f"none{n}"]) for n in range(12)]
    with pytest.raises(ArgumentError, match="none of the 12 relevant documents"):
        calibrate_retrieval(store, unknown)
    with pytest.raises(CorpusError, match="at least 10 queries of different sources; got 9"):
        calibrate_retrieval(store, prompts[:9])
    equal = [replace(prompts[0], id=str(n)) for n in range(12)]
    with pytest.raises(CorpusError, match="got 1 among 12 queries: equal ones count as one"):
        calibrate_retrieval(store, equal)
    with pytest.raises(CorpusError, match="at least 10 different texts with a vector"):
        calibrate_retrieval(store_of(facts(count=9)))


def test_without_labels_copies_lead_to_diverse_settings_and_unique_texts_to_safe_ones() -> None:
    unique, copied = (calibrate_retrieval(store_of(facts(n)), k=5, prompts=40) for n in (1, 4))
    for found in (unique, copied):
        assert [held_out.kind for held_out in found.held_out] == ["one sentence", "two sentences"]
        assert not found.labelled
        assert found.selection.k == 5
        best = max(point.scores[0] for point in found.kernels)
        (chosen,) = (
            point.scores[0]
            for point in found.kernels
            if point.settings.kernel == found.selection.kernel
            and point.settings.noise_variance == found.selection.noise_variance
            and found.selection.length_scale in {None, point.settings.length_scale}
        )
        assert chosen >= 0.92 * best
    assert copied.verdict == "better"
    gains = [found.held_out[-1].gain.value for found in (unique, copied)]
    assert gains[1] > gains[0]


def test_a_made_query_hides_its_text_and_knows_the_texts_that_answer_it() -> None:
    store = Chroma("made", WordEmbeddings())
    try:
        store.add_documents(facts(copies=2))
        adapter = blocking_adapter_for(store)
        sample = run(sampled_rows(12, 0), adapter, timeout=30, arguments={})
        made = list(made_queries(store, sample, fetch_k=100, seed=0))
        for number, (row, (sentence, pair)) in enumerate(zip(sample, made, strict=True)):
            fact = row.document.id.split("-")[0]
            other = sample[(number + 1) % len(sample)].document.id.split("-")[0]
            # The text and its near copy are neither candidates nor relevant.
            assert not {f"{fact}-0", f"{fact}-1"} & {
                *sentence.names,
                *sentence.label.judgments.grades,
            }
            intents = [{name.split("-")[0] for name in i} for i in pair.label.judgments.intents]
            assert intents == [{fact}, {other}]
            # Both copies of a fact answer, and are one intent.
            assert all(len(intent) == 2 for intent in pair.label.judgments.intents)
            assert 1 <= len(sentence.label.judgments.intents) <= 10
    finally:
        store.delete_collection()


CHINESE = (
    "第一个句子足够长，它用来测试没有空格的语言的分割方法。"
    "第二个句子也足够长，同样用来测试这种语言的分割方法。"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A sentence that is long enough. Short. Another sentence that is long enough!", 2),
        (CHINESE, 2),
        ("line one that is long enough\nline two that is long enough", 2),
        ("Version 1.2.3 of the long sentence stays whole. The next long sentence, too.", 2),
        ("one sentence and nothing else", 1),
        ("x", 1),
    ],
    ids=["sentences", "chinese", "lines", "numbers", "one", "character"],
)
def test_texts_of_any_language_are_split_into_parts(text: str, expected: int) -> None:
    parts = sentences_of(text)
    assert len(parts) == expected
    assert all(part and part in text for part in parts)
    assert len(text) == 1 or text not in parts


def test_retrieval_is_calibrated_without_pytorch() -> None:
    code = (
        "import sys; from langchain_sift.calibration import calibrate_retrieval; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
