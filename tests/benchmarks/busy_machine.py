"""Time a prefill and a few decoded tokens beside busy processes, by the way that threads wait.

    python tests/benchmarks/busy_machine.py --out tests/benchmarks/results/busy_machine.json

A model of the architecture and size of SmolLM2-135M with random weights, in float32. Each setting
has a process of its own, which measures beside 0, 1 and 2 processes that each keep a core busy. The
fastest of its rounds and their median are kept. A measurement that takes longer than `--limit`, or
would end after `--minutes`, is recorded as "did not finish". All processes end with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from record import write

COMMAND_LINE = "the command line's"
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "spin-1000": {"GOMP_SPINCOUNT": "1000"},
    "spin-10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one-thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    COMMAND_LINE: {},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PREFILL, DECODED, ROUNDS, SECONDS = 256, 16, 5, 6.0
NOT_FINISHED = "did not finish"

# It ends with the process that started it, even if that is killed.
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**6))"


def measure(layers: int, *, prepare: bool) -> None:
    """Measure once for each line of the input, until it ends, and write a line of JSON.

    At least one round counts after the first, and further ones only within some seconds.
    """
    if prepare:
        from langchain_sift.ttft.threads import prepare_threads  # noqa: PLC0415 - before PyTorch

        prepare_threads()
    import numpy as np  # noqa: PLC0415 - reads the variables when it is loaded
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: PLC0415

    from langchain_sift.selection import select as select_documents  # noqa: PLC0415

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(5, 49_152, (1, PREFILL))
    generator = np.random.default_rng(0)
    query, candidates = generator.normal(size=384), generator.normal(size=(200, 384))

    @torch.inference_mode()
    def work() -> dict[str, float]:
        """Return the seconds of a prefill, of the decoding after it, and of a selection."""
        began = time.perf_counter()
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        prefilled = time.perf_counter()
        for _ in range(DECODED):
            token = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        decoded = time.perf_counter()
        select_documents(query, candidates, k=50)
        selected = time.perf_counter()
        return {
            "prefill": prefilled - began,
            "decode": decoded - prefilled,
            "select": selected - decoded,
        }

    for _ in sys.stdin:
        began = time.perf_counter()
        work()
        rounds = [work()]
        while len(rounds) < ROUNDS and time.perf_counter() - began < SECONDS:
            rounds.append(work())
        times = {name: [found[name] for found in rounds] for name in rounds[0]}
        line: dict[str, object] = {
            name: {"fastest": round(min(values), 4), "median": round(median(values), 4)}
            for name, values in times.items()
        }
        line |= {"rounds": len(rounds), "threads": torch.get_num_threads()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


@contextmanager
def process(command: Sequence[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a process that reads and writes lines; it is killed at the end."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    started = subprocess.Popen(
        [sys.executable, *command],
        env=clean | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def ask(measurer: subprocess.Popen[str], seconds: float) -> object:
    """Let a process measure once; it may need some of the time to start."""
    assert measurer.stdin is not None
    assert measurer.stdout is not None
    measurer.stdin.write("\n")
    measurer.stdin.flush()
    ready, _, _ = select.select([measurer.stdout], [], [], max(0.0, seconds))
    if not ready:
        return NOT_FINISHED
    line = measurer.stdout.readline()
    return json.loads(line) if line else sys.exit("a measuring process failed")


def of_setting(name: str, counts: Sequence[int], limit: float, layers: int, end: float) -> object:
    """Measure one setting beside each number of busy processes."""
    prepare = ["--prepare"] if name == COMMAND_LINE else []
    command = [__file__, "--measure", "--layers", str(layers), *prepare]
    results: dict[str, object] = {}
    with ExitStack() as last:
        measurer = None
        for count in counts:
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(process(["-c", BUSY], {}))
                # The command line counts the free cores when it starts.
                if measurer is None or name == COMMAND_LINE:
                    last.close()
                    measurer = last.enter_context(process(command, SETTINGS[name]))
                found = ask(measurer, min(limit, end - time.monotonic()))
            results[f"beside {count} busy"] = found
            measurer = None if found == NOT_FINISHED else measurer
            sys.stderr.write(f"{name}, beside {count} busy: {json.dumps(found)}\n")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2], help="how many")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of a measurement")
    parser.add_argument("--minutes", type=float, default=4.0, help="of the whole run")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.layers, prepare=asked.prepare)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    end = time.monotonic() + 60 * asked.minutes
    results = {
        name: of_setting(name, asked.busy, asked.limit, asked.layers, end)
        for name in asked.settings
    }
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if asked.out is not None:
        variables = {name: SETTINGS[name] for name in asked.settings}
        write(asked.out, {"unit": "seconds", "settings": variables, "results": results})


if __name__ == "__main__":
    main()
