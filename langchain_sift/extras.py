"""Optional dependencies: present, or an error that says how to get them."""

from __future__ import annotations

import importlib.util

from langchain_sift.errors import MissingExtraError


def require(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Raises:
        MissingExtraError: If one is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
