"""Trained adapters are stored by content, for one tenant, and used again."""

from __future__ import annotations

import errno
import logging
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from langchain_core.documents import Document

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import AdapterCache, Engine, LanguageModel, Request, TrainingRecord
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.tasks import TrainingTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture
def cache(tmp_path: Path) -> AdapterCache:
    return AdapterCache(tmp_path / "adapters", tenant="a")


@pytest.fixture
def chat(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    cache: AdapterCache,
) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=finetune_config,
        max_tokens=8,
        adapter_cache=cache,
    )


@pytest.fixture
def trainings(chat: ChatTestTimeFineTuned, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the gradient steps."""
    steps: list[int] = []
    trainer = chat.engine._worker._trainer
    gradients = trainer._gradients
    monkeypatch.setattr(
        trainer, "_gradients", lambda first, rows: steps.append(len(rows)) or gradients(first, rows)
    )
    return steps


def test_the_same_documents_are_trained_on_once(
    chat: ChatTestTimeFineTuned, texts: list[str], trainings: list[int]
) -> None:
    documents = [Document(text, id=text[:5]) for text in texts[:3]]
    first = chat.invoke("The river", documents=documents)
    assert len(trainings) == 3
    again = chat.invoke("The river", documents=documents)
    other = chat.invoke("A baker", documents=documents)
    assert len(trainings) == 3
    assert again.content == first.content
    records = [m.response_metadata["ttft"] for m in (first, again)]
    assert [record["cached"] for record in records] == [False, True]
    for name in ("documents", "losses", "update_norm", "steps", "fallback"):
        assert records[0][name] == records[1][name]
    assert records[1]["seconds"]["training"] == 0.0
    plain = chat.model_copy(update={"adapter_cache": None})
    assert other.content == plain.invoke("A baker", documents=documents).content


def test_a_cached_record_has_the_documents_of_this_request(
    chat: ChatTestTimeFineTuned, texts: list[str], trainings: list[int]
) -> None:
    short, more = Document("", id="short"), Document(texts[5], id="more")
    long = [Document(text, id=text[:5]) for text in texts[:2]]
    calls = [[short, *long, more], [long[0], short, long[1]], long]
    messages = [chat.invoke("The river", documents=call, max_documents=2) for call in calls]
    records = [message.response_metadata["ttft"] for message in messages]
    assert len(trainings) == 2
    assert [record["cached"] for record in records] == [False, True, True]
    assert [record["documents"] for record in records] == [[document.id for document in long]] * 3
    assert [record["skipped"] for record in records] == [["short"], ["short"], []]
    assert ["budget" in str(record["ended"]) for record in records] == [True, False, False]


async def test_coroutines_share_the_cache(
    chat: ChatTestTimeFineTuned, texts: list[str], trainings: list[int]
) -> None:
    documents = [Document(text) for text in texts[:2]]
    first = await chat.ainvoke("The river", documents=documents)
    assert (await chat.ainvoke("The river", documents=documents)).content == first.content
    assert chat.invoke("The river", documents=documents).content == first.content
    assert len(trainings) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"documents": [Document("Another text about rivers and maps.")]},
        {"learning_rate": 2e-2},
        {"steps_per_document": 2},
    ],
)
def test_another_document_or_config_is_trained_on_anew(
    chat: ChatTestTimeFineTuned,
    texts: list[str],
    trainings: list[int],
    change: dict[str, object],
) -> None:
    call = {"documents": [Document(texts[0])]}
    chat.invoke("The river", **call)
    taken = len(trainings)
    chat.invoke("The river", **{**call, **change})
    assert len(trainings) > taken


def test_another_order_is_trained_on_anew(
    chat: ChatTestTimeFineTuned, texts: list[str], trainings: list[int]
) -> None:
    documents = [Document(text) for text in texts[:2]]
    chat.invoke("The river", documents=documents)
    chat.invoke("The river", documents=documents[::-1])
    assert len(trainings) == 4


def request_of(*rows: tuple[int, ...], config: FineTuneConfig | None = None) -> Request:
    documents = [TokenizedDocument(i, row, truncated=False) for i, row in enumerate(rows)]
    return Request(documents, config or FineTuneConfig())


def test_no_two_requests_share_a_key(tmp_path: Path) -> None:
    """Nor do requests whose parts would be equal if simply joined."""
    cache = AdapterCache(tmp_path / "x", tenant="a")
    keys = {
        cache.key("base", request_of((1, 2), (3,))),
        cache.key("base", request_of((1,), (2, 3))),
        cache.key("base", request_of((12,), (3,))),
        cache.key("base", request_of((1, 2, 3))),
        cache.key("base", request_of((3,), (1, 2))),
        cache.key("bas", request_of((1, 2), (3,))),
        cache.key("base", request_of((1, 2), (3,), config=FineTuneConfig(seed=1))),
        AdapterCache(tmp_path / "x", tenant="ab").key("ase", request_of((1, 2), (3,))),
        AdapterCache(tmp_path / "x", tenant="b").key("base", request_of((1, 2), (3,))),
    }
    assert len(keys) == 9
    assert cache.key("base", request_of((1, 2))) == cache.key("base", request_of((1, 2)))


def test_another_model_of_the_same_name_has_another_fingerprint(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    def fingerprint(model: PreTrainedModel) -> str:
        return LanguageModel("same", model, tiny_tokenizer).fingerprint

    other = type(tiny_model)(tiny_model.config).eval()
    other.load_state_dict(tiny_model.state_dict())
    assert fingerprint(other) == fingerprint(tiny_model)
    with torch.no_grad():
        other.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-3
    assert fingerprint(other) != fingerprint(tiny_model)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ArgumentError, match=f"folder of the adapter cache.*{folder.name}"):
            AdapterCache(folder, tenant="acme")


@contextmanager
def no_folder(folder: Path) -> Iterator[None]:
    folder.rmdir()
    folder.write_text("a file, where nothing can be stored")
    yield


@contextmanager
def full_disk(_: Path) -> Iterator[None]:
    """Let each file have no more bytes than the small files of an adapter.

    The limit holds for all files of the process, such as one to which pytest prints its results.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("fail", [no_folder, full_disk])
def test_a_cache_that_cannot_be_written_costs_no_answer(
    chat: ChatTestTimeFineTuned,
    texts: list[str],
    tmp_path: Path,
    fail: Callable[[Path], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    documents, folder = [Document(texts[0])], tmp_path / "adapters"
    plain = chat.model_copy(update={"adapter_cache": None})
    expected = plain.invoke("The river", documents=documents).content
    with fail(folder):
        answers = [chat.invoke("The river", documents=documents) for _ in range(2)]
    assert [answer.content for answer in answers] == [expected] * 2
    assert not any(answer.response_metadata["ttft"]["cached"] for answer in answers)
    (error,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert str(folder) in error
    assert texts[0] not in error
    assert not folder.is_dir() or list(folder.iterdir()) == []


def test_an_adapter_is_used_from_a_read_only_folder(
    chat: ChatTestTimeFineTuned, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    chat.invoke("The river", documents=[Document(texts[0])])
    monkeypatch.setattr(os, "utime", read_only)
    again = [chat.invoke("The river", documents=[Document(texts[0])]) for _ in range(2)]
    assert all(answer.response_metadata["ttft"]["cached"] for answer in again)


@pytest.mark.usefixtures("cache")
def test_only_the_owner_may_read_or_write(tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "adapters").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ArgumentError, match="others may write"):
        AdapterCache(tmp_path / "open", tenant="a")
    with pytest.raises(ArgumentError, match="tenant"):
        AdapterCache(tmp_path / "adapters", tenant="")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(b"no")])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "langchain_sift.json"])
