"""Summarize the rows of real models in `real_models.json`, and write the page `real_models.md`.

    python examples/evidence/real_models_page.py --rates FOLDER --check FOLDER --commit COMMIT

Without a folder, the recipes in the JSON file stay. A folder has a file of rows for each recipe,
MODEL,LEARNING_RATE,RANK,ALPHA,LAYERS.jsonl.gz.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auto_of_questions import auto_of_questions, auto_of_questions_table
from learned_examples import FIRST_ROWS as LEARNED_FIRST_ROWS
from learned_examples import GEMMA_ROWS as LEARNED_GEMMA_ROWS
from learned_examples import ROWS as LEARNED_ROWS
from learned_examples import TUNING_ROWS as LEARNED_TUNING_ROWS
from question_tables import (
    demo_results,
    demo_table,
    epochs_results,
    epochs_table,
    further_results,
    further_table,
    learned_results,
    learned_table,
    order_of_questions,
    order_of_questions_table,
    question_results,
    questions_table,
)
from real_model_questions import FIRST_ROWS, FURTHER_ROWS, read_questions
from real_model_results import (
    FILES,
    FINE_TUNED,
    FIRST,
    FIRST_FILE,
    METHODS,
    NAMES,
    STAGE_METHODS,
    auto_checks,
    auto_sizes,
    largest_gains,
    noise_results,
    order_results,
    recipes,
    size_results,
    stage_results,
    text_results,
)
from rows import read_rows

HERE = Path(__file__).parent
_SIFT_MODES = ("rag:sift", "ttft:sift", "both:sift")


def recipe_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each recipe."""
    labels = (
        f"{each['model']} | {each['learning_rate']} | {each['rank']} | {each['alpha']:g} "
        f"| {each['layers']}"
        for each in found
    )
    head = "model | learning rate | rank | alpha | layers"
    return _percents_table(head, "|---|--:|--:|--:|---|", labels, found)


def noise_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for nearest neighbours and for each λ' of a model."""
    labels = (
        f"{each['model']} | {each['prompts']} | {_documents(each['method'])}" for each in found
    )
    head = "model and embeddings | prompts | documents"
    return _percents_table(head, "|---|--:|---|", labels, found)


def order_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each order and number of documents."""
    return _table_by_k(
        {
            each["method"]: {k: f"{percent:.1f}" for k, percent in each["percents"].items()}
            for each in found
        }
    )


def _percents_table(
    head: str, alignment: str, labels: Iterable[str], found: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a line for each label with the percents beside it, a column for each k."""
    ks = list(found[0]["percents"])
    rows = [(head, [f"k = {k}" for k in ks])] + [
        (label, [f"{each['percents'][k]:.1f}" for k in ks])
        for label, each in zip(labels, found, strict=True)
    ]
    first, *others = (f"| {label} | {' | '.join(cells)} |" for label, cells in rows)
    return [first, alignment + "--:|" * len(ks), *others]


def _documents(method: str) -> str:
    """Return how a method chooses documents, in words."""
    _, selection, *options = method.split(":")
    noises = [option.removeprefix("noise_variance=") for option in options if "=" in option]
    words = [selection if selection == "nearest" else "SIFT"]
    words += [f"λ' = {noise}" for noise in noises]
    if selection == "sift" and not noises:
        words.append("default λ'")
    return ", ".join([*words, *(["repeats"] if "replace" in options else [])])


