"""A runnable of a user's is called, also if it has coroutines only."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool

from langchain_sift.comparison.chains import ChainMeasurement, chain_rows
from langchain_sift.comparison.invocation import invoke
from langchain_sift.comparison.measurement import MeasurementSettings
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.config import FineTuneConfig
from langchain_sift.report.rows import Row


async def shout(text: str) -> str:
    """Return a text in capitals."""
    await asyncio.sleep(0)
    return text.upper()


COROUTINES = (
    RunnableLambda(shout),  # a TypeError names `ainvoke`
    RunnableLambda(lambda text: text + "!") | shout,
    StructuredTool.from_function(coroutine=shout),  # NotImplementedError
)


@pytest.mark.parametrize("runnable", COROUTINES)
def test_coroutines_run_without_and_within_an_event_loop(runnable: RunnableLambda) -> None:
    async def within_a_loop() -> str:
        return str(invoke(runnable, "rice"))

    assert invoke(runnable, "rice") == asyncio.run(within_a_loop())
    assert str(invoke(runnable, "rice")).rstrip("!") == "RICE"


def test_another_error_is_raised_after_one_call() -> None:
    calls: list[str] = []

    def fail(text: str) -> str:
        calls.append(text)
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        invoke(RunnableLambda(fail), "rice")
    assert calls == ["rice"]


def test_a_chain_with_coroutines_only_is_measured() -> None:
    prompt = Prompt("p", "rice", answers=("RICE",))
    measurement = ChainMeasurement(prompt, Row("qa", "p", "all", "mine"), RunnableLambda(shout))
    (row,) = chain_rows([measurement], MeasurementSettings(FineTuneConfig(), max_tokens=1))
    assert (row.answer, row.failure, row.scores["exact_match"]) == ("RICE", None, 1.0)
