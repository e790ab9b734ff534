"""Test and time test-time fine-tuning and decoding on an accelerator, in at most 8 minutes.

    python tests/benchmarks/accelerator.py --out tests/benchmarks/results/accelerator.json

Runs the tests that need a GPU, then a model of the architecture and size of Qwen3-0.6B with random
weights, in bfloat16: training on 50 documents of 512 random tokens per prompt, beside the same in
a plain PEFT loop; then decoding, beside transformers' `generate` with and without CUDA graphs. With
`--device cpu --layers 2 --width 64 --documents 3 --length 64 --tokens 8` it takes seconds on any
machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from by_hand import peft_loop
from record import write
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3Config

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft.generation import Continuation, generate
from langchain_sift.ttft.model.language_model import model_settings
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.adapted_model import add_slots, share_weights
from langchain_sift.ttft.training.tasks import TrainingTask
from langchain_sift.ttft.training.trainer import Trainer

CONFIG = FineTuneConfig(lora_rank=64, learning_rate=5e-4)
ROOT = Path(__file__).parents[2]
GPU_TESTS = ("tests/integration_tests/test_accelerator.py", "tests/unit_tests/ttft")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def make_model(width: int, layers: int, device: str) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=width // 8,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(device).eval()


def seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median time of a piece of work, the first time not counted."""
    times = []
    for _ in range(rounds + 1):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul_ceiling(device: str, rounds: int) -> float:
    """Return the floating-point operations a second of a large bfloat16 product."""
    size = 8192 if device.startswith("cuda") else 512
    left = torch.randn(size, size, dtype=torch.bfloat16, device=device)

    def work() -> None:
        for _ in range(10):
            left @ left

    return 10 * 2 * size**3 / seconds(work, device, rounds)


def make_tasks(documents: torch.Tensor) -> list[TrainingTask]:
    return [
        TrainingTask(
            documents=[
                TokenizedDocument(i, tuple(ids), truncated=False) for i, ids in enumerate(rows)
            ],
            config=CONFIG,
        )
        for rows in documents.tolist()
    ]


def train(trainer: Trainer, tasks: list[TrainingTask]) -> None:
    trainer.reserve(len(tasks))
    records = trainer.train(tasks)
    assert all(record.fallback is None for record in records), records[0].fallback
    for slot in range(len(tasks)):
        trainer.slots.reset(slot)


def run_gpu_tests() -> str:
    """Run the tests marked gpu; return pytest's last line."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *GPU_TESTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(result.stdout[-4000:])
    lines = [line for line in result.stdout.splitlines() if re.search(r" in [\d.]+s", line)]
    return lines[-1].strip("= ") if lines else f"no result, exit code {result.returncode}"


def decoding(model: PreTrainedModel, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of an answer's token for one row and for several, each way."""
    model.generation_config = model_settings(model)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples" / "demo" / "model")
    tokenizer.eos_token = None
    device, tokens, found = options.device, options.tokens, {}
    for rows in sorted({1, options.prompts}):
        prompts = torch.randint(5, 4000, (rows, 64), device=device)
        config = GenerationConfig(max_tokens=tokens, temperature=0.0)
        wanted = [
            Continuation(prompt, config, lambda _: False, lambda *_, **__: None)
            for prompt in prompts.tolist()
        ]
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda wanted=wanted: generate(model, tokenizer, wanted),
            "transformers": lambda prompts=prompts: plain(model, prompts, tokens, None),
            # On a CUDA device transformers compiles this one into CUDA graphs.
            "transformers, static cache": lambda prompts=prompts: plain(
                model, prompts, tokens, "static"
            ),
        }
        for name, way in ways.items():
            each = seconds(way, device, options.rounds) / tokens
            found[f"{name}, {rows} rows"] = round(each, 6)
    return found


def plain(model: PreTrainedModel, prompts: torch.Tensor, tokens: int, cache: str | None) -> None:
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation=cache,
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device, rounds = options.device, options.rounds
    model = make_model(options.width, options.layers, device)
    shape = (options.prompts, options.documents, options.length)
    documents = torch.randint(5, model.config.vocab_size, shape)
    parameters = sum(p.numel() for p in model.parameters())
    copy = share_weights(model)
    slots, _ = add_slots(copy, CONFIG)
    trainer = Trainer(copy, slots, checkpointing=False)
    ceiling = matmul_ceiling(device, rounds)
    one = seconds(lambda: train(trainer, make_tasks(documents[:1])), device, rounds)
    several = seconds(lambda: train(trainer, make_tasks(documents)), device, rounds)
    on_device = documents[:1].to(device)
    loop = seconds(lambda: peft_loop(model, on_device, CONFIG), device, rounds)
    # A LoRA step: the forward pass, and the gradient of the activations (2 P each a token).
    operations = 4 * parameters * options.documents * options.length
    return {
        "parameters": parameters,
        "documents": options.documents,
        "tokens_each": options.length,
        "prompts_together": options.prompts,
        "matmul_ceiling_tflops": round(ceiling / 1e12, 1),
        "peft_loop_seconds": round(loop, 4),
        "one_prompt_seconds": round(one, 4),
        "prompts_together_seconds": round(several, 4),
        "one_prompt_against_peft_loop": round(loop / one, 2),
        "one_prompt_share_of_ceiling": round(operations / one / ceiling, 3),
        "together_share_of_ceiling": round(options.prompts * operations / several / ceiling, 3),
        "decoding_seconds_per_token": decoding(model, options),
    }


def main() -> None:
    options = arguments()
    on_cuda = options.device.startswith("cuda")
    result = {
        "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
        "torch": torch.__version__,
        "gpu_tests": run_gpu_tests() if on_cuda else None,
        **measure(options),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
