"""`create_ttft_chain`: base model, RAG, test-time fine-tuning or both, by one word."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseLanguageModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)

from langchain_sift.config import MODES
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.fine_tuned import TestTimeFineTuning, most_at_once
from langchain_sift.retrievers import SIFTRetriever

_CONTEXT = "Use these documents to answer.\n\n{context}\n\n{input}"
_QUESTION = ChatPromptTemplate.from_messages([("human", "{input}")])
_QUESTION_WITH_CONTEXT = ChatPromptTemplate.from_messages([("human", _CONTEXT)])


def create_ttft_chain(
    llm: BaseLanguageModel[Any],
    retriever: Runnable[str, list[Document]],
    *,
    mode: str = "ttft",
    prompt: BasePromptTemplate[Any] | None = None,
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Return a chain that answers as `langchain_classic`'s `create_retrieval_chain` does.

    It takes `{"input": question}` and returns `{"input", "context", "answer"}`; the retrieval is
    a run of its own in a trace.

    Args:
        llm: For "ttft" and "both" a `ChatTestTimeFineTuned` or `TestTimeFineTunedLLM`; its own
            retriever, if it has one, is not asked. Otherwise any language model.
        retriever: Where the documents come from, most informative first. A `SIFTRetriever` is
            asked for its choice with repeats where the model learns from it, and what each
            document brought is in its metadata then, which `min_gain` needs.
        mode: "base": the model alone, and no retrieval. "rag": the documents are in the prompt.
            "ttft": the model learns from the documents before it answers. "both": it learns
            from them and has them in the prompt, each once.
        prompt: Takes "input", and with "rag" and "both" also "context". By default the
            question alone, or after the documents.

    Raises:
        ArgumentError: If there is no such mode, or the model cannot learn and has to, or the
            prompt lacks a variable.
    """
    if mode not in MODES:
        raise ArgumentError(f"mode must be one of {MODES}, got {mode!r}")
    learns, shows = mode in {"ttft", "both"}, mode in {"rag", "both"}
    own = isinstance(llm, TestTimeFineTuning)
    if learns and not own:
        raise ArgumentError(
            f"mode {mode!r} needs a ChatTestTimeFineTuned or TestTimeFineTunedLLM, "
            f"got {type(llm).__name__}"
        )
    asked = question_prompt(prompt, shows=shows)

    def answer(values: dict[str, Any]) -> Runnable[Any, str]:
        """Return what answers the question that was retrieved for."""
        # Given no documents, a model of ours answers as the base model.
        documents = values["context"] if learns else []
        model = llm.bind(documents=documents) if own else llm
        text = {"input": values["input"]}
        if shows:
            text["context"] = _as_text(values["context"])
        return RunnableLambda(lambda _: text) | asked | model | StrOutputParser()

    chain: Runnable[dict[str, Any], dict[str, Any]] = RunnablePassthrough.assign(
        context=itemgetter("input") | documents_of(retriever, mode, learns=learns)
    ).assign(answer=RunnableLambda(answer))
    config: RunnableConfig = {"run_name": f"ttft_chain ({mode})"}
    if isinstance(llm, TestTimeFineTuning):
        config["max_concurrency"] = most_at_once(llm.limits)
    return chain.with_config(config)


def with_context(question: str, documents: Sequence[Document]) -> str:
    """Return the question after the documents, each once, as the modes "rag" and "both" ask it."""
    return _CONTEXT.format(context=_as_text(documents), input=question)


def documents_of(
    retriever: Runnable[str, list[Document]], mode: str, *, learns: bool
) -> Runnable[str, list[Document]]:
    """Return what retrieves in a mode; with repeats, where the model learns and SIFT can."""
    if mode == "base":
        return RunnableLambda(lambda _: [])
    if learns and isinstance(retriever, SIFTRetriever):
        # A repeat is one more gradient step on what matters most (arXiv 2410.08020).
        return retriever.with_gains().bind(replace=True)
    return retriever


def question_prompt(
    prompt: BasePromptTemplate[Any] | None, *, shows: bool
) -> BasePromptTemplate[Any]:
    """Return the prompt, or the usual one.

    Raises:
        ArgumentError: If the prompt lacks a variable.
    """
    if prompt is None:
        return _QUESTION_WITH_CONTEXT if shows else _QUESTION
    needed = {"input", "context"} if shows else {"input"}
    if set(prompt.input_variables) != needed:
        raise ArgumentError(
            f"the prompt must take {sorted(needed)}, and takes {sorted(prompt.input_variables)}"
        )
    return prompt


def _as_text(documents: Sequence[Document]) -> str:
    """Return the documents' texts, each once, in their order."""
    return "\n\n".join(dict.fromkeys(document.page_content for document in documents))
