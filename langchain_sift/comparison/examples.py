"""Make documents of answered questions, for a model that learns to answer from documents."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError


def example_documents(
    prompts: Sequence[Prompt], retriever: Runnable[str, list[Document]]
) -> list[Document]:
    """Return a document of each question, with its answer and what a retriever finds for it.

    The objective "answer" learns them: `chat.learn(example_documents(prompts, retriever))`.

    Args:
        prompts: Questions with an answer, as `read_prompts` returns them. Of several answers the
            first is learned, of choices the correct one.
        retriever: The retriever that RAG will use.

    Raises:
        ArgumentError: If a question has no answer.
    """
    for prompt in prompts:
        if not prompt.reference.strip():
            raise ArgumentError(f"the question {prompt.id!r} has no answer: leave it out")
    found = retriever.batch([prompt.text for prompt in prompts])
    return [
        Document(
            prompt.text,
            id=prompt.id,
            metadata={
                "question": prompt.text,
                "answer": prompt.reference,
                "context": [document.page_content for document in reversed(documents)],
            },
        )
        for prompt, documents in zip(prompts, found, strict=True)
    ]
