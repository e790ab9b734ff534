"""Let a real chat model learn questions with documents and answers once, and answer others by RAG.

    python examples/evidence/learned_examples.py --data xquad.en.json --model FILE.gguf \
        --embeddings FOLDER --out RUNS

The model answers the 200 questions of `real_model_questions.py`. The examples are other questions
of XQuAD, each with the documents that the retriever finds for it, and none is about a paragraph
that has one of the 200. One adapter is trained on them once, with the default settings. Beside it:
RAG, RAG with an instruction to answer briefly, and an adapter that learned the examples with the
answers of other examples. The ways that are in `rows_learned_examples.jsonl` are not measured
again, and a stopped run goes on. The rows have ids and numbers and no text.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from qa import read
from real_model_questions import TOKENS, K

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    compare,
    create_ttft_chain,
)
from langchain_sift.cli.learn import example_documents
from langchain_sift.comparison import Prompt, Row
from langchain_sift.indexing import index_documents
from langchain_sift.indexing.named_objects import load_embeddings
from langchain_sift.ttft import load_language_model

ROWS = Path(__file__).parent / "rows_learned_examples.jsonl"
QUESTIONS = 200
EXAMPLES = {"learned": 100, "learned-wrong": 100, "learned-300": 300}
"""Number of examples of each adapter."""

WAYS = ("rag:sift", "instructed", *EXAMPLES)
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
    return asked, random.Random(1).sample(others, max(EXAMPLES.values()))


def chain_of(
    way: str, chat: ChatTestTimeFineTuned, retriever: SIFTRetriever, examples: list[Prompt]
) -> Runnable[str, Any]:
    """Return the chain of a way to answer; it learns the examples first, if it does."""
    if way not in EXAMPLES:
        answer = create_ttft_chain(chat, retriever, mode="rag", prompt=INSTRUCTED)
    else:
        learned = examples[: EXAMPLES[way]]
        if way == "learned-wrong":
            others = [*learned[1:], learned[0]]
            pairs = zip(learned, others, strict=True)
            learned = [replace(one, answers=other.answers) for one, other in pairs]
        began = time.monotonic()
        session = chat.learn(example_documents(learned, retriever))
        print(f"{way}: learned in {time.monotonic() - began:.0f} s", flush=True)
        answer = create_ttft_chain(session, retriever, mode="both")
    return RunnableLambda(lambda question: {"input": question}) | answer


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
    retriever = SIFTRetriever(vectorstore=store, k=K)
    for way in WAYS:
        done = {row["method"] for row in read_learned()}
        if way in done:
            continue
        folder = asked.out / way.replace(":", "-")
        report = compare(
            questions,
            (way,),
            model=model,
            vectorstore=store,
            chains={} if way == WAYS[0] else {way: chain_of(way, chat, retriever, examples)},
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
                    file.write(json.dumps(line_of(row)) + "\n")


if __name__ == "__main__":
    main()
