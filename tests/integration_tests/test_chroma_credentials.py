"""Every command reaches a server under a path, with a tenant, and with hidden credentials."""

from __future__ import annotations

import asyncio
import json
import uuid

import chromadb
import pytest
from chromadb.config import Settings
from integration_tests.quotas import QuotaProxy
from integration_tests.servers import HOST
from typer.testing import CliRunner

from langchain_sift.cli import app
from langchain_sift.config import STORE_HEADERS_VARIABLE, STORE_TOKEN_VARIABLE
from langchain_sift.serving.retrievers import make_retriever, open_store
from langchain_sift.serving.settings import ServingSettings
from langchain_sift.stores import AsyncChroma
from langchain_sift.stores.location import ChromaLocation
from langchain_sift.ttft import load_language_model

# chromadb leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SECRET = "hunter2"  # noqa: S105 - made up
BASIC = "Basic c29tZWJvZHk6aHVudGVyMg=="
"""The header of `somebody:hunter2`."""

WAYS = {
    "token": ("Authorization", f"Bearer {SECRET}"),
    "token variable": ("Authorization", f"Bearer {SECRET}"),
    "header": ("X-Key", SECRET),
    "header variable": ("X-Key", SECRET),
    "URL": ("Authorization", BASIC),
}


@pytest.fixture(scope="module")
def tenant(server):
    name = f"tenant-{uuid.uuid4()}"
    settings = Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=HOST,
        chroma_server_http_port=server.port,
    )
    admin = chromadb.AdminClient(settings)
    admin.create_tenant(name)
    admin.create_database("facts", name)
    return name


@pytest.fixture(params=WAYS)
def proxy(server, request, monkeypatch):
    """Return a proxy that asks for credentials, which the variables give if they are to."""
    for variable in (STORE_TOKEN_VARIABLE, STORE_HEADERS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    if request.param == "token variable":
        monkeypatch.setenv(STORE_TOKEN_VARIABLE, SECRET)
    if request.param == "header variable":
        monkeypatch.setenv(STORE_HEADERS_VARIABLE, f"X-Other: 1\nX-Key: {SECRET}")
    proxy = QuotaProxy(server.port, prefix="/a/chroma", credentials=WAYS[request.param])
    yield proxy
    proxy.close()


@pytest.fixture
def url(proxy, tenant, request):
    way = request.node.callspec.params["proxy"]
    server = (
        proxy.url.replace("http://", f"http://somebody:{SECRET}@") if way == "URL" else proxy.url
    )
    return f"{server}?tenant={tenant}&database=facts"


@pytest.fixture
def options(request):
    way = request.node.callspec.params["proxy"]
    given = {"token": ["--store-token", SECRET], "header": ["--store-header", f"X-Key: {SECRET}"]}
    return given.get(way, [])


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert SECRET not in result.output
    assert BASIC not in result.output
    return json.loads(result.stdout.splitlines()[-1]) if result.stdout else {}


@pytest.fixture
def corpus(tmp_path, texts):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40]))
    return file


@pytest.mark.slow
def test_every_command_reaches_the_server(  # noqa: PLR0917 - fixtures
    proxy, url, options, corpus, texts, tiny_model_path, tmp_path
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": texts[50]}))
    collection = f"facts-{uuid.uuid4()}"
    store = ["--store", url, "--collection", collection, *options]
    indexed = run("index", corpus, *store, "--embeddings", tiny_model_path)
    assert indexed["added"] == 40
    assert indexed["store"] == str(ChromaLocation.of(url))
    explained = run("explain", texts[3], *store, "--k", "3", "--json")
    assert explained["sift"][0]["text"] == texts[3]
    repaired = run("repair", *store, "--embeddings", tiny_model_path)
    assert repaired["lowest_cosine"] > 0.9999
    diagnosed = run("doctor", *store, "--json")
    assert diagnosed
    out = tmp_path / "out"
    compared = ["--prompts", prompts, "--model", tiny_model_path, "--out", out, "--k", "2"]
    run("compare", *compared, *store, "--methods", "base,rag:sift")
    assert {call.path.split("/")[1:3] == ["a", "chroma"] for call in proxy.calls} == {True}
    # The number of query vectors is not documented, and learned from a refusal.
    assert [text for text in proxy.refusals if "query embeddings" not in text] == []
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("proxy", ["token", "URL"], indirect=True)
def test_calibrate_reaches_the_server(proxy, url, options, corpus, tiny_model_path, tmp_path):  # noqa: PLR0917
    store = ["--store", url, "--collection", f"facts-{uuid.uuid4()}", *options]
    run("index", corpus, *store, "--embeddings", tiny_model_path)
    saved = tmp_path / "settings.json"
    few = ["--prompts", "2", "--k", "2", "--lora-rank", "2"]
    run("calibrate", "--model", tiny_model_path, "--out", saved, *store, *few)
    chosen = run("calibrate", "--out", saved, *store, "--prompts", "10", "--k", "2")
    assert chosen["settings"]["retrieval"]["k"] == 2
    assert SECRET not in saved.read_text()
    assert proxy.refusals == []


def test_serving_retrieves_with_coroutines(proxy, url, options, corpus, tiny_model_path, texts):  # noqa: PLR0917
    collection = f"facts-{uuid.uuid4()}"
    stored = ["--store", url, "--collection", collection, *options]
    run("index", corpus, *stored, "--embeddings", tiny_model_path)
    token = options[1] if "--store-token" in options else None
    headers = [options[1]] if "--store-header" in options else []
    location = ChromaLocation.of(url, token=token, headers=headers)
    settings = ServingSettings(model=str(tiny_model_path), store=location, k=3)
    assert SECRET not in repr(settings)
    store = open_store(settings, collection, lambda: load_language_model(str(tiny_model_path)))
    assert isinstance(store, AsyncChroma)

    async def retrieve():
        retriever = make_retriever(settings, settings.tenants.members[0], store)
        try:
            await store.aheartbeat(timeout=60)
            return await retriever.ainvoke(texts[3])
        finally:
            await store.aclose()

    found = asyncio.run(retrieve())
    assert found[0].page_content == texts[3]
    assert proxy.refusals == []


@pytest.mark.parametrize("proxy", ["token"], indirect=True)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "refused the request with status 401: give a token (--store-token"),
        (["--store-token", "wrong-hunter2"], "refused the request with status 401"),
        (["--store-header", "X-hunter2"], "has the form 'NAME: VALUE'"),
        (["--store-token", "hunter2\nx"], "has the form 'NAME: VALUE'"),
    ],
)
def test_wrong_credentials_are_one_line_without_secrets(proxy, tenant, more, message):
    command = ["explain", "x", "--store", f"{proxy.url}?tenant={tenant}&database=facts", *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in result.stderr
    assert SECRET not in result.output
    assert "Traceback" not in result.output
