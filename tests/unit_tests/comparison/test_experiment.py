"""Every method is measured on every prompt, and a failure affects one row."""

from __future__ import annotations

import copy
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from langchain_chroma import Chroma
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import FineTuneConfig, compare, create_ttft_chain
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable, TableSettings
from langchain_sift.calibrated_settings import CalibratedSelection, CalibratedSettings
from langchain_sift.calibration import mode_table
from langchain_sift.calibration.mode_figures import mode_table_of_run
from langchain_sift.comparison import Prompt
from langchain_sift.comparison.run_folder import read_report
from langchain_sift.config import MODES
from langchain_sift.embeddings import HiddenStateEmbeddings
from langchain_sift.errors import ArgumentError, CollectionNotFound
from langchain_sift.report.files import write_report
from langchain_sift.report.rows import ChosenDocument, Row, plain
from langchain_sift.selection import select
from langchain_sift.ttft.training.tasks import TrainingTask
from langchain_sift.ttft.training.trainer import Trainer

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from langchain_sift.comparison import Report

FINETUNE = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=5e-3, max_length=48)
PROMPTS = [
    Prompt("one", "The river carries warm bread in winter, 12 times.", "a"),
    Prompt("two", "Every comet repairs a broken clock at sea, 7 times.", "b"),
]
METHODS = ("base", "rag:sift", "ttft:nearest", "ttft:sift", "ttft:sift:replace", "ttft:random")


@pytest.fixture
def report(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> Report:
    return compare(
        PROMPTS,
        METHODS,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        protocols=("document", "continuation"),
        k=6,
        fetch_k=30,
        noise_variance=1.0,
        finetune=FINETUNE,
        out=str(tmp_path),
    )


def test_each_method_and_prompt_has_a_row_in_the_folder(report: Report, tmp_path: Path) -> None:
    keys = [(row.protocol, row.prompt, row.method) for row in report.rows]
    expected = [
        (protocol, prompt.id, method)
        for protocol in ("document", "continuation")
        for prompt in PROMPTS
        for method in METHODS
    ]
    assert keys == expected
    assert all(row.failure is None for row in report.rows)
    read = read_report(tmp_path)
    assert read.rows == report.rows
    assert read.texts == report.texts
    assert read.prompt_texts == report.prompt_texts
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["bits"] for line in lines) == sorted(
        row.bits for row in report.rows
    )


