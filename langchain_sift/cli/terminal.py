"""Print texts to a terminal as they are: neither markup nor control characters act on it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Unicode's category Cc but newline and tab, and what embeds, overrides or isolates a direction of
# writing beyond a character (Unicode's annex 9). Marks of direction, U+200E and U+200F, stay: they
# act on their neighbours alone, and texts in Arabic and Hebrew have them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Terminal(Console):
    """A console that prints texts of users, documents and models without interpreting them.

    Styles come from `Text` and from the arguments of tables, never from markup. Each control
    character is replaced by "�".
    """

    def __init__(self, *, stderr: bool = False) -> None:
        """Print to standard output, or to standard error."""
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as a text without control characters."""
        return super().render_str(without_controls(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render what is printed, and all within it, without control characters."""
        if isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = without_controls(renderable.plain)
        return super().render(renderable, options)


def without_controls(text: str) -> str:
    """Return a text whose control characters are replaced; ends of lines become newlines."""
    return _CONTROLS.sub(_REPLACEMENT, text.replace("\r\n", "\n"))


def to_json(result: Mapping[str, object]) -> str:
    """Return one line of JSON, in which control characters are escaped."""
    line = json.dumps(result, ensure_ascii=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
