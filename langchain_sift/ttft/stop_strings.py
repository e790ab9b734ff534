"""Find the first stop string of a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a text that comes in pieces before its first stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Start with an empty text."""
        self.reached = False
        """True once a stop string was found. The text is then complete."""
        self._stop = stop
        self._buffer = ""

    def add(self, piece: str) -> str:
        """Append a piece and return the text that cannot be part of a stop string."""
        text = self._buffer + piece
        starts = [start for start in (text.find(string) for string in self._stop) if start >= 0]
        if starts:
            self.reached = True
            self._buffer = ""
            return text[: min(starts)]
        held = max((overlap(text, string) for string in self._stop), default=0)
        self._buffer = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return the text that could have been the beginning of a stop string."""
        text, self._buffer = self._buffer, ""
        return text


def overlap(text: str, string: str) -> int:
    """Return how many characters at the end of a text may begin a string."""
    longest = min(len(string) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
