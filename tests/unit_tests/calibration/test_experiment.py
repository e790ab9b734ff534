"""Calibrate on documents held out of a store, with a share of the full grid's gradient steps."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.testing import assert_allclose

from langchain_sift import FineTuneConfig, Limits, SIFTRetriever
from langchain_sift.calibration import Calibration
from langchain_sift.calibration.cross_validation import documents_counts
from langchain_sift.calibration.experiment import calibrate
from langchain_sift.calibration.halving import halve, percents_of
from langchain_sift.calibration.held_out import hold_out, hold_out_questions
from langchain_sift.calibration.standard_errors import first_sufficient
from langchain_sift.calibration.surrogate import leave_one_out, promising
from langchain_sift.calibration.trials import Setting, Trial, Trials
from langchain_sift.comparison import Prompt
from langchain_sift.config import MODES, OBJECTIVES
from langchain_sift.errors import (
    ArgumentError,
    CorpusError,
    EngineOverloaded,
    RequestCancelled,
)
from langchain_sift.indexing.chunks import Chunking, read_chunks
from langchain_sift.indexing.folders import find_files
from langchain_sift.selection import select
from langchain_sift.selection.settings import KERNELS, Kernel
from langchain_sift.ttft import Engine, LanguageModel, Request, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Any

    from langchain_chroma import Chroma
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from langchain_sift import HiddenStateEmbeddings

CONFIG = FineTuneConfig(lora_rank=4, lora_alpha=8.0, max_length=32)
NOISES, RATES = (0.01, 0.1, 1.0, 10.0), (1e-4, 5e-3)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.01, 5.0), name=st.sampled_from(KERNELS))
def test_the_surrogate_is_the_likelihood_of_each_text_given_the_others(
    seed: int, noise: float, name: str
) -> None:
    rng = np.random.default_rng(seed)
    rows, targets = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    kernel = rows @ rows.T if name == "linear" else np.exp(-distances / (2 * 0.6**2))
    means, variances = np.empty_like(targets), np.empty(9)
    for n in range(9):
        others = [m for m in range(9) if m != n]
        inverse = np.linalg.inv(kernel[np.ix_(others, others)] + noise * np.eye(8))
        means[n] = kernel[n, others] @ inverse @ targets[others]
        variances[n] = kernel[n, n] + noise - kernel[n, others] @ inverse @ kernel[others, n]
    errors = (targets - means) ** 2 / variances[:, None]
    scale = errors.mean()
    each = -0.5 * (np.log(2 * math.pi * scale * variances)[:, None] + errors / scale)
    (found,) = leave_one_out(rows, targets, [noise], Kernel(name, 0.6))
    assert_allclose(found, each.mean(), rtol=1e-6)


def test_the_fewest_documents_within_a_standard_error_of_the_best_are_chosen() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(90, 5, (20, 1))
    noise = rng.normal(0, 0.1, (20, 4))
    assert first_sufficient(base + [[10.0, 0.0, 0.0, 0.0]] + noise * [0, 1, 1, 1]) in {1, 2, 3}
    slopes = np.array([[3.0, 2.0, 1.0, 0.0]])
    assert first_sufficient(base + slopes + noise) == 3
    assert first_sufficient(np.array([[90.0, 80.0, 85.0]])) == 1


class _PromptWithChoices:
    """A prompt for which some λ' choose the same document."""

    def __init__(self, choices: dict[float, int]) -> None:
        self._choices = choices

    def choose(self, _: int, noise_variance: float) -> tuple[int, ...]:
        return (self._choices[noise_variance],)


