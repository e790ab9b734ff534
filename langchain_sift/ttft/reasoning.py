"""Tell the reasoning at the beginning of an answer from its content."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from langchain_sift.config import ReasoningMarkers
from langchain_sift.ttft.stop_strings import overlap


def content_of(answer: str, markers: ReasoningMarkers) -> str:
    """Return a whole answer without its reasoning.

    An answer whose prompt began the reasoning has only the closing marker.
    """
    before, closed, _ = answer.partition(markers.closing)
    begun = bool(closed) and markers.opening not in before
    splitter = ReasoningSplitter(replace(markers, begun=begun))
    return splitter.add(answer)[1] + splitter.flush()[1]


class ReasoningText(str):
    """A piece of the reasoning of an answer; other pieces are content."""

    __slots__ = ()


class ReasoningSplitter:
    """Splits a text that comes in pieces into reasoning and content.

    Markers, and white space around the reasoning, belong to neither.
    """

    def __init__(self, markers: ReasoningMarkers) -> None:
        """Start with an empty text."""
        self._markers = markers
        self._stage: Literal["start", "reasoning", "between", "content"] = "start"
        self._held = ""
        self._any_reasoning = False

    @property
    def in_reasoning(self) -> bool:
        """True if the reasoning has begun and the content has not."""
        return self._stage in {"reasoning", "between"}

    def add(self, piece: str) -> tuple[ReasoningText, str]:
        """Append a piece, and return the new reasoning and the new content.

        What may be a part of a marker is held back.
        """
        self._held += piece
        reasoning = ""
        if self._stage == "start":
            self._start()
        if self._stage == "reasoning":
            reasoning = self._continue_reasoning()
        if self._stage == "between":
            self._held = self._held.lstrip()
            self._stage = "content" if self._held else "between"
        content = ""
        if self._stage == "content":
            content, self._held = self._held, ""
        return ReasoningText(reasoning), content

    def flush(self) -> tuple[ReasoningText, str]:
        """Return what was held back at the end of the text."""
        text, self._held = self._held, ""
        if self._stage == "reasoning" or (self._stage == "start" and self._markers.begun):
            return ReasoningText(text.rstrip() if self._any_reasoning else text.strip()), ""
        return ReasoningText(), text

    def _start(self) -> None:
        """Decide whether reasoning begins."""
        text, opening = self._held.lstrip(), self._markers.opening
        if text.startswith(opening):
            self._stage, self._held = "reasoning", text.removeprefix(opening)
        elif not opening.startswith(text):
            self._stage = "reasoning" if self._markers.begun else "content"

    def _continue_reasoning(self) -> str:
        """Return new reasoning, and hold back what may be white space before its end."""
        text = self._held if self._any_reasoning else self._held.lstrip()
        before, closing, after = text.partition(self._markers.closing)
        if closing:
            self._stage, self._held = "between", after
            return before.rstrip()
        new = text[: len(text) - overlap(text, self._markers.closing)].rstrip()
        self._held = text[len(new) :]
        self._any_reasoning = self._any_reasoning or bool(new)
        return new
