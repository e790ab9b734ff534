"""Measure the endpoint with lm-evaluation-harness, and compare with its own Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import NAME, Endpoint, fill_collection, make_settings, run_endpoint
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from langchain_sift.serving import ServingSettings

pytestmark = pytest.mark.filterwarnings("default")  # of the package's own

QUESTIONS = Path(__file__).parent / "multiple_choice.jsonl"
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
{rest}
metadata: {{version: 1.0}}
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: " "
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GENERATE = """
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def endpoint(tiny_model_path, embeddings, texts, tmp_path_factory) -> Iterator[Endpoint]:
    store = tmp_path_factory.mktemp("store")
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=store)
    with run_endpoint(make_settings(tiny_model_path, store, mode="base")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tasks")
    for name, rest in (("choose", CHOICE), ("continue", GENERATE)):
        task = TASK.format(name=name, questions=QUESTIONS, rest=rest)
        (folder / f"{name}.yaml").write_text(task)
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(tasks: Any, task: str, model: str, **options: Any) -> list[Any]:
    """Return the response to each request of a task."""
    result = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=tasks,
        log_samples=True,
        bootstrap_iters=0,
        limit=20,
        verbosity="ERROR",
        **options,
    )
    assert {*result["results"]} == {task}
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    assert len(samples) == 20
    return [response for sample in samples for response in sample["filtered_resps"]]


def api(endpoint: Endpoint, path: str, model_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "base_url": f"{endpoint.url}/v1/{path}",
        "model": NAME,
        "tokenizer": str(model_path),
        "tokenizer_backend": "huggingface",
        "max_length": 256,
        "max_retries": 1,
        **more,
    }


@pytest.mark.parametrize(
    "more",
    [
        {"batch_size": 1},
        {"batch_size": 8},
        {"batch_size": 3, "num_concurrent": 3},
        {"tokenized_requests": False},
    ],
    ids=str,
)
def test_likelihoods_equal_those_of_the_hugging_face_model(
    endpoint, tasks, tiny_model_path, more
) -> None:
    local = {"pretrained": str(tiny_model_path), "device": "cpu", "dtype": "float32"}
    expected = evaluate(tasks, "choose", "hf", model_args={**local, "max_length": 256})
    arguments = api(endpoint, "completions", tiny_model_path, **more)
    found = evaluate(tasks, "choose", "local-completions", model_args=arguments)
    assert len(found) == len(expected) == 80
    for (log_p, greedy), (expected_log_p, expected_greedy) in zip(found, expected, strict=True):
        assert log_p == pytest.approx(expected_log_p, abs=1e-4)
        assert bool(greedy) == bool(expected_greedy)


def test_generations_equal_those_of_the_hugging_face_model(
    endpoint, tasks, tiny_model_path
) -> None:
    local = {"pretrained": str(tiny_model_path), "device": "cpu", "dtype": "float32"}
    expected = evaluate(tasks, "continue", "hf", model_args={**local, "max_length": 256})
    arguments = api(endpoint, "completions", tiny_model_path, batch_size=4)
    assert evaluate(tasks, "continue", "local-completions", model_args=arguments) == expected


@pytest.fixture(scope="module")
def tuned_settings(tiny_model_path, embeddings, texts, tmp_path_factory) -> ServingSettings:
    store = tmp_path_factory.mktemp("store-of-tuned")
    fill_collection(texts, str(tiny_model_path), embeddings.mean, folder=store)
    return make_settings(tiny_model_path, store, mode="ttft")


def test_test_time_fine_tuning_is_measured(
    endpoint, tasks, tiny_model_path, tuned_settings
) -> None:
    arguments = api(endpoint, "completions", tiny_model_path, batch_size=8)
    base = evaluate(tasks, "choose", "local-completions", model_args=arguments)
    with run_endpoint(tuned_settings) as tuned:
        arguments = api(tuned, "completions", tiny_model_path, batch_size=8)
        found = evaluate(tasks, "choose", "local-completions", model_args=arguments)
        chat = api(tuned, "chat/completions", tiny_model_path)
        answers = evaluate(
            tasks,
            "continue",
            "local-chat-completions",
            model_args={**chat, "tokenizer_backend": None, "tokenizer": None},
            apply_chat_template=True,
        )
    pairs = zip(found, base, strict=True)
    assert sum(log_p != before for (log_p, _), (before, _) in pairs) > 70
    assert len(answers) == 20
    assert all(isinstance(answer, str) for answer in answers)
