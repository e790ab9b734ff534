"""Test that adapters are loaded into a vLLM server by its protocol, and always unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from unit_tests.vllm_double import KEY, VLLMDouble

from langchain_sift import (
    ChatTestTimeFineTuned,
    FineTuneConfig,
    SIFTRetriever,
    TestTimeFineTunedLLM,
)
from langchain_sift.errors import (
    AdapterRefused,
    ArgumentError,
    EngineError,
    GeneratorUnavailable,
    RequestTimeout,
)
from langchain_sift.language_models.server_addresses import blocking_timeout
from langchain_sift.vllm import VLLMAdapters, create_vllm_chain

QUESTION = "Who repairs the broken clock near the border?"
CONFIG = FineTuneConfig(lora_rank=4, learning_rate=0.05, max_length=64)
LOADED_AND_UNLOADED = ["load_lora_adapter", "chat/completions", "unload_lora_adapter"]


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Wait for a busy server to unload an adapter, however long that takes."""
    monkeypatch.setattr("langchain_sift.vllm._UNLOAD_SECONDS", 60.0)


@pytest.fixture
def double(tiny_model, tiny_tokenizer):
    with VLLMDouble(tiny_model, tiny_tokenizer) as running:
        yield running


@pytest.fixture
def adapters(double, tmp_path):
    return VLLMAdapters(double.url, tmp_path / "shared", api_key=KEY, timeout=60)


@pytest.fixture
def model(tiny_model, tiny_tokenizer):
    return ChatTestTimeFineTuned(
        model=tiny_model, tokenizer=tiny_tokenizer, finetune=CONFIG, max_tokens=12, timeout=60
    )


@pytest.fixture
def adapter(model, texts):
    return model.engine.finetune(texts[:3])


@pytest.fixture
def documents(texts):
    return [Document(text, id=str(number)) for number, text in enumerate(texts[:4])]


@pytest.fixture
def chain(model, documents, double, adapters):
    llm = ChatOpenAI(
        base_url=double.url, api_key=KEY, model="base", temperature=0, max_tokens=12, max_retries=0
    )
    return create_vllm_chain(model, RunnableLambda(lambda _: documents), llm, adapters)


def test_a_chain_describes_itself(chain):
    assert chain.get_input_jsonschema()["properties"]["input"]["type"] == "string"
    assert chain.get_output_jsonschema()["properties"]["answer"]["type"] == "string"
    assert chain.get_graph().draw_mermaid()


def left(adapters: VLLMAdapters) -> list[Path]:
    folder = adapters._folder
    return list(folder.iterdir()) if folder.exists() else []


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_unloaded(double: VLLMDouble) -> None:
    """Wait until the server has answered abandoned requests and unloaded all adapters."""
    wait_until(lambda: double.busy == 0 and not double.adapters)


def test_an_adapter_is_loaded_and_unloaded_by_the_protocol(double, adapters, adapter):
    with adapters.loaded(adapter) as name:
        assert re.fullmatch(r"ttft-[0-9a-f]{32}", name)
        assert set(double.adapters) == {name}
        (folder,) = left(adapters)
    path = str(folder)
    assert double.calls == [
        ("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": name}),
    ]
    for headers in double.headers:
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["content-type"] == "application/json"
    assert double.modes == [0o700]
    assert (double.adapters, left(adapters)) == ({}, [])


async def test_a_coroutine_loads_and_unloads_an_adapter(double, adapters, adapter):
    async with adapters.aloaded(adapter) as name:
        assert set(double.adapters) == {name}
    assert double.routes == ["load_lora_adapter", "unload_lora_adapter"]
    assert double.modes == [0o700]
    assert (double.adapters, left(adapters)) == ({}, [])


def test_the_chain_answers_on_the_server_as_the_model_does_locally(
    chain, model, documents, double, adapters
):
    here = model.invoke(QUESTION, documents=documents).text
    base = model.invoke(QUESTION, documents=[]).text
    there = chain.invoke({"input": QUESTION})
    assert there == {"input": QUESTION, "context": documents, "answer": here}
    assert here != base
    assert double.routes == LOADED_AND_UNLOADED
    lent, asked, _ = (body for _, _, body in double.calls)
    assert asked["model"] == lent["lora_name"]
    assert (double.adapters, left(adapters)) == ({}, [])


