"""The mode of a prompt follows from its uncertainty, its documents and a table."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_sift import SIFTRetriever
from langchain_sift.auto_mode import (
    ModeBin,
    ModeFigures,
    ModeTable,
    PromptFigures,
    TableSettings,
    choose_mode,
    table_of,
)
from langchain_sift.auto_mode.choice import TOLERANCE
from langchain_sift.calibrated_settings import CalibratedSelection, CalibratedSettings
from langchain_sift.config import MODES
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.modes import choose_mode_for, retriever_for

FIGURES = st.builds(ModeFigures, st.floats(-1, 1), st.floats(0, 100))
ALL = st.fixed_dictionaries(dict.fromkeys(MODES, FIGURES))
TABLES = st.lists(ALL, min_size=1, max_size=4).map(
    lambda bins: ModeTable(
        tuple(ModeBin((n + 1) / len(bins), 5, figures) for n, figures in enumerate(bins))
    )
)


@given(TABLES, st.floats(0, 1.2), st.integers(1, 9), st.integers(0, 9))
def test_the_choice_is_the_fastest_of_those_that_are_good_enough(table, sigma, count, fitting):
    """Compare with all choices of a mode for each bin that change the mode at most once."""
    edges = [0.0, *(each.highest for each in table.bins[:-1]), 9.0]
    (number,) = [n for n in range(len(table.bins)) if edges[n] < sigma <= edges[n + 1]] or [0]
    modes = MODES if fitting > 0 else ("base", "ttft")
    means = {
        chosen: [
            sum(
                getattr(each.figures[mode], name)
                for each, mode in zip(table.bins, chosen, strict=True)
            )
            / len(table.bins)
            for name in ("gain", "seconds")
        ]
        for chosen in itertools.product(modes, repeat=len(table.bins))
        if sum(map(operator.ne, chosen, chosen[1:])) <= 1
    }
    best = max(means[(mode,) * len(table.bins)][0] for mode in modes)
    enough = {chosen: of for chosen, of in means.items() if of[0] >= best - TOLERANCE + 1e-9}
    chosen = table.fastest_modes(TOLERANCE, modes)
    assert means[chosen][0] >= best - TOLERANCE - 1e-9
    assert all(seconds >= means[chosen][1] - 1e-9 for _, seconds in enough.values())
    assert choose_mode(sigma, count, fitting, table).mode == chosen[number]


def test_a_bin_in_which_the_faster_mode_loses_little_pays_for_another():
    def measured(highest, rag, both):
        figures = {"rag": ModeFigures(rag, 1), "both": ModeFigures(both, 5)}
        return ModeBin(highest, 10, {"base": ModeFigures(0, 0), **figures})

    table = ModeTable((measured(0.5, 0.20, 0.20), measured(0.9, 0.10, 0.115)))
    assert table.fastest_modes(0.01) == ("rag", "rag")  # 0.75 points lost on average
    table = ModeTable((measured(0.5, 0.20, 0.20), measured(0.9, 0.10, 0.13)))
    assert table.fastest_modes(0.01) == ("rag", "both")
    many = tuple(measured(n / 50, 0.1 + n / 1000, 0.1 + n / 500) for n in range(1, 50))
    assert set(ModeTable(many).fastest_modes(0.01)) == {"rag", "both"}


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), ALL), min_size=15, max_size=90))
def test_auto_is_nearly_as_good_as_the_best_mode_on_what_was_measured(measured):
    """On the prompts of the table, the mean is within the tolerance of each single mode's."""
    prompts = [PromptFigures(sigma, figures) for sigma, figures in measured]
    table = table_of(prompts)
    auto = [p.figures[choose_mode(p.uncertainty, 5, 5, table).mode].gain for p in prompts]
    for mode in MODES:
        single = sum(prompt.figures[mode].gain for prompt in prompts)
        assert sum(auto) >= single - len(prompts) * TOLERANCE - 1e-9


@pytest.mark.parametrize(
    ("sigma", "documents", "fitting", "mode"),
    [
        (0.5, 0, 0, "base"),
        (0.99, 5, 5, "base"),
        (0.979, 25, 25, "rag"),
        (0.981, 25, 25, "base"),
        (0.991, 1, 1, "rag"),
        (0.996, 1, 1, "base"),
        (0.5, 5, 5, "rag"),
        (0.5, 5, 2, "both"),
        (0.5, 5, 0, "ttft"),
        (None, 5, 5, "rag"),
    ],
)
def test_without_a_table_the_rule_is_the_documented_one(sigma, documents, fitting, mode):
    choice = choose_mode(sigma, documents, fitting)
    assert (choice.mode, bool(choice.reason)) == (mode, True)


