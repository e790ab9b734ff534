"""Test the errors, and the middleware of LangChain's agents that acts on them."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import sys

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain_core import exceptions as langchain_errors
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

from langchain_sift import ChatTestTimeFineTuned, Limits, errors
from langchain_sift.serving.error_responses import Failure, RequestRejected

EXAMPLES = [
    errors.MissingExtraError("torch", "ttft"),
    errors.QuotaExceeded("too many", "limit_get", 300),
    RequestRejected(Failure(404, "no such model", "model_not_found", "model")),
    *(
        kind("the reason")
        for kind in vars(errors).values()
        if inspect.isclass(kind)
        and issubclass(kind, errors.SIFTError)
        and kind not in (errors.MissingExtraError, errors.QuotaExceeded)
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert "reason" not in str(error) or str(error) == "the reason"


@pytest.mark.parametrize(
    ("kind", "langchain_name", "retryable"),
    [
        (errors.ArgumentError, "ModelInvalidRequestError", False),
        (errors.InvalidFilter, "ModelInvalidRequestError", False),
        (errors.PromptTooLong, "ContextOverflowError", False),
        (errors.ModelLoadError, "ModelNotFoundError", False),
        (errors.EngineOverloaded, "ModelRateLimitError", True),
        (errors.RequestTimeout, "ModelTimeoutError", True),
        (errors.GeneratorUnavailable, "ModelConnectionError", True),
        (errors.RequestCancelled, "ModelError", False),
        (errors.TrainingError, "ModelError", False),
        (errors.AdapterRefused, "ModelError", False),
    ],
)
def test_errors_are_those_of_langchain(kind, langchain_name, retryable):
    assert issubclass(kind, getattr(langchain_errors, langchain_name))
    assert kind.is_retryable is retryable


def test_errors_exist_where_langchain_has_none_of_its_own(monkeypatch):
    names = [name for name in vars(langchain_errors) if name.startswith(("Model", "ContextOver"))]
    for name in names:
        monkeypatch.delattr(langchain_errors, name)
    monkeypatch.delitem(sys.modules, "langchain_sift.errors")
    old = importlib.import_module("langchain_sift.errors")
    assert issubclass(old.PromptTooLong, ValueError)
    assert issubclass(old.RequestTimeout, TimeoutError)
    assert not hasattr(old.EngineOverloaded, "is_retryable")


# LangChain's middleware, with our model and with OpenAI's.


class Requests(BaseCallbackHandler):
    """Count the calls of a model, and act after the first failure."""

    def __init__(self):
        self.failed, self.calls = [], 0
        self.cure = lambda: None

    def on_chat_model_start(self, *args, **kwargs):
        del args, kwargs
        self.calls += 1

    def on_llm_error(self, error, **kwargs):
        del kwargs
        self.failed.append(error)
        self.cure()


class OurModel:
    """A tiny model that is at capacity until a failure, or too small for the prompt."""

    def __init__(self, model, tokenizer):
        self.requests = Requests()
        self.chat = ChatTestTimeFineTuned(
            model=model,
            tokenizer=tokenizer,
            max_tokens=4,
            limits=Limits(max_requests=1),
            callbacks=[self.requests],
        )

    def fill(self):
        reservation = self.chat.engine.admission.admit(1)
        self.requests.cure = reservation.release
        return reservation


class OpenAIModel:
    """ChatOpenAI before a server that is at capacity until a failure, or too small."""

    def __init__(self):
        self.requests = Requests()
        self.full = False
        self.chat = ChatOpenAI(
            model="gpt",
            api_key="none",
            max_retries=0,
            callbacks=[self.requests],
            profile={"max_input_tokens": 256},
            http_client=httpx.Client(transport=httpx.MockTransport(self.answer)),
        )

    def answer(self, request):
        body = json.loads(request.content)
        if self.full:
            return httpx.Response(429, json={"error": {"message": "at capacity"}})
        if sum(len(str(message["content"])) for message in body["messages"]) > 600:
            error = {"message": "the prompt is too long", "code": "context_length_exceeded"}
            return httpx.Response(400, json={"error": error})
        message = {"role": "assistant", "content": "yes"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "1", "model": "gpt", "choices": [choice]})

    def fill(self):
        self.full = True
        self.requests.cure = lambda: setattr(self, "full", False)


@pytest.fixture(params=["ours", "OpenAI's"])
def case(request, tiny_model, tiny_tokenizer):
    return OurModel(tiny_model, tiny_tokenizer) if request.param == "ours" else OpenAIModel()


QUESTION = {"messages": [("user", "Who repairs the clock?")]}
LONG = " ".join(["The old king measures a broken clock near the border."] * 40)


def test_the_retry_middleware_waits_for_capacity(case):
    held = case.fill()
    agent = create_agent(
        case.chat, middleware=[ModelRetryMiddleware(initial_delay=0, on_failure="error")]
    )
    answer = agent.invoke(QUESTION)["messages"][-1]
    assert isinstance(answer, AIMessage)
    assert case.requests.calls == 2
    (failed,) = case.requests.failed
    assert isinstance(failed, langchain_errors.ModelRateLimitError)
    del held


def test_the_retry_middleware_does_not_repeat_a_prompt_that_is_too_long(case):
    agent = create_agent(
        case.chat, middleware=[ModelRetryMiddleware(initial_delay=0, on_failure="continue")]
    )
    with pytest.raises(langchain_errors.ContextOverflowError):
        agent.invoke({"messages": [("user", LONG)]})
    assert case.requests.calls == 1


def test_the_fallback_middleware_asks_another_model(case):
    held = case.fill()
    other = FakeListChatModel(responses=["from the other"])
    agent = create_agent(case.chat, middleware=[ModelFallbackMiddleware(other)])
    assert agent.invoke(QUESTION)["messages"][-1].content == "from the other"
    assert case.requests.calls == 1
    del held


def test_the_summarization_middleware_cuts_a_history_that_is_too_long(case):
    summarize = SummarizationMiddleware(
        case.chat,
        trigger=("messages", 3),
        keep=("messages", 1),
        summary_prompt="{messages}",
        trim_tokens_to_summarize=None,
    )
    agent = create_agent(FakeListChatModel(responses=["done"]), middleware=[summarize])
    history = [HumanMessage(LONG), AIMessage("I see."), HumanMessage("And now?")]
    messages = agent.invoke({"messages": history})["messages"]
    assert len(messages) == 3  # the summary, the question, the answer
    assert case.requests.calls == 2
    (failed,) = case.requests.failed
    assert isinstance(failed, langchain_errors.ContextOverflowError)
