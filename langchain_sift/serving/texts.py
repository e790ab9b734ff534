"""Convert the prompts of completions to the arguments of a text model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_sift.llms import TestTimeFineTunedLLM
from langchain_sift.serving.requests import CompletionRequest


@dataclass(frozen=True, slots=True)
class TextInput:
    """One prompt."""

    text: str
    """The prompt as text, which also is the query for the retriever."""

    arguments: Mapping[str, Any]
    """Further arguments for the model."""


def text_inputs(body: CompletionRequest, llm: TestTimeFineTunedLLM) -> list[TextInput]:
    """Return the prompts of a request.

    Args:
        body: The request.
        llm: The model, which decodes prompts of token ids.
    """
    shared: dict[str, object] = {"echo": True} if body.echo else {}
    if body.logprobs is not None:
        shared |= {"logprobs": True, "top_logprobs": body.logprobs}
    inputs = []
    for prompt in body.prompts:
        if isinstance(prompt, str):
            inputs.append(TextInput(prompt, shared))
        else:
            text = llm.text_of(prompt)
            inputs.append(TextInput(text, {**shared, "token_ids": prompt}))
    return inputs
