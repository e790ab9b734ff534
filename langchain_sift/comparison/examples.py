"""Make documents of answered questions, for a model that learns to answer from documents."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from langchain_sift.checks import check_integer, instances
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError


def example_documents(
    prompts: Iterable[Prompt], retriever: Runnable[str, list[Document]], *, epochs: int = 1
) -> list[Document]:
    """Return a document of each question, with its answer and what a retriever finds for it.

    The objective "answer" learns them: `chat.learn(example_documents(prompts, retriever))`.

    Args:
        prompts: Questions with an answer, as `read_prompts` returns them. Of several answers the
            first is learned, of choices the correct one.
        retriever: The retriever that RAG will use.
        epochs: Number of times that each example is learned. After the first time, all follow
            again in a random order.

    Raises:
        ArgumentError: If a prompt is no `Prompt`, a question has no answer, the retriever returns
            no documents, or `epochs` is below 1.
    """
    check_integer("epochs", epochs, 1)
    prompts = instances("prompts", prompts, Prompt)
    for prompt in prompts:
        if not prompt.reference.strip():
            raise ArgumentError(f"the question {prompt.id!r} has no answer: leave it out")
    found = retriever.batch([prompt.text for prompt in prompts])
    documents = [instances("the retriever's result", each, Document) for each in found]
    once = [
        Document(
            prompt.text,
            id=prompt.id,
            metadata={
                "question": prompt.text,
                "answer": prompt.reference,
                "context": [document.page_content for document in reversed(shown)],
            },
        )
        for prompt, shown in zip(prompts, documents, strict=True)
    ]
    chance = random.Random(0)  # noqa: S311 - no secret
    again = [chance.sample(once, len(once)) for _ in range(epochs - 1)]
    return [*once, *itertools.chain.from_iterable(again)]
