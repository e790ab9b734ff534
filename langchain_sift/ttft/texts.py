"""Check, repair and hash texts; needs no PyTorch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from langchain_sift.errors import ArgumentError

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_texts(name: str, texts: Any, *, encoded: type = str) -> None:
    """Reject everything but a sequence of texts; a single text would be a sequence of letters.

    Args:
        name: The name of the argument, for the message.
        texts: The argument.
        encoded: Another type that stands for a text.

    Raises:
        ArgumentError: If it is not a sequence of texts.
    """
    is_sequence = isinstance(texts, Iterable) and not isinstance(texts, str)
    others = (
        [text for text in texts if not isinstance(text, str | encoded)] if is_sequence else [texts]
    )
    if others:
        got = "one text" if isinstance(texts, str) else f"a {type(others[0]).__name__}"
        raise ArgumentError(f"{name} must be a sequence of texts, got {got}")


def well_formed(text: str) -> str:
    """Join pairs of surrogates in a text, and replace lone surrogates by U+FFFD.

    Surrogates come from broken JSON and from files read with `surrogateescape`. They are not
    characters, and tokenizers reject them.
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def digest_of(parts: Iterable[str], *, prefix: str = "") -> str:
    """Return the SHA-256 of texts, 64 hexadecimal digits.

    Each text goes in with its length before it, so two different sequences never hash the same
    bytes.

    Args:
        parts: The texts.
        prefix: A text to begin with, without its length.
    """
    digest = hashlib.sha256(prefix.encode())
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
