"""Create a chain that answers in one of four modes: base model, RAG, fine-tuning, or both."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
)

from langchain_sift.auto_mode import AUTO, ModeChoice, ModeTable, check_table
from langchain_sift.checks import check_choice, check_integer
from langchain_sift.config import MODES, adds_context, fine_tunes
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.context import join_documents
from langchain_sift.language_models.modes import (
    choose_mode_for,
    context_documents,
    retriever_for,
    table_settings_of,
    training_documents,
)
from langchain_sift.language_models.retrieval_chains import (
    QUESTION,
    QUESTION_WITH_CONTEXT,
    RetrievedQuestion,
    question_prompt,
    retrieval_chain,
    without_left_out,
)
from langchain_sift.language_models.wrapped_models import (
    WrappedModel,
    answers_in_text,
    fine_tuned_in,
)


def create_ttft_chain(
    llm: Runnable[Any, Any],
    retriever: Runnable[str, list[Document]],
    *,
    mode: str = "rag",
    prompt: BasePromptTemplate[Any] | None = None,
    modes: ModeTable | None = None,
    context_k: int | None = None,
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Create a chain with the interface of `langchain_classic`'s `create_retrieval_chain`.

    It takes `{"input": question}` and returns `{"input", "context", "answer"}`. Further entries,
    such as "chat_history", reach the prompt, and the retriever if it takes a mapping. The retrieval
    is a separate run in a trace.

    Args:
        llm: A `ChatTestTimeFineTuned` or `TestTimeFineTunedLLM` for the modes "ttft" and "both";
            any language model for the others. Either may be wrapped by `bind`, `with_config` or
            `with_retry`. The model's `retriever` is not used. A model that
            has learned (`llm.learn(...)`) answers with its adapter and trains no further: in the
            mode "ttft" without a retrieval, in "both" with the documents in the prompt.
        retriever: Returns documents, the most informative first; every mode uses the same ones. It
            takes the question, or all entries, as `create_history_aware_retriever` does.
            In the modes "ttft", "both" and "auto", a `SIFTRetriever` also writes each document's
            gain into its metadata, which `min_gain` and the mode "auto" need. With
            `search_kwargs={"replace": True}` it may return a document more than once in these
            modes, for one more gradient step each time; in the mode "rag" it returns as many
            different documents instead.
        mode: "base" answers without documents. "rag" puts the documents into the prompt, the most
            informative last, next to the question. "ttft" fine-tunes the model on the documents
            before it answers. "both" does both, with each document once in the prompt. A
            fine-tuned model's prompt has as many documents as its context has room for; the least
            informative are left out. "auto" chooses one of these for each question by
            `choose_mode`, from the retrieved documents, and uses the same documents; "mode" of the
            result is the choice and its reason.
        prompt: Takes "input", in the modes "rag", "both" and "auto" also "context", and any further
            entries. The default is the question, after the documents if there are any.
        modes: The gain and the time of each mode on held-out prompts, for the mode "auto":
            `CalibratedSettings.modes`. None means the rule without a table. A warning tells if the
            retriever's settings or `context_k` are not those that the table was measured with.
        context_k: Maximum number of documents in the prompt: of the first `context_k` that the
            retriever returns, it has as many as fit. In the mode "both" the model learns all of
            them, and "context" of the result has all of them. The mode "auto" chooses by the
            table of modes, which can be measured with the same limit. None means as many documents
            as fit.

    Raises:
        ArgumentError: If the mode is unknown, `modes` is no table, `context_k` is below 1 or the
            mode puts no document into the prompt, the model or the retriever is no runnable, the
            model answers with tool calls or objects, the model cannot be fine-tuned in a mode that
            needs it, a model that has learned is used in another mode, a model with fallbacks or
            alternatives holds one that has learned or has a retriever, or the prompt does not take
            "input" and, in the modes that show documents, "context".
    """
    _check_runnables(llm, retriever)
    tuned = fine_tuned_in(llm)
    _check_mode(llm, tuned, mode, modes)
    _check_context_k(context_k, mode)
    _warn_of_other_settings(retriever, mode, modes, context_k)
    template = question_prompt(prompt, context=adds_context(mode))
    _check_variables(template, mode)

    def answer(question: RetrievedQuestion) -> Runnable[Any, str]:
        """Return the steps that answer a question with its documents."""
        documents, fill = question["context"], functools.partial(_fill, template, question)
        chosen = question["mode"].mode if mode == AUTO else mode
        in_context = context_documents(chosen, documents, context_k)
        context = join_documents(document.page_content for document in in_context)
        settings = dict[str, object]()
        if tuned is not None:
            if not tuned.has_learned:
                # Without documents, a fine-tuned model answers as the base model.
                settings["documents"] = training_documents(chosen, documents)
            if in_context:
                fitted = tuned.fit_context(in_context, fill)
                context, settings["context_record"] = fitted.context, fitted.record(in_context)
                settings["prompt_with"] = fill
        value = fill(context)
        return RunnableLambda(lambda _: value) | llm.bind(**settings) | StrOutputParser()

    def choose(question: RetrievedQuestion) -> ModeChoice:
        """Return the mode of a question with its documents."""

        def fitting(documents: Sequence[Document]) -> int:
            """Return how many documents the prompt has room for."""
            fill = functools.partial(_fill, template, question)
            return len(cast("WrappedModel", tuned).fit_context(documents, fill).used)

        return choose_mode_for(question["context"], fitting, modes)

    choice = choose if mode == AUTO else None
    chain = retrieval_chain(_retriever_for(tuned, retriever, mode), template, answer, choice)
    config: RunnableConfig = {"run_name": f"ttft_chain ({mode})"}
    if tuned is not None:
        config["max_concurrency"] = tuned.model.limits.at_once
    return chain.with_config(config)


