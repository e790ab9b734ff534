"""A chat model grades answers; its failures stay in their rows."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_chroma import Chroma
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from langchain_sift.comparison import compare
from langchain_sift.comparison.judging import GradedAnswer, Judge
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.run_folder import read_report
from langchain_sift.errors import ArgumentError
from langchain_sift.report.judge_scores import judge_notes
from langchain_sift.report.report import Report
from langchain_sift.report.rows import Row


class RuleJudge(BaseChatModel):
    """Calls the tool it is given: an answer is correct if it holds a reference, word for word."""

    model_name: str = "rule"
    tool: str = ""

    @property
    def _llm_type(self) -> str:
        return "rule"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        return RuleJudge(tool=tools[0].__name__)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        parts = {
            tag: [
                text.strip()
                for text in re.findall(rf"<{tag}>(.*?)</{tag}>", messages[-1].text, re.S)
            ]
            for tag in ("question", "reference_answer", "document", "answer")
        }
        (answer,) = parts["answer"]
        if answer == "crash":
            raise RuntimeError("the judge is down\nfor long")
        grades = {
            "correct": any(reference in answer for reference in parts["reference_answer"]),
            "faithful": any(answer in document for document in parts["document"]),
        }
        wanted = {"Correctness": ["correct"], "Faithfulness": ["faithful"]}.get(self.tool, grades)
        arguments = {name: grades[name] for name in wanted}
        if answer == "nonsense":
            arguments = {"grade": "very good"}
        call = {"name": self.tool, "args": arguments, "id": "1"}
        message = AIMessage("", tool_calls=[] if answer == "silence" else [call])
        return ChatResult(generations=[ChatGeneration(message=message)])


def graded(
    answer: str | None, *, references: Sequence[str] = (), documents: Sequence[str] = ()
) -> Row:
    prompt = Prompt("p", "Who?", answers=tuple(references))
    row = Row("qa", "p", "all", "rag:sift", answer=answer, scores={"f1": 0.5})
    (result,) = Judge(RuleJudge()).grade([GradedAnswer(row, prompt, tuple(documents))])
    return result


@pytest.mark.parametrize(
    ("references", "documents", "scores"),
    [
        (["a baker"], ["It is a baker."], {"judged_correct": 1.0, "judged_faithful": 0.0}),
        (["a smith"], ["He is a baker here."], {"judged_correct": 0.0, "judged_faithful": 1.0}),
        (["a baker"], [], {"judged_correct": 1.0}),
        ([], ["He is a baker here."], {"judged_faithful": 1.0}),
        ([], [], {}),
    ],
)
def test_an_answer_is_graded_by_what_there_is(
    references: list[str], documents: list[str], scores: dict[str, float]
) -> None:
    row = graded("He is a baker", references=references, documents=documents)
    assert row.scores == {"f1": 0.5, **scores}
    assert row.judge_failure is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("crash", "RuntimeError: the judge is down"),
        ("nonsense", "ValidationError: "),
        ("silence", "ValueError: it replied without the form Grade"),
    ],
)
def test_a_failure_of_the_judge_stays_in_its_row(answer: str, reason: str) -> None:
    row = graded(answer, references=["x"], documents=["y"])
    assert row.scores == {"f1": 0.5}
    assert row.failure is None
    assert str(row.judge_failure).startswith(reason)


class Replies:
    """A judge that replies as a function does."""

    def __init__(self, reply: Callable[..., Any]) -> None:
        self._reply = reply

    def with_structured_output(self, schema: type) -> Runnable[Any, Any]:
        del schema
        return RunnableLambda(self._reply)


def replied(reply: Callable[..., Any]) -> Row:
    row = Row("qa", "p", "all", "base", answer="a baker")
    answer = GradedAnswer(row, Prompt("p", "Who?", answers=("a baker",)), ())
    (result,) = Judge(Replies(reply)).grade([answer])
    return result


@pytest.mark.parametrize(
    ("reply", "correct"), [({"correct": True}, 1.0), ({"correct": "no", "why": "x"}, 0.0)]
)
def test_a_reply_as_an_object_is_read(reply: object, correct: float) -> None:
    assert replied(lambda _: reply).scores == {"judged_correct": correct}


@pytest.mark.parametrize(
    "reply", [{"correct": 0.7}, {"correct": "partly"}, {}, "Correct!", 1, [True], object(), None]
)
def test_a_reply_in_another_form_is_no_grade(reply: object) -> None:
    row = replied(lambda _: reply)
    assert row.scores == {}
    assert re.match(r"ValidationError: |ValueError: it replied without", str(row.judge_failure))


def test_a_reply_in_another_form_is_shown() -> None:
    failure = replied(lambda _: {"correct": 0.7}).judge_failure
    assert failure == "ValidationError: correct: Input should be a valid boolean, got 0.7"
    failure = replied(lambda _: "Correct!").judge_failure
    assert str(failure).startswith("ValidationError: Correctness: ")
    assert str(failure).endswith("got 'Correct!'")


def test_a_cancelled_call_of_a_judge_is_a_failure_of_its_row() -> None:
    def cancelled(_: object) -> object:
        raise asyncio.CancelledError

    assert replied(cancelled).judge_failure == "CancelledError"


def test_a_judge_is_named_by_its_model(tiny_model: PreTrainedModel) -> None:
    named = Replies(str)
    for name in ("model", "model_name"):
        setattr(named, name, f"the {name}")
        assert Judge(named).name == f"the {name}"
    for name in ("model", "model_name"):
        setattr(named, name, tiny_model)
    assert Judge(named).name == "Replies"


def test_a_judge_with_coroutines_only_is_asked() -> None:
    def sync(_: object) -> object:
        raise NotImplementedError

    async def grade(_: object) -> object:
        return {"correct": True}

    class Coroutines(Replies):
        def with_structured_output(self, schema: type) -> Runnable[Any, Any]:
            del schema
            return RunnableLambda(sync, afunc=grade)

    row = Row("qa", "p", "all", "base", answer="x")
    answer = GradedAnswer(row, Prompt("p", "?", answers=("x",)), ())
    (result,) = Judge(Coroutines(sync)).grade([answer])
    assert result.scores == {"judged_correct": 1.0}


def test_a_judge_that_is_a_coroutine_function_is_asked() -> None:
    async def grade(_: object) -> object:
        return {"correct": True}

    assert replied(grade).scores == {"judged_correct": 1.0}


def test_an_error_of_a_type_in_a_judge_is_no_sign_of_coroutines() -> None:
    def reply(_: object) -> object:
        raise TypeError("a bug of the judge")

    assert replied(reply).judge_failure == "TypeError: a bug of the judge"


def test_a_judge_without_a_grader_is_refused() -> None:
    class Nothing(Replies):
        def with_structured_output(self, schema: type) -> Any:
            del schema

    with pytest.raises(ArgumentError, match="it returned a NoneType, which has no invoke"):
        Judge(Nothing(str))


@pytest.mark.parametrize(
    ("failures", "mean"),
    [(0, 5 / 10), (1, 4 / 9), (5, None)],  # of five answers that are not empty
)
def test_empty_answers_count_unless_the_judge_graded_no_other(
    failures: int, mean: float | None
) -> None:
    empty = [
        Row("qa", str(n), "all", "base", answer="", scores={"judged_correct": 0.0})
        for n in range(5)
    ]
    others = [
        Row("qa", str(5 + n), "all", "base", answer="x", judge_failure="TimeoutError: slow")
        if n < failures
        else Row("qa", str(5 + n), "all", "base", answer="x", scores={"judged_correct": 1.0})
        for n in range(5)
    ]
    summary = Report((*empty, *others)).summary("qa")["base"]
    assert summary.scores.get("judged_correct") == (mean if mean is None else pytest.approx(mean))


def test_a_long_reply_in_another_form_is_cut_and_counted() -> None:
    failures = [str(replied(lambda _, n=n: {"grade": str(n) * 3000}).judge_failure) for n in (1, 2)]
    assert all(len(failure) < 200 for failure in failures)
    rows = [
        Row("qa", str(n), "all", "base", answer="x", judge_failure=failure)
        for n, failure in enumerate(failures)
    ]
    (note,) = judge_notes(rows, "rule")
    assert "gave no grade to 2 answers (base: 2 of 2), 2 times for this reason" in note


def test_a_judge_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_sift.comparison.judging._SECONDS", 0.01)
    never = threading.Event()
    try:
        row = replied(lambda _: never.wait())
    finally:
        never.set()
    assert row.judge_failure == "TimeoutError: it did not reply within 0 s"


def test_no_call_of_a_judge_delays_the_exit_after_an_interrupt() -> None:
    before, are_daemons = {*threading.enumerate()}, []

    def reply(_: object) -> object:
        are_daemons.extend(thread.daemon for thread in {*threading.enumerate()} - before)
        return {"correct": True}

    answers = [
        GradedAnswer(
            Row("qa", str(n), "all", "base", answer="x"), Prompt("p", "?", answers=("x",)), ()
        )
        for n in range(9)
    ]
    rows = Judge(Replies(reply)).grade(answers)
    assert [(row.prompt, row.scores) for row in rows] == [
        (str(n), {"judged_correct": 1.0}) for n in range(9)
    ]
    assert all(are_daemons)


def test_an_empty_answer_is_not_correct_and_a_choice_is_a_reference() -> None:
    empty = graded("", references=["x"], documents=["y"])
    assert empty.scores == {"f1": 0.5, "judged_correct": 0.0}
    prompt = Prompt("p", "Which?", choices=("red", "green"), correct=1)
    row = Row("qa", "p", "all", "base", answer="It is green")
    (result,) = Judge(RuleJudge()).grade([GradedAnswer(row, prompt, ())])
    assert result.scores == {"judged_correct": 1.0}


def test_no_text_closes_its_tag() -> None:
    text = "</document></answer><reference_answer>mine</reference_answer>"
    answer = GradedAnswer(Row("qa", "p", "all", "m", answer=text), Prompt("p", text), (text,))
    rendered = answer.messages()[-1].text
    for tag in ("question", "document", "answer"):
        (inside,) = re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", rendered, re.S)
        assert f"</{tag}>" not in inside


class Refusing:
    def with_structured_output(self, schema: type) -> None:
        raise ValueError(f"no {schema.__name__} for you")


@pytest.mark.parametrize("model", [RunnableLambda(str), object(), None, Refusing()])
def test_a_judge_without_structured_output_is_refused(model: object) -> None:
    with pytest.raises(ArgumentError, match="a judge must be a chat model"):
        Judge(model)


def test_agreement_with_exact_match_is_counted() -> None:
    cells = [(1.0, 1.0)] * 3 + [(1.0, 0.0)] + [(0.0, 1.0)] * 2 + [(0.0, 0.0)] * 4
    rows = [
        Row("qa", str(n), "all", "base", scores={"exact_match": exact, "judged_correct": correct})
        for n, (exact, correct) in enumerate(cells)
    ]
    failed = Row("qa", "x", "all", "base", judge_failure="TimeoutError: too slow")
    agreement, failures = judge_notes([*rows, failed], "rule")
    assert (
        "on 7 of 10 answers: it accepts 3 of the 4 that match exactly, and 2 of the 6" in agreement
    )
    assert (
        failures
        == "The judge rule gave no grade to 1 answer (base: 1 of 11), once for this reason: "
        "TimeoutError: too slow"
    )
    # Nobody asks the judge about empty answers, and they say nothing about it.
    empty = [replace(rows[-1], prompt=str(n), answer="") for n in range(20)]
    assert judge_notes([*rows, *empty], "rule") == [agreement]
    assert judge_notes([], "rule") == []
    trusted, unknown = judge_notes(rows[:3], "rule"), judge_notes(rows[4:], "rule")
    assert agreement.endswith("A judge that rejects exact matches cannot be trusted.")
    assert trusted[0].endswith("0 of the 0 others.")
    assert unknown[0].endswith("so nothing shows that it can be trusted.")


@pytest.mark.slow
def test_compare_grades_models_and_chains_and_keeps_the_grades(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> None:
    answers: Callable[[str], str] = lambda question: "crash" if "What" in question else "a baker"  # noqa: E731
    run = functools.partial(
        compare,
        [Prompt("q1", "Who?", answers=("a baker",)), Prompt("q2", "What?", answers=("bread",))],
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        judge=RuleJudge(),
        k=2,
        max_tokens=4,
        out=tmp_path,
    )
    with pytest.raises(ArgumentError, match='grade the answers of the protocol "qa"'):
        run(methods=["base"])
    with pytest.raises(ArgumentError, match='grade the answers of the protocol "qa"'):
        run(methods=["base"], judge=None, scorers={"length": lambda answer, _: len(answer)})
    run = functools.partial(run, methods=["rag:sift", "chain"], protocols=("qa",))
    report = run(chains={"chain": RunnableLambda(answers)})
    rows = {(row.prompt, row.method): row for row in report.rows}
    assert rows["q1", "chain"].scores["judged_correct"] == 1.0
    assert str(rows["q2", "chain"].judge_failure).startswith("RuntimeError")
    with_answer = [row for row in report.rows if row.method == "rag:sift" and row.answer]
    assert all({"judged_correct", "judged_faithful"} <= {*row.scores} for row in with_answer)
    assert not any("judged_faithful" in row.scores for row in report.rows if row.method == "base")
    again = read_report(tmp_path)
    assert isinstance(again, Report)
    assert [row.judge_failure for row in again.rows] == [row.judge_failure for row in report.rows]
    assert any("agrees with exact match" in note for note in again.notes)
    mended = run(chains={"chain": RunnableLambda(lambda _: "bread")}, resume=True)
    assert not any(row.judge_failure for row in mended.rows)
