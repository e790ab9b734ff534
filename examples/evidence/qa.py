"""Compare RAG and test-time fine-tuning of a small model on questions with references.

    python examples/evidence/qa.py --data xquad.en.json --base DIR --out build/evidence/qa

The file is the English part of XQuAD in the JSON format of SQuAD. Its paragraphs are the store, its
questions the prompts, and the source of a question is its paragraph. The base model must not have
been trained on Wikipedia.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from langchain_core.documents import Document

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Prompt
from langchain_sift.indexing import index_documents
from langchain_sift.report.files import write_report
from langchain_sift.ttft import load_language_model

METHODS = (
    "base",
    "rag:nearest",
    "rag:sift",
    "ttft:nearest",
    "ttft:sift",
    "both:nearest",
    "both:sift",
)
RECIPE = FineTuneConfig(lora_rank=16, lora_alpha=16.0, learning_rate=4e-3, max_length=256)


def read(file: Path) -> tuple[list[Document], list[Prompt]]:
    """Read the paragraphs and the questions about them."""
    documents, prompts = [], []
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            source = f"paragraph-{len(documents)}"
            documents.append(Document(id=source, page_content=paragraph["context"]))
            prompts += [
                Prompt(
                    id=question["id"],
                    text=question["question"],
                    source=source,
                    answers=tuple(answer["text"] for answer in question["answers"]),
                )
                for question in paragraph["qas"]
            ]
    return documents, prompts


def main() -> None:
    """Measure all methods, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--prompts", type=int, default=200, help="number of prompts, drawn at random"
    )
    arguments = parser.parse_args()
    documents, prompts = read(arguments.data)
    model = load_language_model(str(arguments.base))
    report = compare(
        random.Random(0).sample(prompts, arguments.prompts),
        METHODS,
        model=model,
        vectorstore=index_documents(documents, model, arguments.out / "chroma"),
        protocols=("qa",),
        k=5,
        noise_variance=0.1,
        finetune=RECIPE,
        max_tokens=16,
        out=arguments.out,
        resume=(arguments.out / "run.json").exists(),
        on_row=lambda row: print(row.prompt, row.method, row.scores, file=sys.stderr),
    )
    write_report(report, arguments.out)
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    main()