def means_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each method, a column for each k."""
    return _table_by_k(
        {
            method: {k: _percent(each) for k, each in by_k.items()}
            for method, by_k in results["means"].items()
        }
    )


def _table_by_k(cells: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each method, a column for each k that one of them has."""
    ks = sorted({k for by_k in cells.values() for k in by_k}, key=int)
    lines = ["| | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "--:|" * len(ks)]
    return lines + [
        f"| {NAMES[method]} | " + " | ".join(by_k.get(k, "") for k in ks) + " |"
        for method, by_k in cells.items()
    ]


def _percent(each: Mapping[str, float]) -> str:
    return f"{each['mean']:.1f} ({each['low']:.1f} to {each['high']:.1f})"


def domains_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each domain, a column for each method at its best k."""
    heads = [f"{NAMES[method]}, k = {k}" for method, k in results["best_k"].items()]
    lines = [
        "| domain | prompts | " + " | ".join(heads) + " |",
        "|---|--:|" + "--:|" * len(heads),
    ]
    return lines + [
        f"| {domain} | {results['prompts'][domain]} | "
        + " | ".join(f"{value:.1f}" for value in values.values())
        + " |"
        for domain, values in results["domains"].items()
    ]


def differences_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each pair of methods."""
    lines = ["| | k | points | 95 % | |", "|---|--:|--:|--:|---|"]
    for name, each in results["differences"].items():
        first, second = name.split(" less ")
        verdict = "cannot tell"
        if each["high"] < 0:
            verdict = "less, beyond doubt"
        elif each["low"] > 0:
            verdict = "more, beyond doubt"
        lines.append(
            f"| {NAMES[first]}, less {NAMES[second]} | {each['k'][0]}, {each['k'][1]} "
            f"| {each['mean']:+.1f} | {each['low']:+.1f} to {each['high']:+.1f} | {verdict} |"
        )
    return lines


def front_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each method and k, the fastest first."""
    lines = [
        "| | k | median seconds for a prompt | % of base | Pareto front |",
        "|---|--:|--:|--:|---|",
    ]
    return lines + [
        f"| {NAMES[each['method']]} | {each['k']} | {each['seconds']:.1f} "
        f"| {each['percent']:.1f} | {'yes' if each['on_front'] else ''} |"
        for each in results["front"]
    ]


def auto_table(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each mode, k and number of documents in the prompt."""
    names = {"auto": "auto", "base": "base model", **METHODS}
    lines = ["| k | mode | % of base | seconds for a prompt | prompts |", "|--:|---|--:|--:|--:|"]
    for of_k in results["auto"]:
        for name in ("base", *_SIFT_MODES, "auto"):
            mode = name.partition(":")[0]
            prompts = of_k["prompts"] if name == "auto" else of_k["chosen"][mode]
            limit = "" if of_k["context_k"] is None else f", {of_k['context_k']} in the prompt"
            lines.append(
                f"| {of_k['k']}{limit} | {names[name]} | {of_k[name]['percent']:.1f} "
                f"| {of_k[name]['seconds']:.1f} | {prompts} |"
            )
    return lines


def auto_checks_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each file of rows and k."""
    lines = [
        "| rows | k | prompts | best mode | % of base | auto | % of both's seconds |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for each in found:
        best = min(_SIFT_MODES, key=lambda name: float(each[name]["percent"]))
        share = 100 * each["auto"]["seconds"] / each["both:sift"]["seconds"]
        lines.append(
            f"| {each['rows']} | {each['k']} | {each['prompts']} | {METHODS[best]} "
            f"| {each[best]['percent']:.1f} | {each['auto']['percent']:.1f} | {share:.0f} |"
        )
    return lines


def largest_gains_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how much of the gain few prompts bring."""
    lines = [
        "| protocol | prompts | % of the gain: the prompt with the largest | the eight largest |",
        "|---|--:|--:|--:|",
    ]
    for each in found:
        one, eight = (100 * share for share in each["shares"].values())
        lines.append(f"| {each['protocol']} | {each['prompts']} | {one:.0f} | {eight:.0f} |")
    return lines


def auto_sizes_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how good "auto" is with tables of few and of many prompts."""
    ks = sorted({each["k"] for each in found})
    names = [f"k = {k}: {what}" for k in ks for what in ("points behind", "% of both's seconds")]
    lines = [f"| prompts of the table | {' | '.join(names)} |", f"|--:{'|--:' * len(names)}|"]
    for size in sorted({each["size"] for each in found}):
        of_k = {each["k"]: each for each in found if each["size"] == size}
        cells = [f"{of_k[k]['points']:.1f} | {100 * of_k[k]['share']:.0f}" for k in ks]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return lines


def sizes_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model."""
    ks = list(found[0]["percents"]["ttft:sift"])
    heads = [f"{METHODS[method]}, k = {k}" for method in FINE_TUNED for k in ks]
    lines = ["| model | prompts | " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * len(heads)]
    return lines + [
        f"| {each['model']} | {each['prompts']} | "
        + " | ".join(f"{each['percents'][method][k]:.1f}" for method in FINE_TUNED for k in ks)
        + " |"
        for each in found
    ]


TABLES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "means": means_table,
    "differences": differences_table,
    "domains": domains_table,
    "front": front_table,
    "auto": auto_table,
}