def test_a_table_without_a_known_uncertainty_is_named_in_the_reason():
    figures = {"base": ModeFigures(0.0, 1.0), "both": ModeFigures(0.5, 2.0)}
    table = ModeTable((ModeBin(1.0, 5, figures),))
    choice, rule = choose_mode(None, 5, 5, table), choose_mode(None, 5, 5)
    assert choice.mode == rule.mode == "rag"
    assert choice.reason.startswith(rule.reason)
    assert "returns no gains" in choice.reason


@pytest.mark.parametrize(
    ("sigma", "reason"),
    [
        (0.2, "σ = 0.2; gained 0 in 1 s on 5 prompts with σ up to 0.3"),
        (0.4, "σ = 0.4; gained 0.5 in 2 s on 6 prompts with σ up to 0.6"),
        (
            0.9,
            "σ = 0.9; gained 0.5 in 2 s on 6 prompts with σ up to 0.6, none of them so uncertain",
        ),
    ],
)
def test_the_reason_names_the_prompts_that_were_measured(sigma, reason):
    def measured(highest, prompts, gain):
        figures = {"base": ModeFigures(0.0, 1.0), "both": ModeFigures(gain, 2.0)}
        return ModeBin(highest, prompts, figures)

    table = ModeTable((measured(0.3, 5, 0.0), measured(0.6, 6, 0.5)))
    assert choose_mode(sigma, 5, 5, table).reason == reason


@pytest.mark.parametrize(
    ("kernel", "noise_variance"),
    [*(("linear", noise) for noise in (None, 0.01, 1.0, 31.6, 100)), ("rbf", None), ("rbf", 0.1)],
)
@pytest.mark.parametrize("k", [1, 4, 25])
def test_without_a_table_the_rule_holds_with_any_kernel_and_noise_variance(
    kernel, noise_variance, k
):
    """With large λ' even copies of the prompt explain little of its variance."""
    embeddings = VectorsByName(30)
    modes = {}
    for cosine in (1.0, 0.5, 0.05):
        store = InMemoryVectorStore.from_texts([f"{cosine} {n}" for n in range(25)], embeddings)
        retriever = SIFTRetriever(
            vectorstore=store, k=k, kernel=kernel, noise_variance=noise_variance
        )
        documents = retriever_for("auto", retriever).invoke("1.0")
        modes[cosine] = choose_mode_for(documents, len, None).mode
    assert modes == {1.0: "rag", 0.5: "rag", 0.05: "base"}


class VectorsByName(Embeddings):
    """Embed "COSINE NUMBER" at that cosine with "1.0", in a direction of the number."""

    def __init__(self, dimensions):
        self.dimensions = dimensions

    def embed_query(self, text):
        cosine, _, number = text.partition(" ")
        vector = [0.0] * self.dimensions
        vector[0] = float(cosine)
        vector[1 + int(number or 0)] = math.sqrt(1 - vector[0] ** 2)
        return vector

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def test_the_bins_have_as_many_prompts_each():
    figures = {mode: ModeFigures(0.1, 1.0) for mode in MODES}
    table = table_of([PromptFigures(n / 20, figures) for n in range(20)])
    assert [each.prompts for each in table.bins] == [20]
    table = table_of([PromptFigures(n / 38, figures) for n in range(38)])
    assert [each.prompts for each in table.bins] == [13, 12, 13]
    assert [each.highest for each in table.bins] == [12 / 38, 24 / 38, 37 / 38]
    table = table_of([PromptFigures(n / 120, figures) for n in range(120)])
    assert [each.prompts for each in table.bins] == [20] * 6
    one = table_of([PromptFigures(0.3, {"base": ModeFigures(0, 1)})] * 30)
    assert [each.prompts for each in one.bins] == [30]
    with pytest.raises(ArgumentError, match="known uncertainty"):
        table_of([PromptFigures(float("nan"), figures)])


