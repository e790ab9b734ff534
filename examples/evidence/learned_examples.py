"""Let a real chat model learn questions with documents and answers once, and answer others by RAG.

    python examples/evidence/learned_examples.py --data xquad.en.json --model FILE.gguf \
        --embeddings FOLDER --out RUNS

The model answers the 200 questions of `real_model_questions.py`. The examples are other questions
of XQuAD, each with the documents that the retriever finds for it. None is about a paragraph of
these 200. One adapter is trained on them once, with the default settings. Beside it: RAG, RAG with
an instruction to answer briefly, and an adapter that learned the examples with the answers of
other examples. Ways with rows in `rows_learned_examples.jsonl` are not measured again, except for
the base model, and a stopped run resumes. The rows have ids and numbers and no text.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from qa import read
from real_model_questions import TOKENS, K, read_questions

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    compare,
    create_ttft_chain,
)
from langchain_sift.comparison import Prompt, Row, example_documents
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.language_models.modes import CONTEXT_PROMPT
from langchain_sift.ttft import load_language_model

ROWS = Path(__file__).parent / "rows_learned_examples.jsonl"
FIRST_ROWS = Path(__file__).parent / "rows_learned_examples_first.jsonl"
"""Rows of prompts and examples that have the most informative document first."""
QUESTIONS = 200
EXAMPLES = {"learned": 100, "learned-wrong": 100, "learned-300": 300}
"""Number of examples of each adapter."""

RAG = "rag:sift"
WAYS = (RAG, "instructed", *EXAMPLES)
INSTRUCTED = ChatPromptTemplate(
    [("human", f"{CONTEXT_PROMPT}\n\nAnswer in as few words as possible.")]
)


def divided(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Return the questions to answer, and those to learn, which are about other paragraphs."""
    asked = random.Random(0).sample(prompts, QUESTIONS)
    sources = {prompt.source for prompt in asked}
    others = [prompt for prompt in prompts if prompt.source not in sources]
    return asked, random.Random(1).sample(others, max(EXAMPLES.values()))


def chain_of(
    way: str, chat: ChatTestTimeFineTuned, retriever: SIFTRetriever, examples: list[Prompt]
) -> tuple[Runnable[str, Any], float]:
    """Return the chain of a way to answer, and the seconds that it took to learn its examples."""
    began = time.monotonic()
    if way in EXAMPLES:
        learned = examples[: EXAMPLES[way]]
        if way == "learned-wrong":
            others = [*learned[1:], learned[0]]
            pairs = zip(learned, others, strict=True)
            learned = [replace(one, answers=other.answers) for one, other in pairs]
        session = chat.learn(example_documents(learned, retriever))
        answer = create_ttft_chain(session, retriever, mode="both")
    else:
        answer = create_ttft_chain(chat, retriever, mode="rag", prompt=INSTRUCTED)
    seconds = time.monotonic() - began
    return RunnableLambda(lambda question: {"input": question}) | answer, seconds


def line_of(row: Row, seconds: float) -> dict[str, Any]:
    """Return the numbers of a row, with the seconds that its method learned before."""
    scores = {name: round(row.scores[name], 4) for name in ("contains", "f1", "exact_match")}
    return {
        "prompt": row.prompt,
        "source": row.source,
        "method": row.method,
        "seconds_answering": round(row.seconds_answering, 2),
        "seconds_learning": round(seconds),
        **scores,
    }


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
        timeout=None,
    )
    retriever = SIFTRetriever(vectorstore=store, k=K)
    for way in WAYS:
        done = {row["method"] for row in read_questions(ROWS)}
        if way in done:
            continue
        chains: dict[str, Runnable[str, Any]] = {}
        seconds = 0.0
        if way != RAG:
            chains[way], seconds = chain_of(way, chat, retriever, examples)
        folder = asked.out / way.replace(":", "-")
        report = compare(
            questions,
            (way,),
            model=model,
            vectorstore=store,
            chains=chains,
            protocols=("qa",),
            k=K,
            max_tokens=TOKENS,
            leaks="ignore",
            out=folder,
            resume=(folder / "run.json").exists(),
        )
        with ROWS.open("a", encoding="utf-8") as file:
            for row in report.rows:
                if row.method not in done:
                    learning = seconds if row.method == way else 0.0
                    file.write(json.dumps(line_of(row, learning)) + "\n")


if __name__ == "__main__":
    main()