TABLES_OF_ALL: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], list[str]]] = {
    "recipes": recipe_table,
    "check": recipe_table,
    "noise": noise_table,
    "order tuning": order_table,
    "order questions": order_of_questions_table,
    "auto checks": auto_checks_table,
    "auto sizes": auto_sizes_table,
    "auto sizes, most informative first": auto_sizes_table,
    "largest gains": largest_gains_table,
    "sizes": sizes_table,
    "questions": questions_table,
    "auto, questions": auto_of_questions_table,
    "further questions": further_table,
    "questions, most informative first": questions_table,
    "learned": learned_table,
    "epochs": epochs_table,
    "learned, Gemma 3 270M": learned_table,
    "learned, most informative first": learned_table,
    "demo": demo_table,
}


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the page by their marks."""
    found = {name: "\n".join(table(results[name])) for name, table in TABLES_OF_ALL.items()}
    for stage, of_stage in results["stages"].items():
        if of_stage:
            found[f"means, {stage}"] = "\n".join(means_table(of_stage))
            found[f"differences, {stage}"] = "\n".join(differences_table(of_stage))
    for model, of_model in results["text"].items():
        for name, table in TABLES.items():
            is_shown = model != FIRST or name not in {"domains", "front"}
            if is_shown and (name != "auto" or of_model["auto"]):
                found[f"{name}, {model}"] = "\n".join(table(of_model))
    return found


def write_page(results: Mapping[str, Any]) -> None:
    """Replace the tables between the marks of the page."""
    page = HERE / "real_models.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        if start not in text:
            raise SystemExit(f"real_models.md has no place for the table {name!r}: add its mark")
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def epochs_of_examples() -> list[dict[str, Any]]:
    """Return the results of learning examples several times, and of the check."""
    files = {"choice": LEARNED_TUNING_ROWS, "check": LEARNED_ROWS}
    return epochs_results({purpose: read_questions(file) for purpose, file in files.items()})


def main() -> None:
    """Write the JSON file and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--commit", required=True)
    asked = parser.parse_args()
    file = HERE / "real_models.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results = {
        "command": "python examples/evidence/real_models.py --data DIR --model FILE "
        "--embeddings FOLDER --out RUNS --rows ROWS",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": asked.commit,
        "recipes": recipes(asked.rates) if asked.rates else known["recipes"],
        "check": recipes(asked.check) if asked.check else known["check"],
        "text": {
            model: text_results(rows)
            for model, name in {**FILES, FIRST: FIRST_FILE}.items()
            if (rows := read_rows(HERE / name))
        },
        "stages": {stage: stage_results(stage) for stage in STAGE_METHODS},
        "auto checks": auto_checks(),
        "auto sizes": auto_sizes(FILES["SmolLM2-135M-Instruct"]),
        "auto sizes, most informative first": auto_sizes(FIRST_FILE),
        "largest gains": largest_gains(),
        "noise": noise_results(),
        "order tuning": order_results(),
        "order questions": order_of_questions(read_questions(), read_questions(FIRST_ROWS)),
        "sizes": size_results(),
        "questions": question_results(read_questions()),
        "auto, questions": auto_of_questions(read_questions()),
        "further questions": further_results(read_questions(), read_questions(FURTHER_ROWS)),
        "questions, most informative first": question_results(read_questions(FIRST_ROWS)),
        "learned": learned_results(read_questions(LEARNED_ROWS)),
        "epochs": epochs_of_examples(),
        "learned, Gemma 3 270M": learned_results(read_questions(LEARNED_GEMMA_ROWS)),
        "learned, most informative first": learned_results(read_questions(LEARNED_FIRST_ROWS)),
        "demo": demo_results(),
    }
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results)


if __name__ == "__main__":
    main()