class _TabulatedTrials(Trials):
    """Trials whose result is looked up: the level of the prompt plus an effect of the document."""

    def run(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if not self.is_done(trial):
                self._percents[trial] = np.array([100.0 * trial.prompt + trial.documents[0]])
                self.steps += 1


class _LongTrials(Trials):
    """Trials of many steps each."""

    def _request(self, trial: Trial) -> Request:
        return self.engine.request(["The river flows to the sea."] * 800, config=trial.config)


def test_an_error_between_submissions_cancels_the_trials_before(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(LanguageModel("", tiny_model, tiny_tokenizer), CONFIG, Limits(max_requests=1))
    tickets: list[Ticket] = []

    def submit(request: Request) -> Ticket:
        tickets.append(Engine.submit(engine, request))
        return tickets[-1]

    monkeypatch.setattr(engine, "submit", submit)
    trials = _LongTrials(engine, [], (1,))
    trials._base = {0: 1.0}
    with pytest.raises(EngineOverloaded):
        trials.run([Trial(0, (), replace(CONFIG, seed=seed)) for seed in range(2)])
    with pytest.raises(RequestCancelled):
        list(tickets[0])
    other = trials._engine_of(replace(CONFIG, lora_rank=2))
    assert other.limits == engine.limits
    engine.close()
    other.close()


@settings(max_examples=60)
@given(st.lists(st.permutations([0, 1, 2, 3]), min_size=24, max_size=24), st.integers(4, 200))
def test_settings_are_compared_on_the_same_prompts(choices: list[list[int]], budget: int) -> None:
    # Places 0 and 1 are the same document, so that two λ' share a trial.
    prompts = [
        _PromptWithChoices({n: max(index, 1) for n, index in zip(NOISES, permutation, strict=True)})
        for permutation in choices
    ]
    trials = _TabulatedTrials(None, prompts, (1,))
    list(halve(trials, CONFIG, NOISES, RATES[:1], budget=budget))
    for noise in NOISES:
        setting = Setting(noise, replace(CONFIG, learning_rate=RATES[0]))
        levels = percents_of(trials, setting)[:, 0] // 100
        assert levels.tolist() == list(range(len(levels)))
        assert len(levels) >= 1


def test_counts_double_and_the_least_likely_third_is_dropped() -> None:
    assert documents_counts(1) == (1,)
    assert documents_counts(12) == (1, 2, 4, 8, 12)
    assert documents_counts(16) == (1, 2, 4, 8, 16)
    assert promising([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.5, -0.2, 0.9, 0.0]) == (1.0, 2.0, 4.0, 5.0)
    assert promising([1.0, 2.0], [0.0, 1.0]) == (1.0, 2.0)


@pytest.mark.slow
def test_settings_are_chosen_from_the_given_values_within_the_share_of_steps(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    progress_calls: list[tuple[str, int, int]] = []
    calibration = calibrate(
        store,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        prompts=8,
        k=6,
        noise_variances=NOISES,
        learning_rates=RATES,
        finetune=CONFIG,
        share=0.5,
        on_progress=lambda *progress: progress_calls.append(progress),
    )
    chosen = calibration.settings.fine_tuning
    noise = chosen.selection.noise_variance
    assert noise in NOISES
    # A model with random weights gains from any text, and more from larger steps.
    assert chosen.learning_rate == max(RATES)
    assert calibration.chosen.percent_of_base < 100
    assert (chosen.lora_rank, chosen.max_length, chosen.seed) == (4, 32, 0)
    assert calibration.grid_steps == len(NOISES) * len(RATES) * 8 * 6
    # Fine-tuning that has begun is finished: at most one round of all pairs more.
    assert calibration.steps <= 0.5 * calibration.grid_steps + len(NOISES) * len(RATES) * 6
    assert [point.noise_variance for point in calibration.noise_variances] == list(NOISES)
    best = {point.noise_variance: point for point in calibration.noise_variances}[noise]
    assert best.measured is not None
    assert best.measured.difference >= 0 or chosen.selection.k < 6
    assert {phase for phase, _, _ in progress_calls} == {"holding out", "fine-tuning"}
    json.dumps(calibration.to_json(), allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noises", "rates"), [((0.1,), (1e-4, 1e-3, 5e-3)), (NOISES, (5e-3,)), ((0.1,), (5e-3,))]
)
def test_a_single_value_needs_no_choice(
    noises: tuple[float, ...],
    rates: tuple[float, ...],
    store: Chroma,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    calibration = calibrate(
        store,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        prompts=6,
        k=3,
        noise_variances=noises,
        learning_rates=rates,
        finetune=CONFIG,
        share=0.01,  # not enough for one prompt with each value
    )
    chosen = calibration.settings.fine_tuning
    assert chosen.selection.noise_variance in noises
    assert chosen.learning_rate in rates
    assert calibration.chosen.prompts >= 1
    assert len(calibration.learning_rates) == len(rates)


@pytest.mark.slow
def test_of_values_that_choose_the_same_documents_the_one_nearest_the_default_is_chosen(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """One document is the nearest one, whatever λ' is."""
    calibration = calibrate(
        store,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        prompts=2,
        k=1,
        noise_variances=NOISES,
        learning_rates=(5e-3,),
        finetune=CONFIG,
    )
    default = store.embeddings.noise_variance
    tried = [
        point.noise_variance for point in calibration.noise_variances if point.measured is not None
    ]
    chosen = calibration.settings.fine_tuning.selection.noise_variance
    assert chosen == min(tried, key=lambda value: abs(math.log(value / default)))
    notes = [note for note in calibration.notes if "λ'" in note]
    assert [note.partition(":")[0] for note in notes] == [
        f"λ' = {', '.join(f'{value:g}' for value in tried)} chose the same documents"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("fetch_k", [200, 3])
def test_no_number_of_documents_is_above_that_of_the_candidates(
    fetch_k: int,
    embeddings: HiddenStateEmbeddings,
    texts: list[str],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Each document is chosen once: after more of them nothing would be measured."""
    most = min(fetch_k, 9)  # of ten texts one is held out
    calibration = calibrate(
        InMemoryVectorStore.from_texts(texts[:10], embeddings),
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        prompts=2,
        k=32,
        fetch_k=fetch_k,
        noise_variances=(1.0,),
        learning_rates=(5e-3,),
        finetune=CONFIG,
    )
    counts = [point.k for point in calibration.counts]
    assert counts == sorted({*(n for n in (1, 2, 4, 8) if n < most), most})
    assert calibration.settings.fine_tuning.selection.k in counts
    assert calibration.grid_steps == 2 * most


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "trials"), [({"minutes": 60}, 6), ({"share": 1.0}, 2)])
def test_an_interrupt_keeps_the_settings_chosen_until_then(
    limit: dict[str, float],
    trials: int,
    store: Chroma,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    def interrupted_after(trials: int) -> Calibration:
        left = iter(range(trials))

        def interrupt(phase: str, *_: int) -> None:
            if phase == "fine-tuning" and next(left, None) is None:
                raise KeyboardInterrupt

        return calibrate(
            store,
            model=tiny_model,
            tokenizer=tiny_tokenizer,
            prompts=1,
            k=3,
            noise_variances=NOISES,
            learning_rates=(5e-3, 0.02),
            finetune=CONFIG,
            on_progress=interrupt,
            **limit,
        )

    with pytest.raises(KeyboardInterrupt):  # one of two learning rates is measured
        interrupted_after(0)
    calibration = interrupted_after(trials)
    assert calibration.interrupted
    assert calibration.notes[-1].startswith("interrupted")
    tuned = calibration.settings.fine_tuning
    assert tuned.mode is None
    rates = {point.learning_rate: point.measured for point in calibration.learning_rates}
    best = min(rates, key=lambda rate: rates[rate].percent_of_base)
    assert tuned.learning_rate == best
    json.dumps(calibration.to_json(), allow_nan=False)


@pytest.mark.slow
def test_within_minutes_all_settings_are_chosen_on_questions(
    store: Chroma,
    texts: list[str],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    questions = [Prompt(f"q{n}", text[:40], answers=(text[40:80],)) for n, text in enumerate(texts)]
    arguments = {
        "model": tiny_model,
        "tokenizer": tiny_tokenizer,
        "questions": questions[:3],
        "k": 2,
    }
    calibration = calibrate(
        store,
        **arguments,
        noise_variances=NOISES,
        learning_rates=RATES,
        finetune=CONFIG,
        minutes=60,  # all prompts are measured long before
    )
    tuned = calibration.settings.fine_tuning
    compared = {
        name: {point.value for point in calibration.others if point.name == name}
        for name in ("objective", "steps_per_document", "target_modules", "lora_rank", "mode")
    }
    assert compared["objective"] == {"text", "distill"}  # the texts hold no answers
    rates = {point.learning_rate for point in calibration.learning_rates}
    assert rates >= {*RATES, None}  # None is the default
    assert compared["steps_per_document"] == {"1", "2"}
    assert {"all-linear", "attention", "mlp"} < compared["target_modules"]
    assert compared["lora_rank"] == {"4", "16", "64"}
    config = calibration.settings.finetune_config()
    assert (config.steps_per_document, config.lora_rank) == (
        tuned.steps_per_document,
        tuned.lora_rank,
    )
    assert config.lora_alpha == 2 * config.lora_rank  # as in CONFIG
    assert compared["mode"] == set(MODES)
    assert tuned.mode in MODES
    assert calibration.settings.modes is None  # of three prompts
    assert tuned.protocol == "qa"
    assert calibration.held_out == calibration.chosen.prompts == 3
    with pytest.raises(ArgumentError, match="minutes=1e-09 is too short"):
        calibrate(store, **arguments, finetune=CONFIG, minutes=1e-9)


@pytest.mark.parametrize("with_answers", [True, False])
def test_an_objective_must_fit_all_documents(
    with_answers: bool,  # noqa: FBT001
    embeddings: HiddenStateEmbeddings,
    texts: list[str],
    tiny_model: PreTrainedModel,
    templated: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    tokenizer = templated("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    model = LanguageModel("tiny", tiny_model, tokenizer)
    store = InMemoryVectorStore(embeddings)
    rows = [json.dumps({"question": text[:20], "answer": text[20:]}) for text in texts[:12]]
    store.add_texts(rows if with_answers else [*rows, "A plain text about the river."])
    question = Prompt("q", "Where is the river?", answers=("in the valley",))
    questions = [Prompt("open", "Where is it?"), question, question]
    config = replace(CONFIG, max_length=64)
    with closing(Engine(model, config)) as engine:
        for held_out, is_question in (
            (hold_out_questions(store, questions, model, prompts=1, fetch_k=13), True),
            (hold_out(store, model, prompts=1, protocol="document", fetch_k=13, seed=0), False),
        ):
            assert len(held_out) == 1
            trials = Trials(engine, held_out, (1, 13))
            all_documents = tuple(range(len(held_out[0].documents)))
            trials.documents = lambda *_, found=all_documents: found  # type: ignore[method-assign]
            fitting = {
                objective
                for objective in OBJECTIVES
                if trials.fits(Setting(0.1, replace(config, objective=objective)))
            }
            assert fitting == {"text", *(["answer"] * with_answers), *(["distill"] * is_question)}


def test_questions_are_a_random_sample_of_all(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A file often has the questions of one topic together."""
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    questions = [Prompt(f"q{n}", f"What is {n}?", answers=("it",)) for n in range(20)]

    def sample(count: int, seed: int) -> list[str]:
        held_out = hold_out_questions(store, questions, model, prompts=count, fetch_k=1, seed=seed)
        return [each.text.removesuffix(" it") for each in held_out]

    everything = [question.text for question in questions]
    assert sample(5, 0) == sample(5, 0) != sample(5, 1)
    found = {text for seed in range(12) for text in sample(10, seed)}
    assert found == {*everything}
    assert sorted(sample(30, 0)) == sorted(everything)


def test_the_correct_choice_is_the_answer_of_a_question_with_choices(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    choices = ("red", "blue")
    questions = [
        Prompt("chosen", "Which colour?", choices=choices, correct=1),
        Prompt("unknown", "Which colour?", choices=choices),
        Prompt("answered", "Which colour?", answers=("blue",)),
    ]
    held_out = hold_out_questions(store, questions, model, prompts=3, fetch_k=1)
    assert [each.text for each in held_out] == ["Which colour? blue"] * 2
    assert len({each.tokens.target for each in held_out}) == 1


def test_rag_is_measured_with_the_documents_in_the_context(
    store: Chroma, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    held_out = hold_out(store, model, prompts=2, protocol="continuation", fetch_k=9, seed=0)
    with closing(Engine(model, CONFIG)) as engine:
        trials = Trials(engine, held_out, (1, 2))
        setting = Setting(0.1, replace(CONFIG, learning_rate=1e-2))
        of_mode = {mode: replace(trials.trial(1, setting), mode=mode) for mode in MODES}
        trials.run(of_mode.values())
        percents = {mode: trials.percents(trial)[-1] for mode, trial in of_mode.items()}
        no_rate = replace(of_mode["both"], config=replace(CONFIG, learning_rate=0.0))
        trials.run([no_rate])
    tokens = held_out[1].tokens
    shown = dict.fromkeys(held_out[1].texts[n] for n in of_mode["rag"].documents)
    cut = [tiny_tokenizer.decode(tiny_tokenizer.encode(t)[: CONFIG.max_length]) for t in shown]
    before = tiny_tokenizer.encode("\n\n".join(cut) + "\n\n")
    base, rag = (
        _nats(tiny_model, [*tokens.start, *documents, *tokens.context], tokens.target)
        for documents in ([], before)
    )
    assert percents["base"] == pytest.approx(100)
    assert percents["rag"] == pytest.approx(100 * rag / base, rel=1e-4)
    assert trials.percents(no_rate)[-1] == pytest.approx(percents["rag"], rel=1e-4)
    assert len({round(value, 2) for value in percents.values()}) == 4


def _nats(model: PreTrainedModel, context: list[int], target: Sequence[int]) -> float:
    ids = torch.tensor([[*context, *target]])
    with torch.no_grad():
        log_p = model(ids).logits[0].log_softmax(-1)
    rows = range(len(context) - 1, ids.shape[1] - 1)
    return -sum(float(log_p[row, token]) for row, token in zip(rows, target, strict=True))


@pytest.mark.parametrize("as_source", ["s{}".format, lambda n: [n], lambda n: {"file": [n]}])
def test_candidates_share_neither_text_nor_source_with_the_held_out_text(
    as_source: Callable[[int], Any],
    embeddings: HiddenStateEmbeddings,
    texts: list[str],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    store = InMemoryVectorStore(embeddings)
    store.add_documents(
        [Document(text, metadata={"source": as_source(n % 4)}) for n, text in enumerate(texts)]
    )
    source = {text: n % 4 for n, text in enumerate(texts)}
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    held_out = hold_out(store, model, prompts=6, protocol="document", fetch_k=30, seed=0)
    assert len(held_out) == 6
    for prompt in held_out:
        assert len(prompt.texts) == 30
        assert prompt.text not in prompt.texts
        assert source[prompt.text] not in {source[text] for text in prompt.texts}
        candidates = InMemoryVectorStore.from_texts(list(prompt.texts), embeddings)
        for k in (5, 31):
            retriever = SIFTRetriever(vectorstore=candidates, k=k, noise_variance=0.2)
            found = retriever.retrieve_by_vector(prompt.query.tolist())
            chosen = [prompt.texts[index] for index in prompt.choose(k, 0.2)]
            assert chosen == [document.page_content for document in found.documents]
            assert prompt.uncertainty(k, 0.2) == pytest.approx(found.posterior_std, abs=1e-6)
        cosines = prompt.embeddings @ prompt.query
        assert (np.diff(cosines) <= 1e-6).all()
    kernel = Kernel("rbf", 0.4)
    (other,) = hold_out(
        store, model, prompts=1, protocol="document", fetch_k=30, seed=0, kernel=kernel
    )
    options = {"kernel": "rbf", "length_scale": 0.4}
    chosen = select(other.query, other.embeddings, k=5, noise_variance=0.2, **options)
    assert other.choose(5, 0.2) == tuple(chosen.indices)
    others = hold_out(store, model, prompts=6, protocol="document", fetch_k=30, seed=1)
    assert {prompt.text for prompt in others} != {prompt.text for prompt in held_out}


def test_the_lines_of_one_file_are_candidates_of_each_other(
    embeddings: HiddenStateEmbeddings,
    texts: list[str],
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in texts[:30]]
    (tmp_path / "facts.jsonl").write_text("".join(lines))
    store = InMemoryVectorStore(embeddings)
    found = find_files([tmp_path / "facts.jsonl"])
    store.add_documents(list(read_chunks(found.files, Chunking()).chunks))
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    held_out = hold_out(store, model, prompts=6, protocol="document", fetch_k=30, seed=0)
    assert [set(prompt.texts) for prompt in held_out] == [
        set(texts[:30]) - {prompt.text} for prompt in held_out
    ]


def test_a_store_or_an_argument_that_cannot_be_calibrated_is_named(
    embeddings: HiddenStateEmbeddings,
    store: Chroma,
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    arguments = {"model": tiny_model, "tokenizer": tiny_tokenizer}
    few = InMemoryVectorStore(embeddings)
    few.add_texts(["one text", "another text"])
    with pytest.raises(CorpusError, match=r"2 different texts.*at least 10"):
        calibrate(few, **arguments)
    for change, message in (
        ({"protocol": "qa"}, "document, continuation, got 'qa'"),
        ({"k": 0}, "k must be an integer"),
        ({"kernel": "rbff"}, "did you mean 'rbf'"),
        ({"kernel": "rbf", "length_scale": 0.0}, "length_scale must be"),
        ({"share": 0.0}, "share must be"),
        ({"minutes": 0.0}, "minutes must be"),
        ({"questions": [Prompt("q", "When?")]}, "none of the 1 questions has an answer"),
        ({"questions": [Prompt("q", "When?", answers=(" ",))]}, "none of the 1 questions"),
        ({"questions": ["When?"]}, "none of the 1 questions"),
        (
            {"questions": [Prompt("q7", "When? " * 500, answers=("May",))]},
            "question q7: the question is too long.*: leave it out",
        ),
        ({"learning_rates": ()}, "learning_rates must be"),
        ({"noise_variances": (-1.0,)}, "noise_variances must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            calibrate(store, **{**arguments, **change})
