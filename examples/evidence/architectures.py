"""Load models of many architectures, answer, fine-tune, restore and export, and record the layers.

The small models have random weights, as in the tests; real ones are named on the command line:

    python examples/evidence/architectures.py --model folder/file.gguf --model org/name

Writes `architectures.json` and its page, `architectures.md`. All seconds are CPU seconds of one
thread, on which other work on the machine has little influence.
"""

from __future__ import annotations

import argparse
import re
import resource
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import (
    Engine,
    GenerationTask,
    LanguageModel,
    TrainedAdapter,
    load_language_model,
)
from langchain_sift.ttft.training.target_layers import find_target_layers, patterns

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[1] / "tests"), str(FOLDER.parents[1] / "tests" / "benchmarks")]

import architectures_page  # noqa: E402
import record  # noqa: E402
from architectures import ARCHITECTURES, make_model, make_tokenizer  # noqa: E402

CONFIG = FineTuneConfig(lora_rank=8, lora_alpha=8.0, learning_rate=2e-3, max_length=64)
DOCUMENTS = [
    "The Zorvane is a river in the north of Almara. It is 412 kilometres long.",
    "Bread of the Zorvane valley is baked with rye, walnuts and salt from Almara's mines.",
] * 2
PROMPT = "The Zorvane is a river"
PROMPTS = [
    *("The capital of France is", "Rice grows in", "Water boils at", "Once upon a time", "2 + 2 ="),
    *("The first president of the United States was", "To bake bread, you need", "In 1969,"),
    *("The sun is a", "def add(a, b):", "Bees make honey", "She opened the door and", "Dear Sir,"),
    *("The longest river in the world is the", "A triangle has", "My favourite season is"),
    *("Les chats sont", "Der Rhein ist ein Fluss, der", "The moon", "Prices rise when demand"),
]
NEW_TOKENS = 16
WORDS = ["w5 w6 w7 w8 w9 w10", "w20 w21 w22 w23"]


def run(language_model: LanguageModel, prompt: str, documents: list[str]) -> dict[str, object]:
    """Answer, fine-tune and answer again; return the layers and what was checked."""
    engine = Engine(language_model, CONFIG)
    before = language_model.fingerprint
    task = GenerationTask(
        language_model.tokenizer(prompt)["input_ids"], GenerationConfig(max_tokens=12)
    )

    def answer(texts: list[str]) -> str:
        events = engine.submit(engine.request(texts, task))
        return "".join(event for event in events if isinstance(event, str))

    base = answer([])
    began = time.process_time()
    adapter = engine.finetune(documents)
    seconds = time.process_time() - began
    model = LanguageModel(language_model.name, language_model.model, language_model.tokenizer)
    is_restored = model.fingerprint == before and answer([]) == base
    engine.close()  # its thread resets the slots after the outcome
    with tempfile.TemporaryDirectory() as folder:
        is_exported = exported_equals(engine, language_model, adapter.save(f"{folder}/adapter"))
    attention, mlp = (
        find_target_layers(language_model.model, preset).names for preset in ("attention", "mlp")
    )
    return {
        "layers": list(adapter.training.layers),
        "attention": list(patterns(attention)),
        "mlp": list(patterns(mlp)),
        "others": without_adapter(language_model, adapter.layers),
        "weights_of_model": sum(weights.numel() for weights in language_model.model.parameters()),
        "weights_of_adapter": adapter.training.weights,
        "losses": [round(loss, 4) for loss in adapter.training.losses],
        "cpu_seconds_per_step": round(seconds / adapter.training.steps, 3),
        "restored": is_restored,
        "peft_logits_equal": is_exported,
    }


def without_adapter(language_model: LanguageModel, layers: Sequence[str]) -> list[str]:
    """Return the matrices without an adapter; of a part for images, the part alone."""
    names = {
        re.sub(r"((vision_tower|visual|projector)).*", r"\1", name).removesuffix(".weight")
        for name, weights in language_model.model.named_parameters()
        if weights.ndim > 1 and "bias" not in name
    }
    return sorted(patterns(names - set(layers)))


def exported_equals(engine: Engine, language_model: LanguageModel, folder: Path) -> bool:
    """Return whether PEFT computes the same with the exported adapter."""
    adapter = TrainedAdapter.load(folder)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    worker = engine._worker
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker.slots.reserve(1)
        worker.slots.load(0, adapter.weights)
        worker.slots.use(0, 1)
        ours = worker._model(input_ids=ids).logits
        worker.slots.rest()
        worker.slots.reset(0)
        peers = PeftModel.from_pretrained(language_model.model, folder)
        theirs = peers(input_ids=ids).logits
        peers.unload()
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def run_small(architecture: str) -> dict[str, object]:
    """Save a small model, load it from its folder and run it."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(architecture).save_pretrained(folder)
        loaded = load_language_model(folder, make_tokenizer(), device="cpu", dtype="float32")
        return run(loaded, "w5 w6 w7", WORDS * 2)


def run_real(name: str) -> dict[str, object]:
    """Load a real model and run it; add the seconds of loading and the peak memory."""
    began = time.process_time()
    loaded = load_language_model(name, device="cpu", dtype="float32")
    seconds = time.process_time() - began
    found = run(loaded, PROMPT, DOCUMENTS)
    answers = answers_equal(loaded)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {
        **found,
        **answers,
        "cpu_seconds_loading": round(seconds, 1),
        "peak_gib": round(peak, 2),
    }


def answers_equal(language_model: LanguageModel) -> dict[str, object]:
    """Count the prompts whose greedy answers are those of transformers' `generate`."""
    tokenizer: Any = language_model.tokenizer
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    expected = []
    for prompt in prompts:
        with torch.inference_mode():
            tokens = language_model.model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS
            )
        expected.append(tokenizer.decode(tokens[0, len(prompt) :], skip_special_tokens=True))
    config = GenerationConfig(max_tokens=NEW_TOKENS)

    def answers(limits: Limits) -> list[str]:
        engine = Engine(language_model, CONFIG, limits)
        tasks = [GenerationTask(prompt, config) for prompt in prompts]
        tickets = [engine.submit(engine.request([], task)) for task in tasks]
        texts = ["".join(e for e in ticket if isinstance(e, str)) for ticket in tickets]
        engine.close()
        return texts

    def equal(found: list[str]) -> int:
        return sum(a.strip() == b.strip() for a, b in zip(found, expected, strict=True))

    return {
        "prompts": len(PROMPTS),
        "tokens_per_answer": NEW_TOKENS,
        "equal_alone": equal(answers(Limits(max_batch_size=1))),
        "equal_in_batches_of_8": equal(answers(Limits(max_batch_size=8))),
    }


def main() -> None:
    """Run all models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="NAME_OR_PATH, repeatable")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = [argument for name in arguments.model for argument in ("--model", Path(name).name)]
    results = {
        "command": shlex.join(["python", "examples/evidence/architectures.py", *models]),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "small": {name: run_small(name) for name in ARCHITECTURES},
        "real": {Path(name).name: run_real(name) for name in arguments.model},
    }
    record.write(arguments.out / "architectures.json", results)
    architectures_page.write(arguments.out)


if __name__ == "__main__":
    main()
