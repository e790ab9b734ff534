"""Summarize the rows of real models: gains by method and kind of text, time, size of the model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import read_rows

from langchain_sift.auto_mode import ModeTable, choose_mode
from langchain_sift.calibration.mode_figures import mode_table
from langchain_sift.comparison import Row
from langchain_sift.config import MODES

HERE = Path(__file__).parent
FILES = {
    "SmolLM2-135M-Instruct": "rows_smollm2.jsonl.gz",
    "Gemma 3 270M": "rows_gemma.jsonl.gz",
}
FIRST = "SmolLM2-135M-Instruct, most informative first"
FIRST_FILE = "rows_smollm2_first.jsonl.gz"
"""Rows of prompts that have the most informative document first, as the package had it before."""
ORDER_FILE = "rows_smollm2_order_tuning.jsonl.gz"
"""Rows of both orders, on tuning prompts. "first" has the most informative document first in the
prompt, and "last" has it last in the training."""
GEMMA_LAST_FILE = "rows_gemma_last.jsonl.gz"
"""Rows of RAG with the most informative document last; those of `FILES` have it first."""
NOISE_FILES = {
    "SmolLM2-135M-Instruct, MiniLM": "rows_smollm2_noise.jsonl.gz",
    "5.9 million parameters, hidden states": "rows_small_model_noise.jsonl.gz",
}
STAGE_FILES = {
    "continuation": "rows_smollm2_continuation.jsonl.gz",
    "many": "rows_smollm2_many.jsonl.gz",
    "others": "rows_smollm2_others.jsonl.gz",
    "kernels": "rows_smollm2_kernels.jsonl.gz",
}
CONTEXT_K = 10
_DRAWS = 40
"""Random tables of modes for each size."""
FEW_IN_PROMPT = f"both:sift:context_k={CONTEXT_K}"
METHODS = {
    "rag:nearest": "RAG, nearest",
    "rag:sift": "RAG, SIFT",
    "ttft:nearest": "TTFT, nearest",
    "ttft:sift": "TTFT, SIFT",
    "both:nearest": "both, nearest",
    "both:sift": "both, SIFT",
    FEW_IN_PROMPT: "both, SIFT, ten documents in the prompt",
}
CHOICES = {
    "ttft:random": "TTFT, random documents",
    "ttft:nearest-repeated": "TTFT, nearest document repeated (NN-F)",
    "ttft:uncertainty:noise_variance=0.01": "TTFT, uncertainty sampling (US)",
    "ttft:hull": "TTFT, HullFT",
}
KERNELS = {
    f"{mode}:sift:kernel=rbf": f"{METHODS[f'{mode}:sift']} with the RBF kernel"
    for mode in ("rag", "ttft", "both")
}
_PAPERS_NOISE = ":noise_variance=0.01"
PAPERS = {
    f"{mode}:sift{_PAPERS_NOISE}": f"{METHODS[f'{mode}:sift']} with λ' = 0.01"
    for mode in ("ttft", "both")
}
_FIRST = ":first"
_IN_PROMPT = ("rag:nearest", "rag:sift", "both:sift")
ORDERS = {f"{name}{_FIRST}": f"{METHODS[name]}, most informative first" for name in _IN_PROMPT}
NAMES = {
    **METHODS,
    **CHOICES,
    **KERNELS,
    **PAPERS,
    **ORDERS,
    "both:sift:context_k=5": "both, SIFT, five documents in the prompt",
    "ttft:sift:last": "TTFT, SIFT, most informative last in the training",
}
PAIRS = (
    ("ttft:sift", "ttft:nearest"),
    ("both:sift", "rag:sift"),
    ("both:sift", "ttft:sift"),
    ("rag:sift", "rag:nearest"),
    ("both:sift", "both:nearest"),
    ("ttft:sift", "rag:sift"),
    (FEW_IN_PROMPT, "both:sift"),
    (FEW_IN_PROMPT, "ttft:sift"),
    *((name.removesuffix(_FIRST), name) for name in ORDERS),
    *(("ttft:sift", name) for name in CHOICES),
    *((name, name.removesuffix(":kernel=rbf")) for name in KERNELS),
    *((name.removesuffix(_PAPERS_NOISE), name) for name in PAPERS),
    *(
        (f"{first}:sift{_PAPERS_NOISE}", second)
        for first, second in (("ttft", "ttft:nearest"), ("both", "rag:sift"))
    ),
)
ORDER_STAGES = {
    "order": (FILES["SmolLM2-135M-Instruct"], FIRST_FILE),
    "order, Gemma 3 270M": (GEMMA_LAST_FILE, FILES["Gemma 3 270M"]),
}
"""Rows with the most informative document last, and first."""

_BOTH_ORDERS = tuple(name for first in ORDERS for name in (first, first.removesuffix(_FIRST)))
STAGE_METHODS = {
    "order": _BOTH_ORDERS,
    "order, Gemma 3 270M": _BOTH_ORDERS[:4],
    "continuation": tuple(METHODS),
    "many": ("rag:sift", "ttft:nearest", "ttft:sift", "both:sift"),
    "others": ("ttft:nearest", "ttft:sift", *CHOICES),
    "noise": (
        "ttft:nearest",
        *(n for old in PAPERS for n in (old.removesuffix(_PAPERS_NOISE), old)),
    ),
    "kernels": tuple(name for rbf in KERNELS for name in (rbf.removesuffix(":kernel=rbf"), rbf)),
}
FINE_TUNED = ("ttft:nearest", "ttft:sift")
RESAMPLES = 10_000
PROMPTS_FOR_AUTO = 40
"""Number of prompts from which the table of half of them says something about the others."""
Percents = dict[tuple[str, str, int], dict[str, float]]
"""Percent of the base model's bits of each domain, method and k, by prompt."""


