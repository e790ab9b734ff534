"""Plan what the base model teaches about documents: the objective "distill"."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_core.messages import HumanMessage

from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.language_models.context import SEPARATOR, Render, fit_documents
from langchain_sift.language_models.modes import prompt_with_context
from langchain_sift.ttft import LanguageModel
from langchain_sift.ttft.model.tokens import (
    TokenizedDocument,
    cut_text,
    plain_tokens,
    text_tokens,
)
from langchain_sift.ttft.training.lessons import ANSWER_TOKENS, QUESTION_TOKENS, Frame, Lesson

_ASK = "Write one short question that this text answers, and nothing else.\n\n{text}"
_PROMPT_REPEATS = 8  # of the lesson about the prompt, which alone is asked for
_SEAMS = 8  # tokens that a document may take more within a prompt
_PROBES = ("Who", "River")  # two questions with nothing in common


@dataclass(frozen=True, slots=True)
class DocumentTeaching:
    """Lessons about each document, and about a prompt with as many of them as fit in its context.

    The student predicts, without any document in its context and as the teacher does with them:

    - each document, which the teacher has just read;
    - the teacher's answer to a question that it asks itself about each document;
    - the teacher's answer to the prompt, eight times as often as the others. Documents that do not
      fit into its context together are there in turns, each time as many as fit.
    """

    texts: Sequence[str]
    """All documents, most informative first."""

    config: FineTuneConfig
    language_model: LanguageModel

    arguments: TemplateArguments | None = None
    """Further arguments for the chat template."""

    prompt: Render | None = None
    """Renders the prompt with documents. None means that there is no prompt."""

    @property
    def max_length(self) -> int:
        """Number of tokens at which a document is cut: the teacher reads it twice, or a question.

        Raises:
            ArgumentError: If the model's context is too short for any lesson.
        """
        context_length = self.language_model.context_length
        prompts = max(len(self._asking("")), len(self._asked(SEPARATOR, _PROBES[1])))
        asking = context_length - prompts - QUESTION_TOKENS - ANSWER_TOKENS - _SEAMS
        reading = (context_length - len(self._tokens(SEPARATOR)) - 1) // 2
        longest = min(self.config.max_length, asking, reading)
        if longest < 2:
            raise ArgumentError(
                f"the model's context of {context_length} tokens has no room for a teacher's "
                "questions and answers: train with objective='text'"
            )
        return longest

    def lessons(self, documents: Sequence[TokenizedDocument]) -> tuple[Lesson, ...]:
        """Return the lessons, document by document; those about the prompt follow its last."""
        tokenizer, longest = self.language_model.tokenizer, self.max_length
        texts = {d.index: cut_text(tokenizer, self.texts[d.index], longest) for d in documents}
        first = {text: index for index, text in reversed(texts.items())}
        about_prompt = self._about_prompt({index: text for text, index in first.items()})
        student = self._frame("")
        lessons = []
        for document in documents:
            index, text = document.index, texts[document.index]
            lessons.append(self._about_text(document))
            if first[text] == index:
                asking = tuple(self._asking(text))
                lessons.append(Lesson(index, self._frame(text), student, ask=asking))
            if index in about_prompt:
                lessons.append(about_prompt[index])
        return tuple(lessons)

    def _about_text(self, document: TokenizedDocument) -> Lesson:
        start = text_tokens(self.language_model.tokenizer, "")
        before = Frame((*document.token_ids, *self._tokens(SEPARATOR)))
        body = document.token_ids[len(start) :]
        return Lesson(
            document.index, before, Frame(tuple(start)), text=body, truncated=document.truncated
        )

    def _about_prompt(self, texts: dict[int, str]) -> dict[int, Lesson]:
        """Return the lessons about the prompt, each by the last document in its context."""
        if self.prompt is None:
            return {}
        left, lessons = sorted(texts), {}
        student = Frame(tuple(self.prompt("")))
        while left:
            fitted = fit_documents(
                [texts[index] for index in left],
                self.prompt,
                self.language_model.tokenizer,
                room=self.language_model.context_length - ANSWER_TOKENS,
                max_length=self.max_length,
            )
            if not fitted.used:  # the prompt leaves no room
                break
            last = max(left[number] for number in fitted.used)
            before = Frame(tuple(fitted.token_ids))
            lessons[last] = Lesson(last, before, student, repeats=_PROMPT_REPEATS)
            left = [left[number] for number in fitted.left_out]
        return lessons

    def _frame(self, context: str) -> Frame:
        """Return what is before and after a question, with documents in the context."""
        one, other = (self._asked(context, probe) for probe in _PROBES)
        before = _equal(zip(one, other, strict=False))
        rest = min(len(one), len(other)) - before
        after = _equal(itertools.islice(zip(reversed(one), reversed(other), strict=False), rest))
        return Frame(tuple(one[:before]), tuple(one[len(one) - after :]))

    def _asked(self, context: str, question: str) -> list[int]:
        if self.language_model.tokenizer.chat_template:
            return self._rendered(prompt_with_context(question, context))
        # As `compare` asks a model without a template.
        return self._rendered(prompt_with_context(f"Question: {question}\nAnswer:", context))

    def _asking(self, text: str) -> list[int]:
        """Return the prompt to which the teacher answers with a question."""
        if self.language_model.tokenizer.chat_template:
            return self._rendered(_ASK.format(text=text))
        return self._rendered(f"{text}{SEPARATOR}Question:")

    def _rendered(self, text: str) -> list[int]:
        tokenizer = self.language_model.tokenizer
        return render(tokenizer, [HumanMessage(text)], arguments=self.arguments)

    def _tokens(self, text: str) -> list[int]:
        return plain_tokens(self.language_model.tokenizer, text)


def _equal(pairs: Iterable[tuple[int, int]]) -> int:
    """Return the number of equal pairs before the first that differ."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
