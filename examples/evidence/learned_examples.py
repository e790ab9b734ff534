"""Let a real chat model learn questions with documents and answers once, and answer others by RAG.

    python examples/evidence/learned_examples.py --data xquad.en.json --model FILE.gguf \
        --embeddings FOLDER --out RUNS
    python examples/evidence/learned_examples.py ... --rows rows_learned_examples_gemma.jsonl \
        --ways rag:sift,template,learned-300 --questions 100
    python examples/evidence/learned_examples.py ... --ways learned-24,learned-24-twice \
        --questions 100
    python examples/evidence/learned_examples.py ... --tuning \
        --rows rows_learned_examples_tuning.jsonl

The model answers the 200 questions of `real_model_questions.py`, or the first of them. The examples
are other questions of XQuAD, each with the documents that the retriever finds for it. None is about
a paragraph of these 200. One adapter is trained on them, with the default settings. Beside it:
RAG, RAG with an instruction to answer briefly, and an adapter that learned the examples with the
answers of other examples. A model without a chat template, such as Gemma 3 270M, answers by RAG as
`compare` asks such a model, and by RAG with the template of Gemma's chat models, with which it
learns. Ways that the file of rows has are not measured again, except for the base model, and a
stopped run resumes. The rows have ids and numbers and no text. With --tuning, the model answers 80
other questions after learning few examples or many, once or several times.
"""

from __future__ import annotations

import argparse
import copy
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
GEMMA_ROWS = Path(__file__).parent / "rows_learned_examples_gemma.jsonl"
TUNING_ROWS = Path(__file__).parent / "rows_learned_examples_tuning.jsonl"
"""Rows of the questions that the number of epochs was chosen with."""
QUESTIONS = 200
TUNING_QUESTIONS = 80
EXAMPLES = {
    "learned": (100, 1),
    "learned-24": (24, 1),
    "learned-24-twice": (24, 2),
    "learned-wrong": (100, 1),
    "learned-300": (300, 1),
    "learned-24-four-times": (24, 4),
    "learned-twice": (100, 2),
}
"""Number of examples of each adapter, and how often it learned each of them."""
ONE_EPOCH = {
    "learned-24-twice": "learned-24",
    "learned-24-four-times": "learned-24",
    "learned-twice": "learned",
}
"""Ways that learn examples several times, and those that learn the same ones once."""
TUNING_WAYS = tuple(dict.fromkeys([*ONE_EPOCH.values(), *ONE_EPOCH]))

RAG = "rag:sift"
WAYS = (
    RAG,
    "instructed",
    "learned-24",
    "learned-24-twice",
    "learned",
    "learned-wrong",
    "learned-300",
)
INSTRUCTED = ChatPromptTemplate(
    [("human", f"{CONTEXT_PROMPT}\n\nAnswer in as few words as possible.")]
)
# https://ai.google.dev/gemma/docs/core/prompt-structure
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def divided(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Return the questions to answer, and those to learn, which are about other paragraphs."""
    asked = random.Random(0).sample(prompts, QUESTIONS)
    sources = {prompt.source for prompt in asked}
    others = [prompt for prompt in prompts if prompt.source not in sources]
    return asked, random.Random(1).sample(others, max(count for count, _ in EXAMPLES.values()))


def tuning_questions(
    prompts: list[Prompt], asked: list[Prompt], examples: list[Prompt]
) -> list[Prompt]:
    """Return questions about other paragraphs than the questions to answer and the examples."""
    most = max(EXAMPLES[way][0] for way in TUNING_WAYS)
    sources = {prompt.source for prompt in [*asked, *examples[:most]]}
    others = [prompt for prompt in prompts if prompt.source not in sources]
    return random.Random(5).sample(others, TUNING_QUESTIONS)


def chain_of(
    way: str, chat: ChatTestTimeFineTuned, retriever: SIFTRetriever, examples: list[Prompt]
) -> tuple[Runnable[str, Any], float]:
    """Return the chain of a way to answer, and the seconds that it took to learn its examples."""
    began = time.monotonic()
    if way in EXAMPLES:
        count, epochs = EXAMPLES[way]
        learned = examples[:count]
        if way == "learned-wrong":
            others = [*learned[1:], learned[0]]
            pairs = zip(learned, others, strict=True)
            learned = [replace(one, answers=other.answers) for one, other in pairs]
        session = chat.learn(example_documents(learned, retriever, epochs=epochs))
        answer = create_ttft_chain(session, retriever, mode="both")
    else:
        prompt = INSTRUCTED if way == "instructed" else None
        answer = create_ttft_chain(chat, retriever, mode="rag", prompt=prompt)
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
    parser.add_argument("--rows", default=ROWS.name, help="file in this folder")
    parser.add_argument("--ways", help="default: all")
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    asked = parser.parse_args()
    rows = ROWS.parent / asked.rows
    documents, prompts = read(asked.data)
    questions, examples = divided(prompts)
    if asked.tuning:
        questions = tuning_questions(prompts, questions, examples)
    store = index_documents(documents, load_embeddings(asked.embeddings), asked.out / "store")
    model = load_language_model(asked.model)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE
    chat = ChatTestTimeFineTuned(
        model=model.model,
        tokenizer=tokenizer,
        finetune=FineTuneConfig(objective="answer", max_length=2048),
        max_tokens=TOKENS,
        temperature=0.0,
        timeout=None,
    )
    retriever = SIFTRetriever(vectorstore=store, k=K)
    ways = TUNING_WAYS if asked.tuning else WAYS
    for way in asked.ways.split(",") if asked.ways else ways:
        done = {row["method"] for row in read_questions(rows)}
        if way in done:
            continue
        chains: dict[str, Runnable[str, Any]] = {}
        seconds = 0.0
        if way != RAG:
            chains[way], seconds = chain_of(way, chat, retriever, examples)
        folder = asked.out / rows.stem / way.replace(":", "-")
        report = compare(
            questions[: asked.questions],
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
        with rows.open("a", encoding="utf-8") as file:
            for row in report.rows:
                if row.method not in done:
                    learning = seconds if row.method == way else 0.0
                    file.write(json.dumps(line_of(row, learning)) + "\n")


if __name__ == "__main__":
    main()
