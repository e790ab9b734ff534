"""Imitate a vLLM server: its routes, its errors, and answers by PEFT with loaded adapters.

Routes, fields, status codes and messages are those of vLLM's documentation (features/lora) and
of `OpenAIServingModels`. What is not the protocol's, the double checks: that the folder is there,
its owner's alone, and that PEFT loads it.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEY = "key-of-the-server"


class VLLMDouble:
    """A server on a free port of this machine; use as a context manager."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.modes: list[int] = []
        self.names: set[str] = set()  # of all time
        self.adapters: dict[str, PeftModel] = {}
        self.refusals: dict[str, tuple[int, bytes]] = {}  # by route
        self.delays: dict[str, float] = {}
        self.generating = threading.Event()
        self._ended = threading.Event()  # delays are over then
        self.max_lora_rank = 16
        self.busy = 0  # calls that are being answered
        self._counting = threading.Lock()
        # As there: what is asked of one name is done in its order.
        self._of_one_name = defaultdict[str, threading.Lock](threading.Lock)
        self._lock = threading.Lock()  # PEFT is not made for threads
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> VLLMDouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def routes(self) -> list[str]:
        return [path.removeprefix("/v1/") for _, path, _ in self.calls]

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request while it is being answered."""
        with self._counting:
            self.busy += 1
        try:
            yield
        finally:
            with self._counting:
                self.busy -= 1

    def answer(self, route: str, body: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
        """Yield a status with the first piece of the answer, then the other pieces."""
        if route in self.refusals:
            yield self.refusals[route]
        elif route == "load_lora_adapter":
            with self._of_one_name[body["lora_name"]]:
                self._ended.wait(self.delays.get(route, 0))
                yield self._load(body["lora_name"], Path(body["lora_path"]))
        elif route == "unload_lora_adapter":
            with self._of_one_name[body["lora_name"]]:
                yield self._unload(body["lora_name"])
        elif route == "chat/completions":
            yield from self._complete(body)
        else:
            yield 404, b'{"detail": "Not Found"}'

    def _load(self, name: str, path: Path) -> tuple[int, bytes]:
        if name in self.names:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not path.is_dir():
            return _error(404, f"No adapter found for {path}")
        self.names.add(name)
        self.modes.append(path.stat().st_mode & 0o777)
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {
            file.name for file in path.iterdir()
        }
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.max_lora_rank:
            return _error(
                500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."
            )
        with self._lock:
            loaded = PeftModel.from_pretrained(copy.deepcopy(self.model), str(path))
        self.adapters[name] = loaded
        return 200, f"Success: LoRA adapter '{name}' added successfully.".encode()

    def _unload(self, name: str) -> tuple[int, bytes]:
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully.".encode()

    def _complete(self, body: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
        model = self.adapters.get(body["model"], self.model if body["model"] == "base" else None)
        if model is None:
            yield _error(404, f"The model `{body['model']}` does not exist.")
            return
        prompt = self.tokenizer(body["messages"][-1]["content"], return_tensors="pt")
        with self._lock, torch.inference_mode():
            tokens = model.generate(
                input_ids=prompt["input_ids"],
                attention_mask=prompt["attention_mask"],
                max_new_tokens=body["max_completion_tokens"],
                do_sample=False,
                pad_token_id=0,
            )
        text = self.tokenizer.decode(
            tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
        )
        self.generating.set()
        assert body["stream"] is True
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield 200, _event({"index": 0, "delta": {"role": "assistant", "content": piece}})
            self._ended.wait(self.delays.get("piece", 0))
        yield 200, _event({"index": 0, "delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n"


def _error(status: int, message: str) -> tuple[int, bytes]:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return status, json.dumps({"error": error}).encode()


def _event(choice: dict[str, Any]) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "any",
        "choices": [choice],
    }
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _handler(double: VLLMDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            double.calls.append((self.command, self.path, body))
            double.headers.append({key.lower(): value for key, value in self.headers.items()})
            with double.counted():
                self._answer(double.answer(self.path.removeprefix("/v1/"), body))

        def _answer(self, pieces: Iterator[tuple[int, bytes]]) -> None:
            try:
                status, first = next(pieces)
                self.send_response(status)
                kind = "text/event-stream" if first.startswith(b"data:") else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(first)
                for _, piece in pieces:
                    self.wfile.write(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the caller has left, as it may

        def log_message(self, *_: object) -> None:
            pass

    return Handler
