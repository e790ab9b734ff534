"""Send the same requests to a model in process, to a server, and to Ray."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from integration_tests import ray_endpoint as on
from langchain_core.messages import HumanMessage

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, Limits, SIFTRetriever
from langchain_sift.indexing.chroma_collections import open_collection
from langchain_sift.ttft import load_language_model

PROMPTS = 4


def in_one_process(store: str, args: dict[str, Any]) -> list[Any]:
    chat = ChatTestTimeFineTuned(
        model=args["model"],
        retriever=SIFTRetriever(
            vectorstore=open_collection(
                store, args["collection"], lambda _: load_language_model(args["model"])
            ),
            k=args["k"],
        ),
        finetune=FineTuneConfig(**args["finetune"]),
        limits=Limits(max_batch_size=1),
        max_tokens=args["max_tokens"],
    )
    answers = []
    for number in range(PROMPTS):
        (message,) = on.question(number)["messages"]
        answer = chat.invoke([HumanMessage(message["content"])])
        record, usage = answer.response_metadata["ttft"], answer.usage_metadata
        assert usage is not None
        answers.append([answer.text, usage["output_tokens"], record["documents"], record["losses"]])
    return answers


async def by_http(url: str) -> list[Any]:
    answers = []
    async with on.client() as http:
        for number in range(PROMPTS):
            response = await on.ask(http, url, number)
            assert response["status"] == 200, response
            body = json.loads(response["body"])
            record = body["ttft"]
            text = body["choices"][0]["message"]["content"]
            tokens = body["usage"]["completion_tokens"]
            answers.append([text, tokens, record["documents"], record["losses"]])
    return answers


def through_http(model: str, store: str, args: dict[str, Any]) -> list[Any]:
    command = shutil.which("langchain-sift", path=str(Path(sys.executable).parent))
    assert command is not None
    finetune = args["finetune"]
    options = {
        "--model": model,
        "--store": store,
        "--collection": args["collection"],
        "--name": "tiny",
        "--port": 0,
        "--api-key": on.KEY,
        "--mode": args["mode"],
        "--k": args["k"],
        "--learning-rate": finetune["learning_rate"],
        "--lora-rank": finetune["lora_rank"],
        "--max-length": finetune["max_length"],
        "--max-tokens": args["max_tokens"],
        "--max-batch-size": 1,
    }
    words = [str(word) for option in options.items() for word in option]
    with subprocess.Popen([command, "serve", *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            return asyncio.run(by_http(json.loads(server.stdout.readline())["url"]))
        finally:
            server.terminate()


def main(model: str, folder: Path, store: str) -> dict[str, Any]:
    collection = on.fill_store(store, model)
    args = on.settings(model, store, collection, limits={"max_batch_size": 1})
    args["finetune"]["lora_alpha"] = 4.0  # the command's value for this rank
    alone = in_one_process(store, args)
    http = through_http(model, store, args)
    with on.cluster_of(2) as (cluster, _):
        path = "langchain_sift.serving.on_ray:build_app"
        url = on.deploy(folder, cluster, path, args, num_replicas=2)
        on_ray = asyncio.run(by_http(url))
        without_token = httpx.post(
            f"{url}/chat/completions", json=on.question(0), timeout=on.DEADLINE
        )
    return {
        "alone": alone,
        "through HTTP": http,
        "on Ray": on_ray,
        "without a token": without_token.status_code,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
