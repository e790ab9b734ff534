"""Write the files of an adapter of `langchain-sift learn`, and read its chat template."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from langchain_core.documents import Document

from langchain_sift.cli.app import write_errors
from langchain_sift.errors import ArgumentError
from langchain_sift.questions.learned_examples import LearnedExamples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from langchain_sift.ttft import LanguageModel, TrainedAdapter

# The help must not wait for PyTorch.
# ruff: noqa: PLC0415

_QUESTION = "a question"


def check_new(out: Path) -> None:
    """Check that a folder does not exist yet, and can be written."""
    if os.path.lexists(out):
        raise ArgumentError(f"{out} already exists: name another folder, or remove it")
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass


def read_template(file: Path) -> str:
    """Return the chat template in a file."""
    try:
        template = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{file} cannot be read: {error}") from error
    if not template.strip():
        raise ArgumentError(f"{file} is empty: it must hold a chat template")
    return template


def with_template(language_model: LanguageModel, template: str) -> LanguageModel:
    """Return the model with a chat template; its tokenizer is a copy.

    Raises:
        ArgumentError: If it fails on a question, or does not write the question.
    """
    from langchain_core.messages import HumanMessage

    from langchain_sift.language_models.chat_templates.template_probes import apply_template
    from langchain_sift.language_models.chat_templates.turns import to_turns

    tokenizer = deepcopy(language_model.tokenizer)
    tokenizer.chat_template = template
    if _QUESTION not in apply_template(tokenizer, to_turns([HumanMessage(_QUESTION)])):
        raise ArgumentError(
            "--chat-template does not write the content of the messages: it must be a Jinja "
            "template over `messages`"
        )
    return replace(language_model, tokenizer=tokenizer)


def save_adapter(
    adapter: TrainedAdapter,
    documents: Sequence[Document],
    base: str,
    tokenizer: PreTrainedTokenizerBase | None,
    out: Path,
) -> int:
    """Save an adapter with the record of what it learned, and return the record's k.

    A tokenizer is saved with them, and is used in place of the base model's.
    """
    taken = documents[: len(adapter.training.losses)]
    learned = LearnedExamples.of(taken, LearnedExamples.read(base))
    with write_errors(out):
        adapter.save(out)
        learned.save(out)
        if tokenizer is not None:
            tokenizer.save_pretrained(out)
    return learned.k
