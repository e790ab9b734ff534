"""Compare `calibrate` with a full grid of λ' and learning rates, at a tenth of its cost.

    python examples/evidence/calibration.py --data DIR --base examples/demo/model \
        --domains math_synthetic,nih_grants,github --work build/calibration

DIR is the folder of `run.py`. For each domain, on which the base model was not trained, the script
runs `calibrate`, and then the grid: every λ' with every learning rate on every held-out document.
It reports by how much the calibrated settings are worse than the best settings of the grid.

The order of the held-out documents is random, and decides which settings are measured on more of
them. The script therefore repeats the choice with other orders, with the results of the grid.
An interrupted run resumes: each line of a file in --work has the results of a document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from langchain_core.vectorstores import InMemoryVectorStore
from run import RECIPE, read

from langchain_sift import HiddenStateEmbeddings, calibrate
from langchain_sift.calibration.cross_validation import documents_counts
from langchain_sift.calibration.experiment import LEARNING_RATES, NOISE_VARIANCES
from langchain_sift.calibration.halving import halve
from langchain_sift.calibration.held_out import hold_out
from langchain_sift.calibration.surrogate import promising, surrogate_likelihoods
from langchain_sift.calibration.trials import Setting, Trial, Trials
from langchain_sift.ttft import LanguageModel, load_language_model, shared_engine

Array = npt.NDArray[np.float64]

PROMPTS, K, FETCH_K, SHARE = 16, 8, 200, 0.1
ORDERS = 200
PAIRS = [(noise, rate) for noise in NOISE_VARIANCES for rate in LEARNING_RATES]


def store_of(data: Path, domain: str, model: LanguageModel) -> InMemoryVectorStore:
    """Return a store with the memory split of a domain."""
    rows = read(data, domain, "memory")
    texts = [row["text"] for row in rows]
    embeddings = HiddenStateEmbeddings(model).fit(texts[:: max(1, len(texts) // 256)])
    store = InMemoryVectorStore(embeddings)
    store.add_texts(texts, [{"source": row["source"]} for row in rows])
    return store


def grid_of(trials: Trials, path: Path) -> Array:
    """Measure percent of base after K documents for each prompt and pair; resume a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    for prompt in range(len(lines), len(trials.prompts)):
        pairs = [trials.trial(prompt, setting(*pair)) for pair in PAIRS]
        trials.run(pairs)
        lines.append(json.dumps([float(trials.percents(pair)[-1]) for pair in pairs]))
        with path.open("a") as file:
            file.write(lines[-1] + "\n")
        print(path.stem, prompt + 1, "of", len(trials.prompts), "documents", flush=True)
    return np.array([json.loads(line) for line in lines])


def setting(noise_variance: float, learning_rate: float) -> Setting:
    """Return the settings of a pair of the grid."""
    return Setting(noise_variance, replace(RECIPE, learning_rate=learning_rate))


class GridTrials(Trials):
    """Trials with the results of the grid, with the documents in another order."""

    def __init__(self, trials: Trials, grid: Array, order: list[int]) -> None:
        """Take the results from the grid.

        Args:
            trials: The trials of the grid.
            grid: Percent of base, shape (prompts, pairs).
            order: Indices of the prompts.
        """
        prompts = [trials.prompts[index] for index in order]
        super().__init__(trials.engine, prompts, trials.counts)
        self._grid, self._order, self._real = grid, order, trials
        self._values: dict[Trial, float] = {}

    def trial(self, prompt: int, setting: Setting) -> Trial:
        """Return the trial of a pair of settings on a document."""
        trial = self._real.trial(self._order[prompt], setting)
        known = Trial(prompt, trial.documents, setting.config)
        pair = PAIRS.index((setting.noise_variance, setting.config.learning_rate))
        self._values[known] = self._grid[self._order[prompt], pair]
        return known

    def run(self, wanted: Iterable[Trial]) -> None:
        """Look up the results of the trials."""
        for trial in dict.fromkeys(wanted):
            if trial not in self._percents:
                self._percents[trial] = np.full(len(self.counts), self._values[trial])
                self.steps += len(trial.documents)