@pytest.mark.parametrize("is_chat", [False, True])
def test_the_teacher_knows_the_question(model, documents, double, adapters, is_chat):
    """The lessons are those of the same call here, the lesson about the question included."""
    kind = ChatTestTimeFineTuned if is_chat else TestTimeFineTunedLLM
    fields = {name: getattr(model, name) for name in ("model", "tokenizer", "max_tokens")}
    distilling = replace(model.finetune, objective="distill")
    teacher = kind(**fields, finetune=distilling)
    llm = ChatOpenAI(base_url=double.url, api_key=KEY, model="base", max_tokens=4, max_retries=0)
    chain = create_vllm_chain(teacher, RunnableLambda(lambda _: documents), llm, adapters)
    kept = []
    lent = adapters.loaded

    def loaded(adapter):
        kept.append(adapter)
        return lent(adapter)

    adapters.loaded = loaded
    chain.invoke({"input": QUESTION})
    (result,) = teacher.generate(
        [[HumanMessage(QUESTION)] if is_chat else QUESTION], documents=documents
    ).generations[0]
    info = result.message.response_metadata if is_chat else result.generation_info
    assert kept[0].training.losses == pytest.approx(info["ttft"]["losses"], rel=1e-4, abs=1e-7)


def test_a_model_that_has_learned_is_refused(model, documents, adapters):
    session = model.learn(documents)
    with pytest.raises(ArgumentError, match="the model has learned, and this chain"):
        create_vllm_chain(session, RunnableLambda(lambda _: documents), model, adapters)


async def test_the_chain_streams_for_threads_and_coroutines(chain, model, documents, double):
    here = model.invoke(QUESTION, documents=documents).text
    pieces = [piece["answer"] for piece in chain.stream({"input": QUESTION}) if "answer" in piece]
    assert "".join(pieces) == here
    assert len([piece for piece in pieces if piece]) == 2
    assert (await chain.ainvoke({"input": QUESTION}))["answer"] == here
    said = [p["answer"] async for p in chain.astream({"input": QUESTION}) if "answer" in p]
    assert "".join(said) == here
    assert double.routes == LOADED_AND_UNLOADED * 3
    assert double.adapters == {}


@pytest.mark.slow
def test_many_threads_load_adapters_under_unique_names(chain, model, documents, double, adapters):
    here = model.invoke(QUESTION, documents=documents).text
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: chain.invoke({"input": QUESTION}), range(24)))
    assert {answer["answer"] for answer in found} == {here}
    assert len(double.names) == 24
    for name in double.names:
        mine = [
            path.removeprefix("/v1/")
            for _, path, body in double.calls
            if name in (body.get("lora_name"), body.get("model"))
        ]
        assert mine == LOADED_AND_UNLOADED
    assert (double.adapters, left(adapters)) == ({}, [])


def test_without_an_adapter_the_base_model_answers_and_the_log_has_the_reason(
    chain, model, documents, double, caplog
):
    base = model.invoke(QUESTION, documents=[]).text
    documents.clear()
    with caplog.at_level(logging.WARNING, "langchain_sift.vllm"):
        assert chain.invoke({"input": QUESTION})["answer"] == base
    assert double.routes == ["chat/completions"]
    assert "the base model answers: no document to train on" in caplog.text


def test_documents_with_too_little_gain_are_not_trained_on(model, store, double, adapters, caplog):
    retriever = SIFTRetriever(vectorstore=store, k=4, noise_variance=1.0)
    choices = retriever.retrieve_with_scores(QUESTION).choices
    gain = sum(choice.gain for choice in choices)
    llm = ChatOpenAI(base_url=double.url, api_key=KEY, model="base", max_tokens=12, max_retries=0)
    for least, routes in ((gain * 0.99, LOADED_AND_UNLOADED), (gain * 1.01, ["chat/completions"])):
        frugal = model.model_copy(update={"finetune": replace(CONFIG, min_gain=least)})
        create_vllm_chain(frugal, retriever, llm, adapters).invoke({"input": QUESTION})
        assert double.routes == routes
        double.calls.clear()
    assert "the base model answers: the documents' gain" in caplog.text


