"""Hash sequences of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


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