def measure(domain: str, data: Path, model: LanguageModel, work: Path) -> dict[str, Any]:
    """Compare the settings that `calibrate` chooses with the grid."""
    store = store_of(data, domain, model)
    began = time.process_time()
    calibration = calibrate(
        store, model=model, prompts=PROMPTS, k=K, fetch_k=FETCH_K, share=SHARE, finetune=RECIPE
    )
    seconds = time.process_time() - began
    held = hold_out(
        store, model, prompts=PROMPTS, protocol="document", fetch_k=FETCH_K, seed=RECIPE.seed
    )
    surrogate = surrogate_likelihoods(held, NOISE_VARIANCES, model)
    trials = Trials(shared_engine(model, RECIPE), held, documents_counts(K))
    grid = grid_of(trials, work / f"{domain}.jsonl")
    tuned = calibration.settings.fine_tuning
    assert tuned is not None  # noqa: S101 - a model was calibrated
    chosen = PAIRS.index((tuned.selection.noise_variance, tuned.learning_rate))
    return {
        **compared_with_best(grid, chosen),
        "steps": calibration.steps,
        "grid_steps": calibration.grid_steps,
        "share_of_steps": round(calibration.steps / calibration.grid_steps, 4),
        "cpu_seconds_of_calibrate": round(seconds, 1),
        "k": tuned.selection.k,
        "surrogate": dict(zip(map(str, NOISE_VARIANCES), np.round(surrogate, 5), strict=True)),
        "other_orders": other_orders(trials, grid, surrogate),
        "grid": {
            f"{noise:g}": {f"{rate:g}": round(float(value), 2) for rate, value in of_rates}
            for noise, of_rates in by_noise(grid.mean(axis=0))
        },
    }


def by_noise(means: Array) -> list[tuple[float, list[tuple[float, float]]]]:
    """Return the means of the grid by λ' and learning rate."""
    table = means.reshape(len(NOISE_VARIANCES), len(LEARNING_RATES))
    return [
        (noise, list(zip(LEARNING_RATES, row, strict=True)))
        for noise, row in zip(NOISE_VARIANCES, table, strict=True)
    ]


def compared_with_best(grid: Array, chosen: int) -> dict[str, Any]:
    """Compare a pair of settings with the best pair of the grid."""
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
    """Repeat the choice with other orders of the held-out documents."""
    rng = np.random.default_rng(0)
    means = grid.mean(axis=0)
    kept = promising(NOISE_VARIANCES, surrogate)
    budget = int(SHARE * len(PAIRS) * len(trials.prompts) * K)
    worse = []
    for _ in range(ORDERS):
        known = GridTrials(trials, grid, rng.permutation(len(trials.prompts)).tolist())
        _, chosen = halve(known, RECIPE, kept, LEARNING_RATES, budget=budget)
        pair = PAIRS.index((chosen.noise_variance, chosen.config.learning_rate))
        worse.append(100 * (means[pair] / means.min() - 1))
    return {
        "orders": ORDERS,
        "within_1_percent": float(np.mean(np.array(worse) <= 1.0)),
        "mean_worse_by_percent": round(float(np.mean(worse)), 2),
        "worst": round(float(np.max(worse)), 2),
    }


def main() -> None:
    """Measure the domains, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--domains", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "calibration.json")
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_language_model(str(arguments.base))
    record = {
        "command": f"python examples/evidence/calibration.py --domains {arguments.domains}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        "settings": {
            "prompts": PROMPTS, "k": K, "fetch_k": FETCH_K, "share": SHARE,
            "noise_variances": NOISE_VARIANCES, "learning_rates": LEARNING_RATES,
            "lora_rank": RECIPE.lora_rank, "max_length": RECIPE.max_length,
        },
        "domains": {
            domain: measure(domain, arguments.data, model, arguments.work)
            for domain in arguments.domains.split(",")
        },
    }  # fmt: skip
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
