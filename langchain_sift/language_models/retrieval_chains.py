"""Build chains that retrieve the documents of a question and answer it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NotRequired, TypedDict, cast

from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from langchain_sift.auto_mode import ModeChoice
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.call_settings import check_documents
from langchain_sift.language_models.modes import CONTEXT_PROMPT
from langchain_sift.retrieval.inputs import takes_mapping

QUESTION = PromptTemplate.from_template("{input}")
"""The prompt without documents."""

QUESTION_WITH_CONTEXT = PromptTemplate.from_template(CONTEXT_PROMPT)
"""The prompt with documents."""


class RetrievedQuestion(TypedDict):
    """A question with its documents, and whatever else the chain was called with."""

    input: str
    context: list[Document]
    mode: NotRequired[ModeChoice]


def without_left_out(
    template: BasePromptTemplate[Any], question: RetrievedQuestion
) -> dict[str, Any]:
    """Return a question without the optional variables of a prompt that are None.

    A tool of the chain passes None for those that it was not given.
    """
    left_out = {name for name in template.optional_variables if question.get(name) is None}
    return {name: value for name, value in question.items() if name not in left_out}


def retrieval_chain(
    retriever: Runnable[str, list[Document]],
    template: BasePromptTemplate[Any],
    answer: Callable[[RetrievedQuestion], Runnable[Any, str]],
    choose: Callable[[RetrievedQuestion], ModeChoice] | None = None,
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Create a chain that adds "context" and "answer" to a question.

    Args:
        retriever: Returns the documents for the question, or for all that the chain is called with.
        template: The prompt, whose variables are the inputs of the chain.
        answer: Returns the steps that answer the question.
        choose: Returns the mode of the question with its documents. None means a fixed mode.
    """
    step = functools.partial(_step, template)
    retrieval: Any = retriever if takes_mapping(retriever) else itemgetter("input") | retriever
    chain: Any = RunnablePassthrough.assign(context=_ENTRIES | retrieval | _CHECKED)
    if choose is not None:
        chain = chain.assign(mode=step(choose, ModeChoice))
    return cast("Runnable[dict[str, Any], dict[str, Any]]", chain.assign(answer=step(answer, str)))


def _step(
    template: BasePromptTemplate[Any], function: Callable[[RetrievedQuestion], object], output: type
) -> Runnable[Any, Any]:
    """Return a step of a chain; its schemas are those of the prompt and of the output.

    LangChain makes the schemas of annotations, and cannot resolve those of a nested function.
    """
    function.__annotations__ = {"question": template.get_input_schema(), "return": output}
    return RunnableLambda(function)


def _check_entries(entries: dict[str, object]) -> dict[str, object]:
    """Return what a chain was called with, or raise an error that names the missing entry."""
    if "input" not in entries:
        named = ", ".join(map(repr, entries)) or "an empty dictionary"
        raise ArgumentError(f'the chain takes {{"input": question}}, got {named}')
    return entries


_ENTRIES = RunnableLambda(_check_entries, name="check_entries")
_CHECKED = RunnableLambda(
    functools.partial(check_documents, source="the retriever's result"), name="check_documents"
)


def question_prompt(
    prompt: BasePromptTemplate[Any] | None, *, context: bool
) -> BasePromptTemplate[Any]:
    """Return the prompt of a chain, checked.

    Args:
        prompt: The prompt. None means the default.
        context: If True, the prompt must take the documents; otherwise it must not.

    Raises:
        ArgumentError: If it is no prompt, or does not take the variables of the chain.
    """
    if prompt is None:
        return QUESTION_WITH_CONTEXT if context else QUESTION
    if not isinstance(prompt, BasePromptTemplate):
        raise ArgumentError(
            "prompt must be a prompt template, such as PromptTemplate.from_template(...), got a "
            f"{type(prompt).__name__}"
        )
    taken, required = {*prompt.input_variables}, {"input", "context"} if context else {"input"}
    if not required <= taken or (not context and "context" in taken):
        without = "" if context else ', and no "context" in a mode without documents in the prompt'
        raise ArgumentError(
            f"the prompt must take {sorted(required)}{without}, got a prompt that takes "
            f"{sorted(taken)}"
        )
    return prompt
