"""Let a real chat model learn questions with documents and answers once, and answer others by RAG.

    python examples/evidence/learned_examples.py --data xquad.en.json --model FILE.gguf \
        --embeddings FOLDER --out RUN

The model answers the 200 questions of `real_model_questions.py`. The examples are 100 other
questions of XQuAD, each with the documents that the retriever finds for it, and none is about a
paragraph that has one of the 200. One adapter is trained on them once, with the default settings.
Beside it: RAG, RAG with an instruction to answer briefly, and an adapter that learned the examples
with the answers of other examples. A stopped run resumes from RUN. The rows
in `rows_learned_examples.jsonl` have ids and numbers and no text.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from qa import read
from real_model_questions import TOKENS, K

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    compare,
    create_ttft_chain,
)
from langchain_sift.comparison import Prompt, Row
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.ttft import load_language_model

ROWS = Path(__file__).parent / "rows_learned_examples.jsonl"
QUESTIONS, EXAMPLES = 200, 100
INSTRUCTED = ChatPromptTemplate(
    [
        (
            "human",
            "Use these documents to answer.\n\n{context}\n\n{input}\n\n"
            "Answer in as few words as possible.",
        )
    ]
)


def divided(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Return the questions to answer, and those to learn, which are about other paragraphs."""
    asked = random.Random(0).sample(prompts, QUESTIONS)
    sources = {prompt.source for prompt in asked}
    others = [prompt for prompt in prompts if prompt.source not in sources]
    return asked, random.Random(1).sample(others, EXAMPLES)


def documents_of(
    examples: list[Prompt], answers: list[str], retriever: SIFTRetriever
) -> list[Document]:
    """Return a document of each example, with what the retriever finds for it."""
    return [
        Document(
            example.text,
            metadata={
                "question": example.text,
                "answer": answer,
                "context": [found.page_content for found in retriever.invoke(example.text)],
            },
        )
        for example, answer in zip(examples, answers, strict=True)
    ]


def chains_of(
    chat: ChatTestTimeFineTuned, retriever: SIFTRetriever, examples: list[Prompt]
) -> dict[str, Runnable[str, Any]]:
    """Return a chain for each way to answer, by its name."""

    def chain(model: Any, mode: str, prompt: ChatPromptTemplate | None = None) -> Any:
        answer = create_ttft_chain(model, retriever, mode=mode, prompt=prompt)
        return (lambda question: {"input": question}) | answer

    def learned(answers: list[str]) -> Any:
        began = time.monotonic()
        session = chat.learn(documents_of(examples, answers, retriever))
        print(f"learned in {time.monotonic() - began:.0f} s", flush=True)
        return session

    answers = [example.answers[0] for example in examples]
    return {
        "instructed": chain(chat, "rag", INSTRUCTED),
        "learned": chain(learned(answers), "both"),
        "learned-wrong": chain(learned([*answers[1:], answers[0]]), "both"),
    }


def line_of(row: Row) -> dict[str, Any]:
    """Return the numbers of a row."""
    found = asdict(row)
    scores = {name: round(row.scores[name], 4) for name in ("contains", "f1", "exact_match")}
    names = ("prompt", "source", "method", "tokens_answer", "seconds_answering")
    return {name: found[name] for name in names} | scores


def read_learned() -> list[dict[str, Any]]:
    """Return the rows that were measured before."""
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Answer all questions in each way, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    documents, prompts = read(asked.data)
    questions, examples = divided(prompts)
    store = index_documents(documents, load_embeddings(asked.embeddings), asked.out / "store")
    model = load_language_model(asked.model)
    chat = ChatTestTimeFineTuned(
        model=model.model,
        tokenizer=model.tokenizer,
        finetune=FineTuneConfig(objective="answer", max_length=2048),
        max_tokens=TOKENS,
        temperature=0.0,
    )
    chains = chains_of(chat, SIFTRetriever(vectorstore=store, k=K), examples)
    report = compare(
        questions,
        ("rag:sift", *chains),
        model=model,
        vectorstore=store,
        chains=chains,
        protocols=("qa",),
        k=K,
        max_tokens=TOKENS,
        leaks="ignore",
        out=asked.out / "rows",
        resume=(asked.out / "rows" / "run.json").exists(),
    )
    ROWS.write_text("".join(json.dumps(line_of(row)) + "\n" for row in report.rows))


if __name__ == "__main__":
    main()