def test_bits_of_the_base_model_are_its_loss(
    report: Report, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    row = report.rows[0]
    ids = [tiny_tokenizer.bos_token_id, *tiny_tokenizer(PROMPTS[0].text)["input_ids"]]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        loss = tiny_model(input_ids=tokens, labels=tokens).loss.item()
    assert row.bits == pytest.approx(loss * (len(ids) - 1) / math.log(2), rel=1e-4)
    assert row.bytes == len(PROMPTS[0].text)


@pytest.mark.parametrize("method", ["ttft:sift", "ttft:sift:replace"])
def test_documents_are_chosen_as_select_does_and_repeated_only_if_asked(
    report: Report, store: Chroma, method: str
) -> None:
    stored = store.get(include=["embeddings", "documents"])
    rows = np.array(stored["embeddings"])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query = np.array(store.embeddings.embed_query(PROMPTS[0].text))
    query /= np.linalg.norm(query)
    nearest = np.argsort(-(rows @ query), kind="stable")[:30]
    repeats = method.endswith("replace")
    expected = select(query, rows[nearest], k=6, noise_variance=1.0, replace=repeats)
    by_method = {row.method: row for row in report.rows[: len(METHODS)]}
    ids = [document.id for document in by_method[method].chosen]
    assert (len(set(ids)) < 6) is repeats
    assert ids == [stored["ids"][nearest[index]] for index in expected.indices]
    for other in ("rag:sift", "ttft:nearest", "ttft:random"):
        row = by_method[other]
        assert len({document.id for document in row.chosen}) == 6, other
    variances = [d.posterior_variance for d in by_method[method].chosen]
    assert variances == pytest.approx(list(expected.posterior_variances), abs=1e-6)


def test_fine_tuning_on_similar_documents_helps(report: Report) -> None:
    for protocol in report.protocols:
        assert report.summary(protocol)["ttft:sift"].percent_of_base < 100


def test_a_failure_affects_one_prompt_and_its_rows_hold_the_reason(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    report = compare(
        ["word", "The river carries warm bread."],
        ("ttft:sift",),
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        protocols=("continuation",),
        k=2,
        finetune=FINETUNE,
    )
    failed, scored = report.rows[:2], report.rows[2:]
    assert [row.method for row in failed] == ["base", "ttft:sift"]
    assert all("single word" in str(row.failure) and math.isnan(row.bits) for row in failed)
    assert all(row.failure is None for row in scored)
    assert report.summary("continuation")["ttft:sift"].failures == 1


def test_a_deleted_collection_is_reported_before_the_work(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    store._client.delete_collection(store._collection.name)
    with pytest.raises(CollectionNotFound):
        compare(PROMPTS, model=tiny_model, tokenizer=tiny_tokenizer, vectorstore=store)


def run(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    methods: Sequence[str],
    **settings: object,
) -> Report:
    return compare(
        settings.pop("prompts", PROMPTS),
        methods,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        finetune=FINETUNE,
        **{"noise_variance": 1.0, "fetch_k": 30, "k": 6, **settings},
    )


class SeededEmbeddings(Embeddings):
    """A different vector for each text and seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def embed_query(self, text: str) -> list[float]:
        return np.random.default_rng([self.seed, *text.encode()]).normal(size=8).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def test_the_default_noise_variance_is_that_of_the_embeddings(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    for given, expected in ((None, HiddenStateEmbeddings.noise_variance), (0.3, 0.3)):
        report = run(tiny_model, tiny_tokenizer, store, ("rag:sift",), noise_variance=given)
        assert report.settings["noise_variance"] == expected


@pytest.mark.slow
def test_several_k_in_one_run_give_the_rows_of_each_alone(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    methods = ("rag:sift", "ttft:sift", "ttft:nearest", "ttft:hull", "both:sift", "ttft:random")
    together = run(tiny_model, tiny_tokenizer, store, methods, k=(2, 6, 4))
    assert together.ks == (2, 4, 6)
    for k in together.ks:
        alone = run(tiny_model, tiny_tokenizer, store, methods, k=k)
        expected = {row.key: row for row in alone.rows}
        for row in together.select("document", k=k):
            other = expected[row.key]
            assert row.bits == pytest.approx(other.bits, rel=1e-5), row.key
            ids = [document.id for document in row.chosen]
            assert ids == [document.id for document in other.chosen]
            assert row.used_indices == other.used_indices
            assert row.tokens_training == other.tokens_training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ttft:sift", "ttft:hull", "rag:hull"])
def test_adaptive_stopping_takes_the_beginning_of_the_choice(
    name: str, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    alphas = (0.05, 0.3, 1.0)
    methods = [name, *(f"{name}:stopping_alpha={alpha}" for alpha in alphas)]
    report = run(tiny_model, tiny_tokenizer, store, methods, k=12)
    whole = {row.prompt: row for row in report.rows if row.method == name}
    lengths = []
    for row in report.rows:
        if row.method in methods[1:]:
            alpha = float(row.method.partition("=")[2])
            chosen = whole[row.prompt].chosen
            # The first n with a deviation above 1 / (alpha n): arXiv 2410.08020, section 5.
            enough = [
                n
                for n, document in enumerate(chosen, start=1)
                if math.sqrt(document.posterior_variance) > 1 / (alpha * n)
            ]
            assert row.chosen == chosen[: (enough or [12])[0]]
            lengths.append(len(row.chosen))
            alone = run(tiny_model, tiny_tokenizer, store, [row.method], k=12)
            other = next(r for r in alone.rows if r.key == row.key)
            assert row.bits == pytest.approx(other.bits, rel=1e-5)
    assert min(lengths) < 12


@pytest.mark.slow
def test_prompts_trained_together_have_the_rows_of_each_alone(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    prompts = [f"The river carries warm bread in winter, {n} times." for n in range(5)]
    methods = ("ttft:sift", "ttft:nearest-repeated", "ttft:uncertainty", "ttft:mmr")
    alone = run(tiny_model, tiny_tokenizer, store, methods, prompts=prompts, jobs=1)
    together = run(tiny_model, tiny_tokenizer, store, methods, prompts=prompts, jobs=3)
    assert [row.key for row in alone.rows] == [row.key for row in together.rows]
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.bits == pytest.approx(other.bits, rel=1e-5)


@pytest.mark.slow
def test_every_search_and_mode_has_documents(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    methods = ("ttft:sift:residual", "ttft:sift:exhaustive", "both:sift:noise_variance=0.01")
    report = run(tiny_model, tiny_tokenizer, store, methods)
    assert all(row.failure is None for row in report.rows)
    by_key = {row.key: row for row in report.rows}
    residual, exhaustive, both = (by_key["document", "one", name, 6] for name in methods)
    least = exhaustive.chosen[-1].posterior_variance
    assert residual.chosen[-1].posterior_variance == pytest.approx(least, rel=0.2)
    assert both.tokens_context > by_key["document", "one", "base", 0].tokens_context
    assert both.tokens_training > 0
    assert 0 < both.redundancy <= 1


def test_a_users_retriever_is_a_selection(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 9})
    broken = RunnableLambda(lambda query: [query])
    coroutine = RunnableLambda(retriever.ainvoke)
    report = run(
        tiny_model,
        tiny_tokenizer,
        store,
        ("rag:mine", "ttft:mine", "ttft:nearest", "rag:broken", "rag:coroutine"),
        retrievers={"mine": retriever, "broken": broken, "coroutine": coroutine},
        k=(3, 6),
    )
    by_key = {row.key: row for row in report.rows}
    for k in (3, 6):
        mine, nearest = (by_key["document", "one", f"ttft:{n}", k] for n in ("mine", "nearest"))
        assert [d.id for d in mine.chosen] == [d.id for d in nearest.chosen]
        assert mine.bits == pytest.approx(nearest.bits, rel=1e-5)
        failed = by_key["document", "one", "rag:broken", k]
        assert "a list of Documents, got a list with str" in str(failed.failure)
        same, rag = (by_key["document", "one", f"rag:{n}", k] for n in ("coroutine", "mine"))
        assert (same.failure, same.chosen, same.bits) == (None, rag.chosen, rag.bits)


def test_a_comparison_with_other_settings_is_not_continued(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = [f"The river carries warm bread in winter, {n} times." for n in range(6)]
    prompt = Prompt("p", "What?", answers=("bread",), choices=("a", "b"), correct=0)

    def resume(seed: int = 0, prompt: Prompt = prompt, *methods: str, **named: object) -> Report:
        store = InMemoryVectorStore(SeededEmbeddings(seed))
        store.add_texts(texts, ids=[str(n) for n in range(6)])
        more = {"protocols": ("qa",), "max_tokens": 1, "k": 2, "out": tmp_path, "resume": True}
        methods = methods or ("rag:sift",)
        return run(tiny_model, tiny_tokenizer, store, methods, prompts=[prompt], **more, **named)

    rows = resume().rows
    for change, value in (
        ("text", "Who?"),
        ("group", "g"),
        ("source", "s"),
        ("answers", ("rice",)),
        ("choices", ("a", "c")),
        ("correct", 1),
    ):
        with pytest.raises(ArgumentError, match=r"other settings \(prompts was"):
            resume(prompt=replace(prompt, **{change: value}))
    with pytest.raises(ArgumentError, match=r"other settings \(vectors was"):
        resume(seed=1)
    for kind, runnable in (
        ("retrievers", RunnableLambda(str)),
        ("chains", RunnableLambda(str)),
        ("scorers", lambda *_: 1.0),
    ):
        with pytest.raises(ArgumentError, match=rf"other settings \({kind} was \[\], is \['mine'"):
            resume(**{kind: {"mine": runnable}})
    assert resume().rows == rows


def test_failures_are_repeated(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> None:
    queries: list[str] = []

    def down_at_first(query: str) -> list[Document]:
        queries.append(query)
        if len(queries) == 2:
            raise ConnectionError("down")
        return [Document("Bread is baked.", id="own")]

    def run_again() -> Report:
        mine = {"mine": RunnableLambda(down_at_first)}
        settings = {"retrievers": mine, "jobs": 1, "out": tmp_path, "resume": True}
        return run(tiny_model, tiny_tokenizer, store, ("rag:mine",), k=1, **settings)

    failures = [row.failure for row in run_again().rows]
    assert failures == [None, None, None, "ConnectionError: down"]
    assert [row.failure for row in run_again().rows] == [None] * 4
    assert queries == [PROMPTS[0].text, PROMPTS[1].text, PROMPTS[1].text]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4
    assert read_report(tmp_path).rows == run_again().rows
    assert len(queries) == 3


@pytest.mark.parametrize("rows", [0, 3, 6, 9, 12, 15])
def test_a_resumed_comparison_has_the_rows_of_one_without_interruption(
    rows: int,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> None:
    """In bfloat16 a number depends on its batch, and a batch on what other methods have done."""
    model = copy.deepcopy(tiny_model).to(torch.bfloat16)
    methods = ("rag:nearest", "rag:sift", "auto:sift", "ttft:sift", "both:sift")
    options: dict[str, Any] = {
        "prompts": QUESTIONS,
        "protocols": ("qa",),
        "k": 2,
        "max_tokens": 3,
    }
    found = run(model, tiny_tokenizer, store, ("ttft:sift",), **options).rows
    sigmas = sorted(row.posterior_std for row in found if row.chosen)
    # The base model for the first of three prompts, both for the others.
    chosen = [
        ModeBin(sigma + 1e-9, 5, {"base": ModeFigures(0.0, 1.0), "both": ModeFigures(gain, 2.0)})
        for sigma, gain in ((sigmas[0], 0.0), (1.0, 1.0))
    ]
    selection = CalibratedSelection(1.0, 2, 30)
    settings = CalibratedSettings(selection, modes=ModeTable(tuple(chosen)))
    options |= {"settings": settings, "out": tmp_path}
    whole = run(model, tiny_tokenizer, store, methods, **options)
    file = tmp_path / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:rows]))
    seen: list[Row] = []
    resumed = run(model, tiny_tokenizer, store, methods, **options, resume=True, on_row=seen.append)
    assert [plain(timeless(row)) for row in resumed.rows] == [
        plain(timeless(row)) for row in whole.rows
    ]
    assert len(seen) == len(file.read_text().splitlines()) == len(lines)
    assert file.read_text().splitlines(keepends=True)[:rows] == lines[:rows]


def timeless(row: Row) -> Row:
    return replace(row, seconds_retrieval=0.0, seconds_training=0.0, seconds_answering=0.0)


QUESTIONS = [
    Prompt(
        "q1",
        "What does the river carry?",
        answers=("warm bread",),
        choices=("bread", "no"),
        correct=0,
    ),
    Prompt("q2", "Who repairs the clock?", answers=("a comet", "comet")),
    Prompt("q3", "Where?", relevant=["d1"]),
]


def test_questions_are_answered_and_scored(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    chain = RunnableLambda(lambda question: {"answer": "A comet." if "Who" in question else "?"})
    report = run(
        tiny_model,
        tiny_tokenizer,
        store,
        ("rag:sift", "ttft:sift", "api"),
        prompts=QUESTIONS,
        protocols=("qa",),
        chains={"api": chain},
        scorers={"short": lambda answer, prompt: float(len(answer) < len(prompt.text))},
        k=(2, 4),
        max_tokens=6,
    )
    assert [row.failure for row in report.rows] == [None] * len(report.rows)
    by_key = {row.key: row for row in report.rows}
    api = by_key["qa", "q2", "api", 0]
    assert api.answer == "A comet."
    assert api.scores == {"exact_match": 1.0, "f1": 1.0, "contains": 1.0, "short": 1.0}
    base = by_key["qa", "q1", "base", 0]
    accuracies = {"accuracy", "accuracy_norm"}
    assert set(base.scores) == {*accuracies, "exact_match", "f1", "contains", "short"}
    assert base.bytes == len(" warm bread")
    unanswerable = by_key["qa", "q3", "ttft:sift", 4]
    assert set(unanswerable.scores) == {"short"}
    assert math.isnan(unanswerable.bits)
    metrics = {"exact_match", "f1", "contains", *accuracies, "short", "percent_of_base"}
    assert set(report.metrics("qa")) == metrics
    assert report.summary("qa")["api"].scores["exact_match"] == 0.5


def test_the_reasoning_of_a_chain_is_not_its_answer(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    answers = {
        "plain": "A comet.",
        "reasons": "\n<think>\nNot a miller.\n</think>\n\nA comet.",
        "reasons in other markers": "[THINK]Not a miller.[/THINK]A comet.",
        "begun by the prompt": "Not a miller.\n</think>\n\nA comet.",
        "a message": AIMessage("<think></think> A comet."),
        "later": "A comet. <think>Not a miller.</think>",
        "cut": "<think>Perhaps a comet. A comet",
    }
    chains = {
        name: RunnableLambda(lambda _, answer=answer: answer) for name, answer in answers.items()
    }
    options: dict[str, Any] = {"protocols": ("qa",), "k": 1, "max_tokens": 2}
    report = run(
        tiny_model,
        tiny_tokenizer,
        store,
        (*chains,),
        prompts=QUESTIONS[1:2],
        chains=chains,
        **options,
    )
    found = {row.method: row.answer for row in report.rows if row.method in chains}
    other = {"later": answers["later"], "cut": ""}
    assert found == {**dict.fromkeys(chains, "A comet."), **other}


def test_a_scorer_may_return_nan(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> None:
    def long(_: str, prompt: Prompt) -> float:
        return math.nan if prompt.id == "q3" else float(len(prompt.text))

    more = {"protocols": ("qa",), "scorers": {"long": long}, "max_tokens": 1, "out": tmp_path}
    report = run(tiny_model, tiny_tokenizer, store, (), prompts=QUESTIONS, **more)
    lengths = [len(prompt.text) for prompt in QUESTIONS[:2]]
    assert [row.scores.get("long") for row in report.rows] == [*lengths, None]
    assert report.summary("qa")["base"].scores["long"] == sum(lengths) / 2
    again = read_report(tmp_path)
    assert [row.scores for row in again.rows] == [row.scores for row in report.rows]
    assert write_report(again, tmp_path).path == tmp_path / "report.html"


def test_the_likeliest_choice_is_the_one_with_the_least_loss(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    choices = ("bread", "in winter", "zzzz qqqq")
    losses = []
    for choice in choices:
        context = tiny_tokenizer("Question: What?\nAnswer:")["input_ids"]
        if context[0] != tiny_tokenizer.bos_token_id:
            context = [tiny_tokenizer.bos_token_id, *context]
        target = tiny_tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[*context, *target]])
        with torch.no_grad():
            logits = tiny_model(input_ids=tokens).logits.log_softmax(-1)
        positions = range(len(context) - 1, len(context) + len(target) - 1)
        losses.append(-sum(logits[0, p, t].item() for p, t in zip(positions, target, strict=True)))
    right = losses.index(min(losses))
    by_length = [loss / len(choice) for loss, choice in zip(losses, choices, strict=True)]
    right_by_length = by_length.index(min(by_length))
    for correct in range(3):
        prompt = Prompt("p", "What?", choices=choices, correct=correct)
        report = run(
            tiny_model, tiny_tokenizer, store, (), prompts=[prompt], protocols=("qa",), max_tokens=1
        )
        assert report.rows[0].scores == {
            "accuracy": float(correct == right),
            "accuracy_norm": float(correct == right_by_length),
        }


def test_leaks_are_reported_or_excluded(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    stored = store.get(limit=1, include=["documents"])
    prompts = [*PROMPTS, Prompt("held", stored["documents"][0])]
    reported = run(tiny_model, tiny_tokenizer, store, (), prompts=prompts)
    assert "an exact copy" in reported.leaks["held"]
    assert reported.prompts("document") == 3
    without = run(tiny_model, tiny_tokenizer, store, (), prompts=prompts, leaks="exclude")
    assert {row.prompt for row in without.rows} == {p.id for p in prompts} - set(reported.leaks)
    with pytest.raises(ArgumentError, match="none is left"):
        run(tiny_model, tiny_tokenizer, store, (), prompts=prompts[2:], leaks="exclude")
    assert run(tiny_model, tiny_tokenizer, store, (), leaks="ignore").leaks == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("ttft:shift",)}, "'ttft:shift'.*ttft:sift"),
        ({"methods": ("sift",)}, "'sift'"),
        ({"protocols": ("paper",)}, "'paper'.*document, continuation"),
        ({"k": 0}, "k must be.*0"),
        ({"noise_variance": 0.0}, "noise_variance"),
        ({"k": ()}, "k must be"),
        ({"jobs": 0}, "jobs must be an integer of at least 1, got 0"),
        ({"leaks": "maybe"}, "report, exclude, ignore, got 'maybe'"),
        ({"methods": ("api",), "chains": {"api": RunnableLambda(str)}}, 'only the protocol "qa"'),
        ({"prompts": "one text"}, "prompts must be a sequence of Prompt or str, got one str"),
        ({"prompts": [None]}, "prompts must be .*, got NoneType at index 0"),
        ({"methods": "base"}, "methods must be a sequence of .*'base'"),
        ({"protocols": "qa"}, "protocols must be a sequence of .*'qa'"),
        ({"finetune": {"lora_rank": 2}}, "finetune must be a FineTuneConfig, got a dict"),
        ({"chains": {"api": str}}, "the chain 'api' must be a runnable .*, got a type"),
        ({"retrievers": {"mine": "x"}}, "the retriever 'mine' must be a runnable .*, got a str"),
        ({"scorers": {"mine": 1}, "protocols": ("qa",)}, "the scorer 'mine' .*, got a int"),
        *(
            ({"scorers": {name: len}, "protocols": ("qa",)}, f"'{name}' cannot name a scorer")
            for name in ("", "f1", "accuracy", "judged_correct", "percent_of_base")
        ),
    ],
)
def test_bad_arguments_are_rejected_before_the_work(
    change: dict[str, object], message: str, store: Chroma
) -> None:
    settings: Any = {"prompts": PROMPTS, "model": "never/loaded", "vectorstore": store, **change}
    with pytest.raises(ArgumentError, match=message):
        compare(**settings)


def test_a_chain_gets_the_question_in_the_form_that_it_takes(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    llm = FakeListChatModel(responses=["an answer"])
    asked: list[str] = []
    retriever = RunnableLambda(lambda question: asked.append(question) or [])
    prompt = PromptTemplate.from_template("{context} {input}")
    chains = {
        "ours": create_ttft_chain(llm, retriever),
        "langchains": create_retrieval_chain(
            itemgetter("input") | retriever, create_stuff_documents_chain(llm, prompt)
        ),
        "text": retriever | (lambda _: "an answer"),
    }
    options: dict[str, Any] = {"prompts": QUESTIONS, "protocols": ("qa",), "k": 1, "max_tokens": 2}
    report = run(tiny_model, tiny_tokenizer, store, (*chains,), chains=chains, **options)
    rows = [row for row in report.rows if row.method in chains]
    assert {row.answer for row in rows} == {"an answer"}
    assert Counter(asked) == {question.text: 3 for question in QUESTIONS}


def test_the_prompt_has_the_most_informative_documents_and_the_others_are_learned(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    methods = [f"{mode}:sift{shown}" for mode in ("rag", "both") for shown in ("", ":context_k=2")]
    report = compare(
        PROMPTS[:1],
        methods,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        k=(2, 4),
        finetune=FINETUNE,
    )
    rows = {(row.method, row.k): row for row in report.rows}
    few, all_of_four = rows["both:sift:context_k=2", 4], rows["both:sift", 4]
    assert few.tokens_training == all_of_four.tokens_training > rows["both:sift", 2].tokens_training
    assert few.tokens_context == rows["rag:sift", 2].tokens_context < all_of_four.tokens_context
    assert len({few.bits, all_of_four.bits, rows["rag:sift", 2].bits}) == 3
    for k in (2, 4):
        shown = rows["rag:sift:context_k=2", k]
        assert shown.bits == pytest.approx(rows["rag:sift", 2].bits)
        assert len(shown.used_indices) == 2


@pytest.mark.parametrize(
    ("methods", "context_k", "modes"),
    [
        (("rag:sift", "both:sift", "rag:sift:context_k=2"), None, {"rag", "both"}),
        (("rag:sift:context_k=2", "ttft:sift", "both:sift:context_k=2"), 2, {*MODES} - {"base"}),
        (("rag:sift", "rag:sift:context_k=2", "both:sift:context_k=2"), 2, {"rag", "both"}),
        (("rag:sift", "both:sift:context_k=2:kernel=rbf"), None, {"rag"}),
        (("rag:sift", "both:sift:context_k=2"), None, {"rag"}),
        (("rag:sift:context_k=3", "both:sift:context_k=2"), 2, {"both"}),
    ],
)
def test_a_table_of_modes_has_one_limit_of_documents_in_the_prompt(
    tmp_path: Path, methods: Sequence[str], context_k: int | None, modes: set[str]
) -> None:
    chosen = (ChosenDocument("d", 0.1, 0.5, 1),)
    rows = [
        Row("qa", str(n), "all", name, k=5, chosen=chosen, scores={"f1": gain / 9})
        for n in range(4)
        for gain, name in enumerate(("base", *methods))
    ]
    settings = {"kernel": "linear", "length_scale": 0.5, "noise_variance": 0.25}
    described = {**settings, "protocols": ["qa"], "methods": ["base", *methods]}
    (tmp_path / "run.json").write_text(json.dumps(described))
    lines = (json.dumps(plain(asdict(row))) + "\n" for row in rows)
    (tmp_path / "results.jsonl").write_text("".join(lines))
    of_run = mode_table_of_run(tmp_path)
    assert of_run.table.bins[0].figures.keys() == {"base", *modes}
    assert of_run.table.measured_with == TableSettings(5, 0.25, context_k=context_k)
    left_out = {
        method
        for method in methods
        if "kernel" not in method and method.partition(":")[0] not in modes
    }
    named = re.findall(r"no place for ([^ ]+(?:, [^ ]+)*): measure", " ".join(of_run.notes))
    assert {name for names in named for name in names.split(", ")} == left_out


def run_of(folder: Path, rows: Sequence[Row], prompts: Sequence[str]) -> Path:
    described = {"protocols": ["qa"], "methods": ["base", "rag:sift", "ttft:sift", "both:sift"]}
    (folder / "run.json").write_text(json.dumps(described))
    lines = (json.dumps(plain(asdict(row))) + "\n" for row in rows)
    (folder / "results.jsonl").write_text("".join(lines))
    known = [{"id": prompt, "text": "Who?", "leak": ""} for prompt in prompts]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known))
    return folder


def test_a_table_of_modes_says_what_its_run_lacks(tmp_path: Path) -> None:
    chosen = (ChosenDocument("d", 0.1, 0.5, 1),)

    def rows(method: str, prompts: Sequence[str], metric: str, score: float) -> list[Row]:
        return [
            Row("qa", n, "all", method, k=5, chosen=chosen, scores={metric: score}) for n in prompts
        ]

    # Choices have an accuracy and no F1.
    of_choices = [
        *rows("base", "123456", "accuracy", 0.0),
        *rows("rag:sift", "123456", "accuracy", 1.0),
        *rows("ttft:sift", "123456", "accuracy", 0.0),
        *rows("both:sift", "123456", "accuracy", 1.0),
    ]
    complete = mode_table_of_run(run_of(tmp_path, of_choices, "123456"))
    assert complete.notes == ()
    assert complete.table.bins[0].figures.keys() == {*MODES}
    assert complete.table.bins[0].figures["rag"].gain == 1.0
    without = run_of(tmp_path, rows("base", "12", "tokens", 1.0), "12")
    with pytest.raises(ArgumentError, match=r"no prompt of .* has a score: give each question its"):
        mode_table_of_run(without)
    # Half of an interrupted run, and questions of another kind beside them.
    stopped = [
        *rows("base", "1234", "f1", 0.0),
        *rows("rag:sift", "1234", "f1", 1.0),
        *rows("ttft:sift", "1", "f1", 1.0),
        *rows("base", "56", "accuracy", 0.0),
    ]
    of_run = mode_table_of_run(run_of(tmp_path, stopped, "1234567"))
    assert of_run.table.bins[0].figures.keys() == {"base", "rag"}
    modes, without, lacking = of_run.notes
    assert "lacks ttft:sift, both:sift, because half of the prompts or more" in modes
    assert "2 of 7 prompts have no f1" in without
    assert "1 of 7 prompts lack the result of a mode" in lacking
    # Most of the questions have choices.
    mixed = [*of_choices, *rows("base", "7", "f1", 0.0), *rows("rag:sift", "7", "f1", 1.0)]
    of_mixed = mode_table_of_run(run_of(tmp_path, mixed, "1234567"))
    assert sum(each.prompts for each in of_mixed.table.bins) == 6
    assert [*of_mixed.notes] == [note for note in of_mixed.notes if "1 of 7 prompts" in note]


def test_retrieval_alone_has_no_limit_of_documents_in_the_prompt(store: Chroma) -> None:
    with pytest.raises(ArgumentError, match="'rag:sift:context_k=2': context_k has no effect"):
        compare(
            PROMPTS[:1], ["rag:sift:context_k=2"], vectorstore=store, protocols=["retrieval"], k=4
        )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of prompts that each later call of the trainer trains."""
    counts: list[int] = []
    train = Trainer.train

    def count(trainer: Trainer, tasks: Sequence[TrainingTask]) -> Any:
        counts.append(sum(bool(task.documents) for task in tasks))
        return train(trainer, tasks)

    monkeypatch.setattr(Trainer, "train", count)
    return counts


def test_methods_share_a_training_and_equal_contexts(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    trained: list[int],
) -> None:
    """With the same documents, every row is as in a comparison of its method alone."""
    methods = ("ttft:sift", "both:sift", "rag:nearest", "rag:sift")
    options: dict[str, Any] = {"prompts": QUESTIONS, "protocols": ("qa",), "k": 1, "max_tokens": 4}
    report = run(tiny_model, tiny_tokenizer, store, methods, **options)
    questions = len(QUESTIONS)
    # base, ttft, both with the adapters of ttft, nearest, and nothing is left for rag:sift.
    assert trained == [0, questions, 0, 0]
    rows = {row.key: row for row in report.rows}
    for method in methods:
        for row in run(tiny_model, tiny_tokenizer, store, (method,), **options).rows:
            found = rows[row.key]
            assert (found.answer, found.used_indices) == (row.answer, row.used_indices)
            assert found.bits == pytest.approx(row.bits, rel=1e-5, nan_ok=True)
            assert found.tokens_training == row.tokens_training
            assert (found.seconds_training > 0) == (row.seconds_training > 0)


def test_a_chain_between_two_methods_leaves_what_they_share(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    trained: list[int],
) -> None:
    options: dict[str, Any] = {"prompts": QUESTIONS, "protocols": ("qa",), "k": 1, "max_tokens": 2}
    chains = {"api": RunnableLambda(lambda _: "bread")}
    methods = ("ttft:sift", "api", "both:sift")
    run(tiny_model, tiny_tokenizer, store, methods, chains=chains, **options)
    assert sum(trained) == len(QUESTIONS)


@pytest.mark.parametrize("methods", [("ttft:sift", "both:sift"), ("both:sift", "ttft:sift")])
def test_one_training_serves_all_numbers_of_documents_with_and_without_context(
    methods: tuple[str, ...],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    trained: list[int],
) -> None:
    """Rows equal those of a comparison of one method and one number of documents."""
    report = run(tiny_model, tiny_tokenizer, store, methods, k=(1, 3))
    assert sum(trained) == len(PROMPTS)
    rows = {row.key: row for row in report.rows}
    for method in methods:
        for k in (1, 3):
            for row in run(tiny_model, tiny_tokenizer, store, (method,), k=k).rows:
                found = rows[row.key]
                assert (found.failure, found.used_indices) == (None, row.used_indices)
                assert found.bits == pytest.approx(row.bits, rel=1e-5)
                assert found.tokens_training == row.tokens_training
                assert (found.seconds_training > 0) == (row.seconds_training > 0)
    for prompt in PROMPTS:  # what a method costs does not depend on the others
        seconds = [rows["document", prompt.id, name, 3].seconds_training for name in methods]
        assert seconds[0] == pytest.approx(seconds[1])


def test_auto_measures_each_prompt_in_the_mode_that_it_chooses(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> None:
    """With a table in which one mode pays, the rows are those of that mode."""
    methods = ("ttft:sift", "both:sift", "rag:sift", "auto:sift")
    selection = CalibratedSelection(1.0, 6, 30)
    for mode in MODES:
        figures = {name: ModeFigures(float(name == mode), 1.0) for name in MODES}
        settings = CalibratedSettings(selection, modes=ModeTable((ModeBin(1.0, 5, {**figures}),)))
        out = tmp_path / mode
        report = run(tiny_model, tiny_tokenizer, store, methods, settings=settings, out=out)
        rows = {(row.prompt, row.method): row for row in report.rows}
        for prompt in PROMPTS:
            auto = rows[prompt.id, "auto:sift"]
            assert auto.failure is None
            same = rows[prompt.id, "base" if mode == "base" else f"{mode}:sift"]
            assert auto.tokens_training == same.tokens_training
            assert auto.bits == pytest.approx(same.bits, rel=1e-5)
            if mode != "base":
                assert [each.id for each in auto.chosen] == [each.id for each in same.chosen]
                assert auto.used_indices == same.used_indices
            assert auto.seconds_retrieval > 0
            assert (auto.seconds_training > 0) == (mode in {"ttft", "both"})
    table = mode_table([row for row in report.rows if row.protocol == "document"])
    measured_with = TableSettings(6, 1.0, model=report.settings["model"])
    assert mode_table_of_run(out).table == replace(table, measured_with=measured_with)
    assert table.bins[0].figures.keys() == {*MODES}
    assert table.bins[0].figures["base"].gain == 0
    with pytest.raises(ArgumentError, match="several rows"):
        mode_table([*report.rows, *report.rows])
    with pytest.raises(ArgumentError, match="no prompt was measured"):
        mode_table(report.rows, selection="nearest")
    modes = replace(table, measured_with=measured_with)
    for method, k, of in (
        ("auto:sift", (6,), ()),
        ("auto:sift", (2, 6), ("k = 6, and the settings here are k = 2",)),
        ("auto:sift:context_k=3", (6,), ("no context_k, and the settings here are context_k = 3",)),
    ):
        settings = CalibratedSettings(selection, modes=modes)
        again = run(
            tiny_model, tiny_tokenizer, store, (method,), prompts=PROMPTS[:1],
            settings=settings, k=k,
        )  # fmt: skip
        notes = [note for note in again.notes if "the table of modes" in note]
        assert len(notes) == len(of)
        assert all(part in note for part, note in zip(of, notes, strict=True))


def mode_rows(gains: Mapping[str, Sequence[float | None]]) -> list[Row]:
    """Return rows whose F1 is given for each mode and prompt; None is a failure."""
    chosen = (ChosenDocument("d", 0.1, 0.5, 1),)
    return [
        Row(
            "qa",
            str(prompt),
            "all",
            mode if mode == "base" else f"{mode}:sift",
            k=0 if mode == "base" else 1,
            scores={} if gain is None else {"f1": gain},
            chosen=() if mode == "base" else chosen,
            failure="TimeoutError" if gain is None else None,
        )
        for mode, values in gains.items()
        for prompt, gain in enumerate(values)
    ]


def test_a_failure_costs_the_table_a_prompt_and_not_a_mode() -> None:
    rows = mode_rows({"base": [0, 0, 0], "rag": [1, 0.5, 1], "both": [1, None, 1]})
    (measured,) = mode_table(rows, metric="f1").bins
    assert measured.prompts == 2
    assert {mode: of.gain for mode, of in measured.figures.items()} == {
        "base": 0,
        "rag": 1,
        "both": 1,
    }
    rows = mode_rows({"base": [0, 0, 0], "rag": [1, 0.5, 1], "both": [None, None, 1]})
    (measured,) = mode_table(rows, metric="f1").bins
    assert (measured.prompts, [*measured.figures]) == (3, ["base", "rag"])


def test_modes_that_do_not_differ_make_no_table() -> None:
    """Otherwise a model that answers nothing would choose the base model for all prompts."""
    with pytest.raises(ArgumentError, match="all modes have the f1 of base on each of 2 prompts"):
        mode_table(mode_rows({"base": [0, 0], "rag": [0, 0], "both": [0, 0]}), metric="f1")