def _check_variables(template: BasePromptTemplate[Any], mode: str) -> None:
    if mode == AUTO and "mode" in template.input_variables:
        raise ArgumentError(
            'the prompt takes "mode", which is the choice of the mode "auto": rename the variable'
        )


def _check_runnables(llm: object, retriever: object) -> None:
    """Reject a model or a retriever of another type, and a model that does not answer in text."""
    if not isinstance(llm, Runnable):
        raise ArgumentError(
            f"llm must be a language model of LangChain, got a {type(llm).__name__}: pass a model, "
            "or make a runnable of a function with RunnableLambda"
        )
    if not isinstance(retriever, Runnable):
        raise ArgumentError(
            "retriever must be a runnable that returns documents, such as a SIFTRetriever, got a "
            f"{type(retriever).__name__}"
        )
    if not answers_in_text(llm):
        raise ArgumentError(
            "llm must answer in text, and this one answers with tool calls or objects, which the "
            "chain would lose: pass the model without bind_tools and with_structured_output, or "
            "add a step that makes a text of its answer, as in llm | RunnableLambda(...)"
        )


def _check_mode(
    llm: object, tuned: WrappedModel | None, mode: str, modes: ModeTable | None
) -> None:
    """Reject an unknown mode, and a model that cannot answer in it."""
    check_choice("mode", mode, (*MODES, AUTO))
    check_table(modes)
    if fine_tunes(mode) and tuned is None:
        raise ArgumentError(
            f"mode {mode!r} needs a ChatTestTimeFineTuned or TestTimeFineTunedLLM, "
            f"got {type(llm).__name__}"
        )
    if tuned is not None and tuned.has_learned and mode not in {"ttft", "both"}:
        raise ArgumentError(
            f"the model has learned, and mode {mode!r} would not use what it has learned: use "
            '"ttft", or "both" to put documents into the prompt as well, or pass the model that '
            "has not learned"
        )


def _check_context_k(context_k: int | None, mode: str) -> None:
    """Reject a number below 1, and one that would have no effect."""
    check_integer("context_k", context_k, 1, optional=True)
    if context_k is not None and not adds_context(mode):
        raise ArgumentError(
            f"context_k is {context_k}, but the mode {mode!r} puts no document into the prompt: "
            'leave it out, or use the mode "rag", "both" or "auto"'
        )


def _warn_of_other_settings(
    retriever: Runnable[str, list[Document]],
    mode: str,
    modes: ModeTable | None,
    context_k: int | None,
) -> None:
    """Warn if a table of modes was measured with other settings than those in use."""
    if mode != AUTO or modes is None or modes.measured_with is None:
        return
    note = modes.note_on(table_settings_of(retriever, context_k))
    if note is not None:
        warnings.warn(note, stacklevel=3)


def _retriever_for(
    tuned: WrappedModel | None, retriever: Runnable[str, list[Document]], mode: str
) -> Runnable[str, list[Document]]:
    """Return the retriever of a mode; a model that has learned needs documents to show alone."""
    if tuned is not None and tuned.has_learned:
        mode = "rag" if adds_context(mode) else "base"
    return retriever_for(mode, retriever)


def _fill(
    template: BasePromptTemplate[Any], question: RetrievedQuestion, context: str
) -> PromptValue:
    if template is QUESTION_WITH_CONTEXT and not context:
        template = QUESTION
    return template.invoke({**without_left_out(template, question), "context": context})
