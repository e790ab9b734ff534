"""Time a prefill and a few decoded tokens beside busy processes, by the way that threads wait.

    python tests/benchmarks/busy_machine.py --out tests/benchmarks/results/busy_machine.json

A model of the architecture and size of SmolLM2-135M with random weights, in float32. Each setting
runs in a process of its own, beside 0, 1 and 2 processes that each keep a core busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from record import write

SETTINGS: dict[str, dict[str, str]] = {
    "PyTorch's default": {},
    "spin count 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin count 10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "the command line's": {"prepare": "yes"},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PREFILL, DECODED, ROUNDS = 256, 16, 5


def measure(*, prepare: bool) -> dict[str, float]:
    """Return the median seconds of a prefill and of the decoding after it, and of a choice."""
    if prepare:
        from langchain_sift.ttft.threads import prepare_threads  # noqa: PLC0415 - before PyTorch

        prepare_threads()
    import numpy as np  # noqa: PLC0415 - reads the variables when it is loaded
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: PLC0415

    from langchain_sift.selection import select  # noqa: PLC0415

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(5, 49_152, (1, PREFILL))
    generator = np.random.default_rng(0)
    query, candidates = generator.normal(size=384), generator.normal(size=(200, 384))
    times: dict[str, list[float]] = {"prefill": [], "decode": [], "select": []}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            prefilled = time.perf_counter()
            for _ in range(DECODED):
                token = output.logits[:, -1].argmax(dim=-1, keepdim=True)
                output = model(
                    input_ids=token, past_key_values=output.past_key_values, use_cache=True
                )
            decoded = time.perf_counter()
            select(query, candidates, k=50)
            times["prefill"].append(prefilled - began)
            times["decode"].append(decoded - prefilled)
            times["select"].append(time.perf_counter() - decoded)
    medians = {name: round(sorted(values[1:])[ROUNDS // 2], 4) for name, values in times.items()}
    return medians | {"threads": torch.get_num_threads()}


def in_a_process(setting: dict[str, str]) -> dict[str, float]:
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    prepare = ["--prepare"] if "prepare" in setting else []
    result = subprocess.run(
        [sys.executable, __file__, "--measure", *prepare],
        env=clean | {name: value for name, value in setting.items() if name != "prepare"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def beside(busy: int) -> dict[str, dict[str, float]]:
    """Measure all settings beside this many busy processes."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        return {name: in_a_process(setting) for name, setting in SETTINGS.items()}
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    asked = parser.parse_args()
    if asked.measure:
        sys.stdout.write(json.dumps(measure(prepare=asked.prepare)))
        return
    results = {f"beside {busy} busy processes": beside(busy) for busy in range(3)}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if asked.out is not None:
        write(asked.out, {"unit": "seconds", "settings": SETTINGS, "results": results})


if __name__ == "__main__":
    main()
