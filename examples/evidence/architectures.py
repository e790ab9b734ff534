"""Load models of many architectures, answer, fine-tune, restore and export, and record the layers.

The small models have random weights, as in the tests; real ones are named on the command line:

    python examples/evidence/architectures.py --model folder/file.gguf --model org/name

Writes `architectures.json` and the table of it, `architectures.md`.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from peft import PeftModel

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft import (
    Engine,
    GenerationTask,
    LanguageModel,
    TrainedAdapter,
    load_language_model,
)
from langchain_sift.ttft.training.target_layers import find_target_layers, patterns

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "tests"))

from architectures import ARCHITECTURES, make_model, make_tokenizer  # noqa: E402

CONFIG = FineTuneConfig(lora_rank=8, lora_alpha=8.0, learning_rate=2e-3, max_length=64)
DOCUMENTS = [
    "The Zorvane is a river in the north of Almara. It is 412 kilometres long.",
    "Bread of the Zorvane valley is baked with rye, walnuts and salt from Almara's mines.",
] * 2
PROMPT = "The Zorvane is a river"
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
    began = time.perf_counter()
    adapter = engine.finetune(documents)
    seconds = time.perf_counter() - began
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
        "seconds_per_step": round(seconds / adapter.training.steps, 3),
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
    began = time.perf_counter()
    loaded = load_language_model(name, device="cpu", dtype="float32")
    seconds = time.perf_counter() - began
    found = run(loaded, PROMPT, DOCUMENTS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {**found, "seconds_loading": round(seconds, 1), "peak_gib": round(peak, 2)}


CHECKS = ("restored", "peft_logits_equal")


def table(results: dict[str, dict[str, dict[str, object]]]) -> str:
    """Return the tables: the layers that get an adapter, and what the real models took."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, found in {**results["small"], **results["real"]}.items():
        columns = tuple(short(found[key]) for key in ("attention", "mlp", "others"))
        passed = "yes" if all(found[check] for check in CHECKS) else "no"
        rows.setdefault((*columns, passed), []).append(name)
    lines = [
        "# Layers that get an adapter",
        "",
        "Made by `architectures.py`. `all-linear` stands for the layers of `attention` and `mlp`,",
        "and for linear layers outside of the decoder layers, such as `project_in` of OPT. The",
        "last column: answers and weights are bit for bit as before the training, and PEFT",
        "computes the same logits with the exported adapter. The real models were measured on a",
        "machine that was busy with other work.",
        "",
        "| Architecture | `attention` | `mlp` | No adapter | Restored, exported |",
        "|---|---|---|---|---|",
        *(f"| {', '.join(names)} | {' | '.join(columns)} |" for columns, names in rows.items()),
    ]
    real = [
        "",
        "| Model | Weights | Adapter | Loading | A step | Peak memory | Loss, first and again |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results["real"].items():
        losses = found["losses"]
        real.append(
            f"| {name} | {found['weights_of_model']:,} | {found['weights_of_adapter']:,} "
            f"| {found['seconds_loading']} s | {found['seconds_per_step']} s "
            f"| {found['peak_gib']} GiB | {losses[0]:.2f}, {losses[2]:.2f} |"
        )
    return "\n".join([*lines, *real]) + "\n"


def short(names: object) -> str:
    """Return names without the part that all decoder layers have in common."""
    found = dict.fromkeys(re.sub(r"^(.*\.\*|model|transformer)\.", "", name) for name in names)
    return ", ".join(f"`{name}`" for name in found)


def main() -> None:
    """Run all models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="NAME_OR_PATH, repeatable")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    results = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "small": {name: run_small(name) for name in ARCHITECTURES},
        "real": {Path(name).name: run_real(name) for name in arguments.model},
    }
    text = json.dumps(results, indent=1) + "\n"
    (arguments.out / "architectures.json").write_text(text, encoding="utf-8")
    (arguments.out / "architectures.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