def percents_of(rows: Sequence[Row], methods: Collection[str] = tuple(METHODS)) -> Percents:
    """Return the percents of the prompts that all of the methods were measured on.

    A domain with a single prompt is left out: its spread is not known.
    """
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    found: Percents = defaultdict(dict)
    for row in rows:
        if row.method in methods and row.prompt in base:
            key = (row.group, row.method, row.k)
            found[key][row.prompt] = 100 * row.bits / base[row.prompt]
    columns = {(method, k) for _, method, k in found}
    complete = {
        domain: set.intersection(*(set(found.get((domain, *column), ())) for column in columns))
        for domain in {domain for domain, *_ in found}
    }
    return {
        key: {prompt: v for prompt, v in values.items() if prompt in complete[key[0]]}
        for key, values in found.items()
        if len(complete[key[0]]) > 1
    }


def interval(domains: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean over domains, with a 95 % interval (bootstrap over the prompts of each).

    The values of few prompts spread less than those that they were drawn from: by the factor
    √((n - 1) / n), which the deviations of the samples are divided by.
    """
    rng = np.random.default_rng(0)
    means = np.mean([values.mean() for values in domains])
    samples = np.mean(
        [
            _spread(values)[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
            for values in domains
        ],
        axis=0,
    )
    low, high = np.percentile(samples, [2.5, 97.5])
    return {
        "mean": round(float(means), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
    }


def _spread(values: np.ndarray) -> np.ndarray:
    """Return the values with deviations as large as those of what they were drawn from."""
    scale = math.sqrt(len(values) / (len(values) - 1))
    return np.asarray(values.mean() + scale * (values - values.mean()))


def best_k(percents: Percents, method: str) -> int:
    """Return the k with the lowest mean over domains."""
    ks = sorted({k for _, name, k in percents if name == method})
    return min(ks, key=lambda k: float(np.mean(_of(percents, method, k))))


def _of(percents: Percents, method: str, k: int) -> list[float]:
    """Return the mean of each domain."""
    return [
        float(np.mean(list(values.values())))
        for (_, name, count), values in sorted(percents.items())
        if (name, count) == (method, k)
    ]


def _mean(percents: Percents, method: str, k: int) -> float:
    return round(float(np.mean(_of(percents, method, k))), 1)


def difference(percents: Percents, first: str, second: str) -> dict[str, Any]:
    """Compare two methods, each at its best k, on the same prompts."""
    one, other = best_k(percents, first), best_k(percents, second)
    domains = sorted({domain for domain, *_ in percents})
    values = [
        np.array(
            [
                percents[domain, first, one][prompt] - percents[domain, second, other][prompt]
                for prompt in sorted(percents[domain, first, one])
            ]
        )
        for domain in domains
    ]
    return {"k": [one, other], **interval(values)}


def text_results(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the results of a model on the kinds of text."""
    rows = with_own_seconds(rows)
    methods = tuple(_measured(rows).values())
    percents = percents_of(rows, methods)
    in_one_run = measured_in_one_run(rows)
    means = mean_results(percents, methods)
    best = {method: best_k(percents, method) for method in means["means"]}
    return {
        **means,
        "domains": {
            domain: {
                method: round(float(np.mean(list(percents[domain, method, k].values()))), 1)
                for method, k in best.items()
            }
            for domain in sorted({domain for domain, *_ in percents})
        },
        "best_k": best,
        "front": front(percents, rows),
        "auto": _auto(in_one_run, sorted({k for _, _, k in percents}))
        if sum(means["prompts"].values()) >= PROMPTS_FOR_AUTO
        else [],
    }


def _auto(rows: Sequence[Row], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Return the results of `mode="auto"` for each k, and with fewer documents in the prompt."""
    found = [{"context_k": None, **auto_results(rows, k)} for k in ks]
    if any(row.method == FEW_IN_PROMPT for row in rows):
        found += [
            {"context_k": CONTEXT_K, **auto_results(_with_context_k(rows, k), k)}
            for k in ks
            if k > CONTEXT_K
        ]
    return found


def _with_context_k(rows: Sequence[Row], k: int) -> list[Row]:
    """Return the rows as methods with `CONTEXT_K` documents in the prompt have them.

    RAG then has the first of SIFT's choice, which are those of its choice with a smaller k.
    """
    unlimited = {"both:sift", "rag:sift"}
    return [
        *(row for row in rows if row.method not in unlimited),
        *(replace(row, method="both:sift") for row in rows if row.method == FEW_IN_PROMPT),
        *(replace(r, k=k) for r in rows if (r.method, r.k) == ("rag:sift", CONTEXT_K)),
    ]


def _measured(rows: Sequence[Row]) -> dict[str, str]:
    """Return the methods to compare: SIFT with the paper's λ' if a model has no other rows yet."""
    known = {row.method for row in rows}
    papers = {name: f"{name}{_PAPERS_NOISE}" for name in METHODS}
    return {
        name: papers[name] if name not in known and papers[name] in known else name
        for name in METHODS
    }


def mean_results(percents: Percents, names: Collection[str]) -> dict[str, Any]:
    """Return the means of each method and k over the kinds of text, and the differences."""
    methods = [method for method in names if any(name == method for _, name, _ in percents)]
    return {
        "prompts": {
            domain: len(values)
            for (domain, method, _), values in sorted(percents.items())
            if method == methods[0]
        },
        "means": {
            method: {
                str(k): interval(
                    [
                        np.array(list(values.values()))
                        for (_, name, count), values in sorted(percents.items())
                        if (name, count) == (method, k)
                    ]
                )
                for k in sorted({k for _, name, k in percents if name == method})
            }
            for method in methods
        },
        "differences": {
            f"{first} less {second}": difference(percents, first, second)
            for first, second in PAIRS
            if first in methods and second in methods
        },
    }


def stage_results(stage: str) -> dict[str, Any]:
    """Return the means of a stage of SmolLM2, and of the methods of the main stage beside it.

    The prompts are those that all methods were measured on. The protocol "continuation" has rows of
    its own for every method. "noise" and "kernels" have the most informative document first.
    """
    if stage in ORDER_STAGES:
        last, first = ORDER_STAGES[stage]
        rows = read_rows(HERE / last) + [
            replace(row, method=f"{row.method}{_FIRST}") if row.method in _IN_PROMPT else row
            for row in read_rows(HERE / first)
        ]
        return mean_results(percents_of(rows, STAGE_METHODS[stage]), STAGE_METHODS[stage])
    rows = []
    if stage in STAGE_FILES:
        rows = read_rows(HERE / STAGE_FILES[stage])
        if not rows:
            return {}
    if stage != "continuation":
        is_last = stage == "many"
        rows += read_rows(HERE / (FILES["SmolLM2-135M-Instruct"] if is_last else FIRST_FILE))
    return mean_results(percents_of(rows, STAGE_METHODS[stage]), STAGE_METHODS[stage])


def with_own_seconds(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with seconds of their own, where a batch had equal shares for its rows.

    The rows of a prompt and a method were read together: the seconds are divided by the tokens that
    each row read. Where "both" was measured in another run than fine-tuning alone, it was trained
    in such a batch as well, and gets the seconds of fine-tuning alone on the same documents.
    """
    training = {
        (row.prompt, row.method, row.k): row.seconds_training
        for row in rows
        if row.method.startswith("ttft:")
    }
    together: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        together[row.prompt, row.method].append(row)
    found = []
    for group in together.values():
        seconds = sum(row.seconds_answering for row in group)
        tokens = sum(row.tokens_context + row.tokens for row in group)
        for row in group:
            alone = row.method.replace("both:", "ttft:").partition(":context_k=")[0]
            found.append(
                replace(
                    row,
                    seconds_answering=seconds * (row.tokens_context + row.tokens) / max(1, tokens),
                    seconds_training=training.get((row.prompt, alone, row.k), row.seconds_training),
                )
            )
    return found


def measured_in_one_run(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the prompts whose methods were all measured in one run.

    SIFT's default λ' was measured on the others in a later run, on a machine of another speed. They
    are the prompts with rows of the former default, λ' = 0.01. If no prompts are left, return all.
    """
    several = {row.prompt for row in rows if row.method in PAPERS}
    return [row for row in rows if row.prompt not in several] or list(rows)


def front(percents: Percents, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the mean percents and median seconds of each method and k, the fastest first.

    A way is on the Pareto front if no other one is as fast and as good. The seconds are of the
    prompts whose methods were measured in one run.
    """
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in measured_in_one_run(rows):
        if row.prompt in percents.get((row.group, row.method, row.k), ()):
            seconds[row.method, row.k].append(row.seconds)
    found = [
        {
            "method": method,
            "k": k,
            "percent": _mean(percents, method, k),
            "seconds": round(float(np.median(values)), 1),
        }
        for (method, k), values in seconds.items()
    ]
    found.sort(key=lambda each: (each["seconds"], each["percent"]))
    best = math.inf
    for each in found:
        each["on_front"] = each["percent"] < best
        best = min(best, each["percent"])
    return found


def auto_results(
    rows: Sequence[Row], k: int, table_rows: Sequence[Row] | None = None
) -> dict[str, Any]:
    """Return what `mode="auto"` gains and takes.

    For each prompt it has the row of the mode that it chooses, and RAG and "both" have chosen
    their documents as in a comparison of these methods.

    Args:
        rows: Those of the prompts.
        k: Number of documents.
        table_rows: The rows of the table. None means those of the other half of the prompts.
    """
    prompts = _with_all_modes(rows, k)
    tables = _tables(prompts, None if table_rows is None else _with_all_modes(table_rows, k))
    chosen = [
        (of["base"], of[_mode_of(of, k, table)]) for of, table in zip(prompts, tables, strict=True)
    ]
    alone = {mode: [(of["base"], of[mode]) for of in prompts] for mode in MODES}
    counts = Counter(row.method.partition(":")[0] for _, row in chosen)
    return {
        "k": k,
        "prompts": len(prompts),
        "chosen": {mode: counts[mode] for mode in MODES},
        **{
            name if name in {"auto", "base"} else f"{name}:sift": {
                "percent": round(
                    float(np.mean([100 * r.bits / base.bits for base, r in pairs])), 1
                ),
                "seconds": round(float(np.mean([row.seconds for _, row in pairs])), 1),
            }
            for name, pairs in {"auto": chosen, **alone}.items()
        },
    }


def _mode_of(of: Mapping[str, Row], k: int, table: ModeTable) -> str:
    """Return the mode that "auto" chooses for a prompt."""
    last = of["both"].chosen[-1].posterior_variance
    return choose_mode(math.sqrt(max(0.0, last)), k, k, table).mode


def _with_all_modes(rows: Sequence[Row], k: int) -> list[dict[str, Row]]:
    """Return the rows of each prompt that was measured with all modes, by mode."""
    modes = {mode if mode == "base" else f"{mode}:sift": mode for mode in MODES}
    by_prompt: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.method in modes and row.k in {0, k}:
            by_prompt[row.prompt][modes[row.method]] = row
    return [of for _, of in sorted(by_prompt.items()) if of.keys() == set(MODES)]


def _tables(
    prompts: Sequence[Mapping[str, Row]], others: Sequence[Mapping[str, Row]] | None
) -> list[ModeTable]:
    """Return the table of each prompt: that of the others, or of the other half of the prompts."""
    if others is not None:
        return [mode_table(row for of in others for row in of.values())] * len(prompts)
    halves = [mode_table(row for of in prompts[half::2] for row in of.values()) for half in (0, 1)]
    return [halves[1 - number % 2] for number in range(len(prompts))]


def auto_sizes(file: str) -> list[dict[str, Any]]:
    """Return how far "auto" is behind the best mode by the number of prompts of its table.

    Each figure is the mean over `_DRAWS` random tables, on the prompts that are not in the table.

    Args:
        file: Name of the file of rows.
    """
    rows = with_own_seconds(read_rows(HERE / file))
    found = []
    for k in sorted({row.k for row in rows if row.method == "both:sift"}):
        prompts = _with_all_modes(rows, k)
        for size in (10, 20, 40, 80):
            figures = [_of_random_table(prompts, k, size, seed) for seed in range(_DRAWS)]
            points, share = np.mean(figures, axis=0)
            found.append(
                {"k": k, "size": size, "points": round(points, 2), "share": round(share, 2)}
            )
    return found


def _of_random_table(
    prompts: Sequence[Mapping[str, Row]], k: int, size: int, seed: int
) -> tuple[float, float]:
    """Return the points behind the best single mode, and the share of the seconds of both."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    table = mode_table(row for number in order[:size] for row in prompts[number].values())
    rest = [prompts[number] for number in order[size:]]
    chosen = [of[_mode_of(of, k, table)] for of in rest]
    percents = {mode: _percent(rest, [of[mode] for of in rest]) for mode in MODES}
    seconds = sum(row.seconds for row in chosen) / sum(of["both"].seconds for of in rest)
    return _percent(rest, chosen) - min(percents.values()), seconds


def _percent(prompts: Sequence[Mapping[str, Row]], rows: Sequence[Row]) -> float:
    """Return the mean of the rows' bits in percent of those of the base model."""
    pairs = zip(prompts, rows, strict=True)
    return float(np.mean([100 * row.bits / of["base"].bits for of, row in pairs]))


def largest_gains() -> list[dict[str, Any]]:
    """Return the share of the gain of both that the prompts with the largest gains bring."""
    files = {
        "document": FILES["SmolLM2-135M-Instruct"],
        "continuation": STAGE_FILES["continuation"],
    }
    found = []
    for protocol, file in files.items():
        prompts = _with_all_modes(read_rows(HERE / file), 25)
        gains = sorted((1 - of["both"].bits / of["base"].bits for of in prompts), reverse=True)
        shares = {count: round(sum(gains[:count]) / sum(gains), 3) for count in (1, 8)}
        found.append({"protocol": protocol, "prompts": len(gains), "shares": shares})
    return found


def auto_checks() -> list[dict[str, Any]]:
    """Return the results of `mode="auto"` on the rows that its rule was not chosen on."""
    sources = {
        "SmolLM2-135M-Instruct, 50 documents": STAGE_FILES["many"],
        "SmolLM2-135M-Instruct, protocol continuation": STAGE_FILES["continuation"],
        "Gemma 3 270M": FILES["Gemma 3 270M"],
    }
    found = []
    for name, file in sources.items():
        rows = with_own_seconds(read_rows(HERE / file))
        ks = sorted({row.k for row in rows if row.method == "both:sift"})
        found += [{"rows": name, **auto_results(rows, k)} for k in ks]
        if file == STAGE_FILES["continuation"]:
            of_document = with_own_seconds(read_rows(HERE / FILES["SmolLM2-135M-Instruct"]))
            found += [
                {"rows": f"{name}, table of `document`", **auto_results(rows, k, of_document)}
                for k in ks
            ]
    return found


def size_results() -> list[dict[str, Any]]:
    """Return the gain of fine-tuning by the size of the model, on the kinds of text of all."""
    by_model = {name: percents_of(rows, FINE_TUNED) for name, rows in _sizes().items()}
    shared = set.intersection(*({domain for domain, *_ in each} for each in by_model.values()))
    found = []
    for model, percents in by_model.items():
        kept = {key: values for key, values in percents.items() if key[0] in shared}
        prompts = {prompt for values in kept.values() for prompt in values}
        found.append(
            {
                "model": model,
                "domains": sorted(shared),
                "prompts": len(prompts),
                "percents": {
                    method: {
                        str(k): round(float(np.mean(_of(kept, method, k))), 1) for k in (5, 10, 25)
                    }
                    for method in ("ttft:nearest", "ttft:sift")
                },
            }
        )
    return found


def _sizes() -> dict[str, list[Row]]:
    """Return the rows of fine-tuning for each model, the smallest first."""
    files = {
        "1.3 million parameters": "rows_small_model.jsonl.gz",
        "5.9 million parameters": "rows.jsonl.gz",
        **FILES,
    }
    found = {}
    for model, name in files.items():
        rows = [row for row in read_rows(HERE / name) if row.k in {0, 5, 10, 25}]
        sift = _measured(rows)["ttft:sift"]
        label = model if sift == "ttft:sift" else f"{model}, λ' = 0.01"
        names = {"base": "base", "ttft:nearest": "ttft:nearest", sift: "ttft:sift"}
        if rows:
            found[label] = [replace(r, method=names[r.method]) for r in rows if r.method in names]
    return found


def noise_results() -> list[dict[str, Any]]:
    """Return the mean percents of nearest neighbours and of each λ', on the tuning prompts."""
    found = []
    for model, name in NOISE_FILES.items():
        rows = read_rows(HERE / name)
        found += [{"model": model, **each} for each in _by_method(rows)]
    return found


def order_results() -> list[dict[str, Any]]:
    """Return the mean percents of each order and number of documents, on the tuning prompts."""
    return _by_method(read_rows(HERE / ORDER_FILE))


def _by_method(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the mean percents of each method, and the number of prompts."""
    return [
        {"prompts": _prompts(rows), "method": method, "percents": percents}
        for method, percents in sorted(_mean_percents(rows).items())
    ]


def _prompts(rows: Sequence[Row]) -> int:
    return len({row.prompt for row in rows if row.method == "base"})


def _mean_percents(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the mean percents of each method, over prompts, by k."""
    base = {row.prompt: row.bits for row in rows if row.method == "base"}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.method != "base":
            found[row.method][str(row.k)].append(100 * row.bits / base[row.prompt])
    return {
        method: {k: round(float(np.mean(values)), 1) for k, values in by_k.items()}
        for method, by_k in found.items()
    }


def recipes(folder: Path) -> list[dict[str, Any]]:
    """Return the mean percents of each recipe, from a folder of files of rows."""
    found = []
    for file in sorted(folder.glob("*.jsonl.gz"), key=_order):
        model, rate, rank, alpha, layers = file.name.removesuffix(".jsonl.gz").split(",")
        rows = read_rows(file)
        found.append(
            {
                "model": model,
                "learning_rate": rate if rate == "default" else float(rate),
                "rank": int(rank),
                "alpha": float(alpha),
                "layers": layers,
                "prompts": _prompts(rows),
                "percents": _mean_percents(rows)["ttft:sift"],
            }
        )
    return found


def _order(file: Path) -> tuple[str, str, int, float]:
    """Return the place of a recipe in the table; the default comes last."""
    model, rate, rank, _, layers = file.name.removesuffix(".jsonl.gz").split(",")
    return model, layers, int(rank), math.inf if rate == "default" else float(rate)
