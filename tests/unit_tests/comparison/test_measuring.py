"""Every method is measured on every prompt, and one failure costs one row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from langchain_chroma import Chroma

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import Prompt
from langchain_sift.errors import ArgumentError
from langchain_sift.selection import select

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from langchain_sift.comparison import Report

RECIPE = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=5e-3, max_length=48)
PROMPTS = [
    Prompt("one", "The river carries warm bread in winter, 12 times.", "a"),
    Prompt("two", "Every comet repairs a broken clock at sea, 7 times.", "b"),
]
METHODS = ("base", "rag:sift", "ttft:nearest", "ttft:sift", "ttft:random")


@pytest.fixture
def report(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    store: Chroma,
    tmp_path: Path,
) -> Report:
    return compare(
        PROMPTS,
        METHODS,
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        protocols=("document", "continuation"),
        k=6,
        fetch_k=30,
        noise_variance=1.0,
        finetune=RECIPE,
        out=tmp_path,
    )


def test_there_is_a_row_for_each_and_it_is_on_disk(report: Report, tmp_path: Path) -> None:
    keys = [(row.protocol, row.prompt, row.method) for row in report.rows]
    expected = [
        (protocol, prompt.id, method)
        for protocol in ("document", "continuation")
        for prompt in PROMPTS
        for method in METHODS
    ]
    assert keys == expected
    assert all(row.failure is None for row in report.rows)
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(r["protocol"], r["prompt"], r["method"]) for r in written] == expected
    assert [r["bits"] for r in written] == [row.bits for row in report.rows]


def test_base_bits_are_the_models_own_loss(
    report: Report, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    row = report.rows[0]
    ids = [tiny_tokenizer.bos_token_id, *tiny_tokenizer(PROMPTS[0].text)["input_ids"]]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        loss = tiny_model(input_ids=tokens, labels=tokens).loss.item()
    assert row.bits == pytest.approx(loss * (len(ids) - 1) / math.log(2), rel=1e-4)
    assert row.bytes == len(PROMPTS[0].text)


def test_fine_tuning_repeats_where_sift_does_and_rag_never(report: Report, store: Chroma) -> None:
    held = store.get(include=["embeddings", "documents"])
    query = store.embeddings.embed_query(PROMPTS[0].text)
    found = store._collection.query(
        query_embeddings=[query], n_results=30, include=["embeddings", "documents"]
    )
    expected = select(query, list(found["embeddings"][0]), k=6, noise_variance=1.0, replace=True)
    by_method = {row.method: row for row in report.rows[: len(METHODS)]}
    ids = [document.id for document in by_method["ttft:sift"].chosen]
    assert ids == [found["ids"][0][index] for index in expected.indices]
    assert set(ids) <= set(held["ids"])
    for method in ("rag:sift", "ttft:nearest", "ttft:random"):
        row = by_method[method]
        assert len({document.id for document in row.chosen}) == 6, method
    variances = [d.posterior_variance for d in by_method["ttft:sift"].chosen]
    assert variances == pytest.approx(list(expected.posterior_variances), abs=1e-6)


def test_fine_tuning_on_what_is_like_the_prompt_helps(report: Report) -> None:
    for protocol in report.protocols:
        assert report.summary(protocol)["ttft:sift"].percent_of_base < 100


def test_a_failure_costs_one_row_and_says_why(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    report = compare(
        ["word", "The river carries warm bread."],
        ("ttft:sift",),
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        protocols=("continuation",),
        k=2,
        finetune=RECIPE,
    )
    failed, scored = report.rows[:2], report.rows[2:]
    assert [row.method for row in failed] == ["base", "ttft:sift"]
    assert all("single word" in str(row.failure) and math.isnan(row.bits) for row in failed)
    assert all(row.failure is None for row in scored)
    assert report.summary("continuation")["ttft:sift"].failures == 1


def test_a_dropped_collection_fails_retrieval_and_spares_the_base_model(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, store: Chroma
) -> None:
    store._client.delete_collection(store._collection.name)
    report = compare(
        PROMPTS[:1],
        ("base", "rag:nearest"),
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        vectorstore=store,
        finetune=RECIPE,
    )
    assert report.rows[0].failure is None
    assert str(report.rows[1].failure).startswith("CollectionNotFound")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("ttft:shift",)}, "'ttft:shift'.*ttft:sift"),
        ({"methods": ("sift",)}, "'sift'"),
        ({"protocols": ("paper",)}, "'paper'.*document, continuation"),
        ({"k": 0}, "k must be.*0"),
        ({"noise_variance": 0.0}, "noise_variance"),
    ],
)
def test_what_does_not_exist_is_refused_before_any_work(
    change: dict[str, object], message: str, store: Chroma
) -> None:
    settings = {"model": "never/loaded", "vectorstore": store, **change}
    with pytest.raises(ArgumentError, match=message):
        compare(PROMPTS, **settings)
