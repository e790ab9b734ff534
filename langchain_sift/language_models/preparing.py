"""Prepare requests of coroutines in threads of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

EXECUTOR = ThreadPoolExecutor(4, thread_name_prefix="langchain-sift-prepare")
"""Loads models, renders and tokenizes: outside the event loop, and outside its own executor, which
other code needs."""