def test_a_damaged_adapter_is_trained_anew(
    chat: ChatTestTimeFineTuned,
    texts: list[str],
    tmp_path: Path,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    documents = [Document(texts[0])]
    expected = chat.invoke("The river", documents=documents).content
    (adapter,) = (tmp_path / "adapters").iterdir()
    damage(adapter / file)
    message = chat.invoke("The river", documents=documents)
    assert message.content == expected
    assert message.response_metadata["ttft"]["cached"] is False
    assert chat.invoke("x", documents=documents).response_metadata["ttft"]["cached"] is True


def test_the_adapters_not_used_for_longest_are_removed(
    chat: ChatTestTimeFineTuned, texts: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "adapters"
    chat.invoke("x", documents=[Document(texts[0])])
    (first,) = folder.iterdir()
    size = sum(file.stat().st_size for file in first.iterdir())
    chat.adapter_cache._max_bytes = int(2.5 * size)
    os.utime(first, (1, 1))
    chat.invoke("x", documents=[Document(texts[1])])
    os.utime(next(p for p in folder.iterdir() if p != first), (2, 2))
    chat.invoke("x", documents=[Document(texts[0])])  # used again: no longer the oldest
    chat.invoke("x", documents=[Document(texts[2])])
    assert len(list(folder.iterdir())) == 2
    assert first.exists()


def test_a_training_that_failed_or_depends_on_the_clock_is_not_stored(
    chat: ChatTestTimeFineTuned, texts: list[str], tmp_path: Path
) -> None:
    chat.invoke("x", documents=[Document(texts[0])], max_train_seconds=100.0)
    chat.invoke("x", documents=[])
    chat.invoke("x", documents=[Document(texts[0])], learning_rate=1e30)
    assert list((tmp_path / "adapters").iterdir()) == []


@pytest.mark.slow
def test_an_adapter_of_documents_cut_for_want_of_memory_is_not_stored(
    chat: ChatTestTimeFineTuned, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, documents = chat.engine._worker._trainer, [Document(" ".join(texts[:5]))]
    train = trainer.train

    def lacks_memory(tasks: list[TrainingTask]) -> list[TrainingRecord]:
        if any(len(d.token_ids) > 32 for task in tasks for d in task.documents):
            raise torch.OutOfMemoryError
        return train(tasks)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", lacks_memory)
        half = chat.invoke("The river", documents=documents).response_metadata["ttft"]
        adapter = chat.engine.finetune([documents[0].page_content])
    whole = chat.invoke("The river", documents=documents).response_metadata["ttft"]
    assert (half["tokens"], whole["tokens"], whole["cached"]) == (32, 64, False)
    shorter = replace(chat.engine.config, max_length=32, on_failure="raise")
    assert adapter.config == shorter
    again = chat.engine.finetune([documents[0].page_content], config=shorter)
    assert torch.equal(again.weights, adapter.weights)
    assert chat.invoke("x", documents=documents).response_metadata["ttft"]["cached"] is True


def test_threads_that_store_the_same_adapter_store_one(
    tmp_path: Path, cache: AdapterCache, engine: Engine, texts: list[str]
) -> None:
    adapter = engine.finetune(texts[:2])
    threads = [threading.Thread(target=cache.put, args=("f" * 64, adapter)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["f" * 64]
    stored = cache.get("f" * 64)
    assert torch.equal(stored.weights, adapter.weights)
    assert stored.config == replace(engine.config, on_failure="raise")
    assert cache.get("0" * 64) is None