def test_a_settings_file_keeps_the_table(tmp_path: Path) -> None:
    figures = {mode: ModeFigures(0.1, 1.0) for mode in MODES}
    measured_with = TableSettings(5, 1.0, "rbf", 0.3, "org/name", context_k=2)
    table = ModeTable((ModeBin(0.5, 5, figures), ModeBin(0.9, 6, figures)), measured_with)
    saved = CalibratedSettings(CalibratedSelection(1.0, 5, 50), modes=table)
    saved.save(tmp_path / "settings.json")
    assert CalibratedSettings.load(tmp_path / "settings.json") == saved
    content = json.loads((tmp_path / "settings.json").read_text())
    unknown = {"bins": content["modes"]["bins"]}  # as a file of an earlier version
    earlier = CalibratedSettings.from_json({**content, "modes": unknown})
    assert earlier.modes == ModeTable(table.bins)
    wrong = ({"measured_with": {**unknown, "k": 0}}, {"measured_with": 3}, {"measured_with": {}})
    for broken in (
        {},
        {"bins": []},
        {"bins": [{"highest": 1}]},
        {"bins": 3},
        [],
        *({**unknown, **each} for each in wrong),
    ):
        with pytest.raises(ArgumentError):
            CalibratedSettings.from_json({**content, "modes": broken})


MEASURED = TableSettings(5, 1.0, "rbf", 0.3, "org/name")


def with_each_value_replaced(value: object, other: object) -> Iterator[object]:
    """Yield copies of a JSON value, each with another value in one place."""
    yield other
    parts = enumerate(value) if isinstance(value, list) else ()
    for key, part in value.items() if isinstance(value, dict) else parts:
        for changed in with_each_value_replaced(part, other):
            copy = value.copy()
            copy[key] = changed
            yield copy


@pytest.mark.parametrize("other", [None, True, -1, 0.5, "x", [1], {"a": [1]}])
def test_a_settings_file_with_another_value_is_refused_or_works(
    tmp_path: Path, other: object
) -> None:
    figures = {mode: ModeFigures(0.1, 1.0) for mode in MODES}
    table = ModeTable((ModeBin(0.5, 5, figures),), MEASURED)
    saved = CalibratedSettings(CalibratedSelection(1.0, 5, 50), modes=table).to_json()
    content = json.loads(json.dumps(saved))
    file = tmp_path / "settings.json"
    for changed in with_each_value_replaced(content, other):
        file.write_text(json.dumps(changed))
        with suppress(ArgumentError):
            modes = CalibratedSettings.load(file).modes
            assert modes is None or isinstance(modes.note_on(MEASURED), str | None)
    file.write_text("[" * 100_000)
    with pytest.raises(ArgumentError, match="is not a settings file"):
        CalibratedSettings.load(file)


@pytest.mark.parametrize(
    ("used", "measured", "here"),
    [
        (MEASURED, None, None),
        (replace(MEASURED, k=None, model=None), None, None),
        (replace(MEASURED, noise_variance=1.0 + 1e-9), None, None),
        (replace(MEASURED, k=7), "k = 5", "k = 7"),
        (replace(MEASURED, noise_variance=0.01), "λ' = 1", "λ' = 0.01"),
        (replace(MEASURED, length_scale=0.5), "ℓ = 0.3", "ℓ = 0.5"),
        (replace(MEASURED, kernel="linear", k=7), "k = 5, kernel = rbf", "k = 7, kernel = linear"),
        (replace(MEASURED, model="other"), "model = org/name", "model = other"),
        (replace(MEASURED, context_k=3), "no context_k", "context_k = 3"),
        (replace(MEASURED, context_k=5), None, None),
        (replace(MEASURED, k=2, context_k=2), "k = 5", "k = 2"),
    ],
)
def test_settings_that_a_table_was_not_measured_with_are_named(used, measured, here):
    note = MEASURED.note_on(used)
    assert note == (
        None
        if measured is None
        else f"the table of modes was measured with {measured}, and the settings here are {here}: "
        "measure the modes again, or use the settings of the table: auto may choose worse modes"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModeFigures(float("nan"), 1.0),
        lambda: ModeFigures(0.1, -1.0),
        lambda: ModeBin(0.5, 0, {"base": ModeFigures(0.0, 1.0)}),
        lambda: ModeBin(0.5, 5, {"rag": ModeFigures(0.0, 1.0)}),
        lambda: ModeBin(0.5, 5, {"base": ModeFigures(0.0, 1.0), "x": ModeFigures(0.0, 1.0)}),
        lambda: ModeTable(()),
        lambda: ModeTable((ModeBin(0.5, 5, {"base": ModeFigures(0.0, 1.0)}),) * 2),
    ],
)
def test_bad_figures_are_refused(make):
    with pytest.raises(ArgumentError):
        make()
