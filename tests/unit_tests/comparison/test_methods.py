"""The name of a method is parsed, and a misspelt name is answered with similar ones."""

from __future__ import annotations

import pytest

from langchain_sift.comparison.methods import Method, parse_methods, unused_runnables
from langchain_sift.errors import ArgumentError


def test_names_are_parsed_each_once_with_the_base_model_first() -> None:
    names = ["ttft:sift", "rag:mine", "base", "other", "ttft:sift"]
    methods = parse_methods(names, retrievers=["mine"], chains=["other"])
    assert [(m.name, m.mode, m.selection) for m in methods] == [
        ("base", "base", ""),
        ("ttft:sift", "ttft", "sift"),
        ("rag:mine", "rag", "mine"),
        ("other", "chain", ""),
    ]


def test_options_follow_the_selection() -> None:
    name = "both:sift:residual:replace:noise_variance=0.5:stopping_alpha=2"
    _, method = parse_methods([name])
    assert method == Method(
        name, "both", "sift", "residual", noise_variance=0.5, stopping_alpha=2.0, replace=True
    )
    family = Method("", "both", "sift", "residual", noise_variance=0.5, replace=True)
    assert method.family == family
    assert (method.fine_tunes, method.adds_context, method.repeats) == (True, True, True)
    _, rbf = parse_methods(["rag:sift:kernel=rbf:length_scale=0.35"])
    assert (rbf.kernel, rbf.length_scale, rbf.noise_variance) == ("rbf", 0.35, None)
    _, few = parse_methods(["both:nearest:context_k=3:kernel=rbf"])
    assert (few.context_k, few.kernel) == (3, "rbf")
    assert few.training == Method("", "both", "nearest", kernel="rbf")
    _, mine = parse_methods(["rag:mine:context_k=3"], retrievers=["mine"])
    assert mine.context_k == 3
    _, rag = parse_methods(["rag:sift"])
    assert (rag.fine_tunes, rag.adds_context, rag.repeats) == (False, True, False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ttft:shift", "did you mean ttft:sift"),
        ("tfft:nearest", "did you mean ttft:nearest"),
        ("zzz", "use some of base, rag:sift"),
        ("ttft:sift:residul", "'residul' is no option of sift.*nearest, residual, exhaustive"),
        ("ttft:mmr:residual", "'residual' is no option of mmr"),
        ("rag:sift:replace", r"'replace' is no option of sift.*\(ttft:, both: and auto:\)"),
        ("ttft:mmr:replace", "'replace' is no option of mmr"),
        ("ttft:sift:noise_variance=x", "noise_variance=NUMBER"),
        ("ttft:sift:noise_variance=-1", "noise_variance=NUMBER"),
        ("ttft:sift:noise_variance=1e-13", "'ttft:sift:noise_variance=1e-13': .*at least 1e-12"),
        ("sift:kernel=rbf:length_scale=1e-9", "length_scale must be at least 0.001"),
        ("ttft:sift:stopping_alpha=inf", "stopping_alpha=NUMBER"),
        ("ttft:mine:noise_variance=1", "no option of mine"),
        ("both:sift:context_k=0", "context_k must be an integer of at least 1, got 0"),
        ("rag:mine:context_k=2.0", "context_k must be an integer of at least 1, got '2.0'"),
        ("rag:mine:context_k=x", "context_k must be an integer of at least 1, got .x"),
        ("ttft:sift:context_k=3", "context_k has no effect .* which only rag:, both: and"),
        ("sift:context_k=3", "context_k has no effect"),
        ("rag:mine:context=3", "use context_k=NUMBER"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_methods([name], retrievers=["mine"])


@pytest.mark.parametrize("name", ["sift", "rag", "base", "a:b", "a,b", " "])
def test_a_runnable_cannot_have_the_name_of_a_method(name: str) -> None:
    with pytest.raises(ArgumentError, match="cannot name a runnable"):
        parse_methods(["base"], chains=[name])


@pytest.mark.parametrize(
    ("runnables", "method"),
    [({"chains": ["mine"]}, "mine"), ({"retrievers": ["mine"]}, "rag:mine")],
)
def test_a_runnable_that_no_method_uses_is_noted(
    runnables: dict[str, list[str]], method: str
) -> None:
    named = {"retrievers": [], "chains": [], **runnables}
    (note,) = unused_runnables(parse_methods(["base", "rag:sift"], **named), **named)
    assert note.startswith("no method uses 'mine': add ")
    assert f"'{method}'" in note
    assert unused_runnables(parse_methods([method], **named), **named) == []