def test_a_failed_block_unloads_the_adapter(double, adapters, adapter):
    with pytest.raises(ZeroDivisionError), adapters.loaded(adapter):
        _ = 1 / 0
    assert (double.adapters, left(adapters)) == ({}, [])


def test_a_refused_answer_unloads_the_adapter(chain, double, adapters):
    double.refusals["chat/completions"] = (400, b'{"error": {"message": "no"}}')
    with pytest.raises(Exception, match="400"):
        chain.invoke({"input": QUESTION})
    assert double.routes == LOADED_AND_UNLOADED
    assert (double.adapters, left(adapters)) == ({}, [])


def test_an_abandoned_stream_unloads_the_adapter(chain, double, adapters):
    stream = chain.stream({"input": QUESTION})
    with contextlib.closing(stream):
        for piece in stream:
            if "answer" in piece:
                break
    assert double.routes == LOADED_AND_UNLOADED
    assert (double.adapters, left(adapters)) == ({}, [])


async def test_a_cancelled_task_unloads_the_adapter(chain, double, adapters):
    double.delays["piece"] = 30
    task = asyncio.create_task(chain.ainvoke({"input": QUESTION}))
    while not double.generating.is_set():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert double.routes == LOADED_AND_UNLOADED
    assert (double.adapters, left(adapters)) == ({}, [])


@pytest.mark.slow
@pytest.mark.parametrize("when", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_a_task_cancelled_at_any_time_leaves_no_files(double, adapters, adapter, when):
    async def lend():
        async with adapters.aloaded(adapter):
            await asyncio.sleep(30)

    task = asyncio.create_task(lend())
    await asyncio.sleep(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(adapters) == []
    await asyncio.to_thread(wait_until_unloaded, double)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((404, b'{"detail": "Not Found"}'), (AdapterRefused, "VLLM_ALLOW_RUNTIME_LORA_UPDATING")),
        ((401, b'{"error": "Unauthorized"}'), (AdapterRefused, "api_key is not the key")),
        ((503, b"no healthy upstream"), (GeneratorUnavailable, "answered 503: try again later")),
        ((400, b'{"message": "no room"}'), (AdapterRefused, "rejected the adapter: no room")),
        ((307, b""), (AdapterRefused, "answered 307")),
    ],
)
def test_a_refusal_names_the_cure(double, adapters, adapter, refusal, error):
    double.refusals["load_lora_adapter"] = refusal
    error, said = error
    with pytest.raises(error, match=said) as caught, adapters.loaded(adapter):
        pytest.fail("the adapter was rejected")
    assert isinstance(caught.value, EngineError)
    assert KEY not in str(caught.value)
    assert left(adapters) == []


def test_a_rank_above_the_servers_maximum_names_the_option(double, adapters, adapter):
    double.max_lora_rank = 2
    with pytest.raises(AdapterRefused, match="--max-lora-rank 8"), adapters.loaded(adapter):
        pytest.fail("the adapter was rejected")


def test_a_folder_that_the_server_cannot_read_is_an_error(double, adapters, adapter, monkeypatch):
    monkeypatch.setattr(double, "_load", lambda _, path: (404, _not_found(path)))
    with (
        pytest.raises(AdapterRefused, match=r"able to read .*shared under that path"),
        adapters.loaded(adapter),
    ):
        pytest.fail("the adapter was rejected")


def _not_found(path):
    return f'{{"error": {{"message": "No adapter found for {path}"}}}}'.encode()


def test_an_address_without_v1_is_named(double, adapter, tmp_path):
    above = VLLMAdapters(double.url.removesuffix("/v1"), tmp_path, api_key=KEY)
    with pytest.raises(AdapterRefused, match="must end in /v1"), above.loaded(adapter):
        pytest.fail("there is no such route")


def test_a_folder_that_cannot_be_made_is_an_error_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArgumentError, match=r"cannot make the folder of the adapters.*file"):
            VLLMAdapters("http://gpu:8000/v1", folder)


