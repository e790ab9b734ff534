"""Does `calibrate` find the λ' of a full grid at a tenth of its cost?

    python examples/evidence/calibration.py --data DIR --base examples/demo/model \
        --domains math_synthetic,nih_grants,github --work build/calibration

DIR is that of `run.py`. For each domain, which the base never saw, `calibrate` is
run, and then every λ' with every learning rate on every held-out document: the grid. Told is by
how much worse the grid finds what was chosen than its own best.

Which held-out documents come first is chance, and decides which settings are measured on more of
them. So the choice is repeated, out of what the grid measured, with the documents in other orders.
A run that was interrupted goes on where it was: each line in --work is all of one document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from langchain_core.vectorstores import InMemoryVectorStore
from run import RECIPE, read

from langchain_sift import HiddenStateEmbeddings, calibrate
from langchain_sift.calibration.calibrating import (
    LEARNING_RATES,
    NOISE_VARIANCES,
    documents_counts,
)
from langchain_sift.calibration.halving import halve
from langchain_sift.calibration.held_out import hold_out
from langchain_sift.calibration.surrogate import promising, surrogate_likelihoods
from langchain_sift.calibration.trials import Trial, Trials
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine

Array = npt.NDArray[np.float64]

PROMPTS, K, FETCH_K, SHARE = 16, 8, 200, 0.1
ORDERS = 200
PAIRS = [(noise, rate) for noise in NOISE_VARIANCES for rate in LEARNING_RATES]


def filled(data: Path, domain: str, model: LanguageModel) -> InMemoryVectorStore:
    """Return a store of a domain's memory split."""
    rows = read(data, domain, "memory")
    texts = [row["text"] for row in rows]
    embeddings = HiddenStateEmbeddings(model).fit(texts[:: max(1, len(texts) // 256)])
    store = InMemoryVectorStore(embeddings)
    store.add_texts(texts, [{"source": row["source"]} for row in rows])
    return store


def grid_of(trials: Trials, path: Path) -> Array:
    """Return percent of base after K documents of each document and pair; go on with a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    for prompt in range(len(lines), len(trials.prompts)):
        pairs = [trials.of(prompt, *pair) for pair in PAIRS]
        trials.run(pairs)
        lines.append(json.dumps([float(trials.percents(pair)[-1]) for pair in pairs]))
        with path.open("a") as file:
            file.write(lines[-1] + "\n")
        print(path.stem, prompt + 1, "of", len(trials.prompts), "documents", flush=True)
    return np.array([json.loads(line) for line in lines])


class Known(Trials):
    """Trials whose outcome the grid knows, with the documents in another order."""

    def __init__(self, trials: Trials, grid: Array, order: list[int]) -> None:
        """Take what the grid found."""
        prompts = [trials.prompts[place] for place in order]
        super().__init__(trials.engine, trials.recipe, prompts, trials.counts)
        self._grid, self._order, self._real = grid, order, trials
        self._values: dict[Trial, float] = {}

    def of(self, prompt: int, noise_variance: float, learning_rate: float) -> Trial:
        """Return the trial of some settings on a document."""
        trial = self._real.of(self._order[prompt], noise_variance, learning_rate)
        known = Trial(prompt, trial.documents, learning_rate)
        place = PAIRS.index((noise_variance, learning_rate))
        self._values[known] = self._grid[self._order[prompt], place]
        return known

    def run(self, wanted: Iterable[Trial]) -> None:
        """Look up what came of the trials."""
        for trial in dict.fromkeys(wanted):
            if trial not in self._percents:
                self._percents[trial] = np.full(len(self.counts), self._values[trial])
                self.steps += len(trial.documents)


def measure(domain: str, data: Path, model: LanguageModel, work: Path) -> dict[str, Any]:
    """Return what `calibrate` chose, and what the grid says of it."""
    store = filled(data, domain, model)
    began = time.process_time()
    found = calibrate(
        store, model=model, prompts=PROMPTS, k=K, fetch_k=FETCH_K, share=SHARE, finetune=RECIPE
    )
    seconds = time.process_time() - began
    held = hold_out(
        store, model, prompts=PROMPTS, protocol="document", fetch_k=FETCH_K, seed=RECIPE.seed
    )
    surrogate = surrogate_likelihoods(held, NOISE_VARIANCES, model)
    trials = Trials(shared_engine(model, RECIPE), RECIPE, held, documents_counts(K))
    grid = grid_of(trials, work / f"{domain}.jsonl")
    chosen = PAIRS.index((found.settings.noise_variance, found.settings.learning_rate))
    return {
        **judged(grid, chosen),
        "steps": found.steps,
        "grid_steps": found.grid_steps,
        "share_of_steps": round(found.steps / found.grid_steps, 4),
        "cpu_seconds_of_calibrate": round(seconds, 1),
        "k": found.settings.k,
        "surrogate": dict(zip(map(str, NOISE_VARIANCES), np.round(surrogate, 5), strict=True)),
        "other_orders": other_orders(trials, grid, surrogate),
        "grid": {
            f"{noise:g}": {f"{rate:g}": round(float(value), 2) for rate, value in of_rates}
            for noise, of_rates in by_noise(grid.mean(axis=0))
        },
    }


def by_noise(means: Array) -> list[tuple[float, list[tuple[float, float]]]]:
    """Return the grid's means by λ' and learning rate."""
    table = means.reshape(len(NOISE_VARIANCES), len(LEARNING_RATES))
    return [
        (noise, list(zip(LEARNING_RATES, row, strict=True)))
        for noise, row in zip(NOISE_VARIANCES, table, strict=True)
    ]


def judged(grid: Array, chosen: int) -> dict[str, Any]:
    """Return a choice beside the grid's best: of all pairs, and of its λ' at any rate."""
    means = grid.mean(axis=0)
    best = int(np.argmin(means))
    differences = grid[:, chosen] - grid[:, best]
    return {
        "chosen": dict(zip(("noise_variance", "learning_rate"), PAIRS[chosen], strict=True)),
        "best": dict(zip(("noise_variance", "learning_rate"), PAIRS[best], strict=True)),
        "percent_of_base_chosen": round(float(means[chosen]), 2),
        "percent_of_base_best": round(float(means[best]), 2),
        "worse_by_percent": round(float(100 * (means[chosen] / means[best] - 1)), 2),
        "standard_error_of_difference": round(
            float(differences.std(ddof=1) / np.sqrt(len(differences))), 2
        ),
    }


def other_orders(trials: Trials, grid: Array, surrogate: Any) -> dict[str, Any]:
    """Return by how much worse the choice is, over other orders of the held-out documents."""
    rng = np.random.default_rng(0)
    means = grid.mean(axis=0)
    kept = promising(NOISE_VARIANCES, surrogate)
    budget = int(SHARE * len(PAIRS) * len(trials.prompts) * K)
    worse = []
    for _ in range(ORDERS):
        known = Known(trials, grid, rng.permutation(len(trials.prompts)).tolist())
        chosen = halve(known, kept, LEARNING_RATES, k=K, budget=budget)
        place = PAIRS.index((chosen.noise_variance, chosen.learning_rate))
        worse.append(100 * (means[place] / means.min() - 1))
    return {
        "orders": ORDERS,
        "within_1_percent": float(np.mean(np.array(worse) <= 1.0)),
        "mean_worse_by_percent": round(float(np.mean(worse)), 2),
        "worst": round(float(np.max(worse)), 2),
    }


def main() -> None:
    """Measure the domains, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--domains", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "calibration.json")
    parser.add_argument("--commit", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_language_model(str(asked.base))
    record = {
        "command": f"python examples/evidence/calibration.py --domains {asked.domains}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        "settings": {
            "prompts": PROMPTS, "k": K, "fetch_k": FETCH_K, "share": SHARE,
            "noise_variances": NOISE_VARIANCES, "learning_rates": LEARNING_RATES,
            "lora_rank": RECIPE.lora_rank, "max_length": RECIPE.max_length,
        },
        "domains": {
            domain: measure(domain, asked.data, model, asked.work)
            for domain in asked.domains.split(",")
        },
    }  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