def test_all_addresses_of_a_server_share_the_timeout(monkeypatch):
    def resolve(host, port, **_):
        assert (host, port) == ("gpu.example", 8000)
        return [(None, None, 0, "", ("10.0.0.1", port)), (None, None, 0, "", ("fe80::1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    timeout = blocking_timeout("http://gpu.example:8000/v1", 8)
    assert (timeout.connect, timeout.read) == (4, 8)


def test_a_server_that_is_down_is_a_typed_error(adapter, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        gone = VLLMAdapters(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", tmp_path)
        with pytest.raises(GeneratorUnavailable, match="cannot be reached"), gone.loaded(adapter):
            pytest.fail("no server listens")
    assert list(tmp_path.iterdir()) == []


async def load(adapters, adapter, how):
    if how == "threads":
        with adapters.loaded(adapter):
            pytest.fail("no server loaded it")
    else:
        async with adapters.aloaded(adapter):
            pytest.fail("no server loaded it")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["threads", "coroutines"])
async def test_a_server_that_accepts_no_connection_gets_one_request_and_no_adapter(
    adapter, tmp_path, caplog, how
):
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(full.getsockname())
        there = VLLMAdapters(f"http://127.0.0.1:{full.getsockname()[1]}/v1", tmp_path, timeout=1)
        with pytest.raises(RequestTimeout, match="within 1 s"):
            await load(there, adapter, how)
    assert caplog.text == ""  # nothing was to be unloaded
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["threads", "coroutines"])
async def test_a_silent_server_delays_the_caller_by_one_timeout_only(
    adapter, tmp_path, caplog, monkeypatch, how
):
    monkeypatch.setattr("langchain_sift.vllm._UNLOAD_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        for seconds in (2, 10, 50):  # a busy machine adds some, whichever timeout it is
            there = VLLMAdapters(url, tmp_path, timeout=seconds)
            began = time.monotonic()
            with pytest.raises(RequestTimeout, match=f"within {seconds} s"):
                await load(there, adapter, how)
            if time.monotonic() - began < 1.9 * seconds:
                break
        else:
            pytest.fail("the caller waited for two timeouts")
    assert "may keep the adapter" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_slow_server_times_out_and_its_adapter_is_unloaded(
    double, adapter, tmp_path, monkeypatch
):
    usual = double._load

    def load_late(name, path):
        wait_until(lambda: "unload_lora_adapter" in double.routes)
        return usual(name, path)

    monkeypatch.setattr(double, "_load", load_late)
    slow = VLLMAdapters(double.url, tmp_path, timeout=2)
    with pytest.raises(RequestTimeout, match="within 2 s"), slow.loaded(adapter):
        pytest.fail("the server answered too late")
    wait_until(lambda: sorted(double.routes) == ["load_lora_adapter", "unload_lora_adapter"])
    assert list(tmp_path.iterdir()) == []
    wait_until_unloaded(double)


def test_an_adapter_that_stays_loaded_is_logged(double, adapters, adapter, caplog):
    double.refusals["unload_lora_adapter"] = (500, b"no")
    with adapters.loaded(adapter) as name:
        pass
    assert f"keeps the adapter {name}: 500" in caplog.text
    assert left(adapters) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"base_url": "gpu:8000"}, "must be like http://host:port/v1"),
        ({"base_url": "http://"}, "must be like http://host:port/v1"),
        ({"base_url": None}, "must be like http://host:port/v1"),
        ({"base_url": "http://gpu:port/v1"}, "must be like http://host:port/v1"),
        ({"timeout": 0}, "must be positive"),
    ],
)
def test_wrong_arguments_are_errors(tmp_path, arguments, said):
    with pytest.raises(ArgumentError, match=said):
        VLLMAdapters(**{"base_url": "http://gpu:8000/v1", "folder": tmp_path, **arguments})


def test_threads_that_wait_for_the_server_do_not_block_each_other(double, adapters, adapter):
    double.delays["load_lora_adapter"] = 0.3
    together = threading.Barrier(4, timeout=60)

    def lend(_):
        with adapters.loaded(adapter):
            return together.wait()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(lend, range(4))) == [0, 1, 2, 3]
