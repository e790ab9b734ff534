"""Tell how much memory a server needs, and how much of it sessions may take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.serving.settings import ServingSettings, SessionLimits
from langchain_sift.ttft.engine import Engine
from langchain_sift.ttft.memory.estimate import Load, batch_bytes

if TYPE_CHECKING:
    from langchain_sift.serving.service import Service

_GB = 1e9


def session_limits(settings: ServingSettings, engine: Engine) -> SessionLimits:
    """Return the limits of the sessions, lowered so that requests still fit.

    The adapters of sessions are on the CPU. An engine on the CPU counts them as memory in use, and
    sessions up to its limit would let no request fit. So they get at most half of the memory that
    the model and a request of mode "both" leave below the limit.

    Args:
        settings: Settings of the server.
        engine: Its engine, before the first request.
    """
    room = engine.memory.room_beside(_load(settings, engine, "both"))
    if room is None or engine.language_model.device.type != "cpu":
        return settings.sessions
    most = min(settings.sessions.max_memory_gb, room / 2 / _GB)
    return replace(settings.sessions, max_memory_gb=most)


def describe_memory(service: Service) -> str:
    """Return the memory in use and the estimated peak of a full batch, in words."""
    settings, engine = service.settings, service.engine
    footprint, batch = engine.memory.watch(), settings.limits.max_batch_size
    load = _load(settings, engine, settings.mode)
    one, full = (batch_bytes(footprint, [load] * count) for count in (1, batch))
    used = engine.status().estimated_memory or 0
    limit, sessions = settings.limits.max_memory_gb, service.sessions.limits
    return (
        f"memory: {used / _GB:.2f} GB in use; by estimate {one / _GB:.2f} GB more for one prompt "
        f"of mode {settings.mode}, {full / _GB:.2f} GB more for a batch of {batch}; at most "
        f"{sessions.max_memory_gb:.2f} GB more for sessions"
        + ("" if limit is None else f"; batches are made smaller to stay below {limit:g} GB")
    )


def _load(settings: ServingSettings, engine: Engine, mode: str) -> Load:
    """Return the lengths of a request: its documents have `max_length` tokens.

    Its prompt is as long as these documents, if the mode adds them, and as the answer.
    """
    length, window = settings.finetune.max_length, engine.language_model.context_length
    chooses = (settings.training_selection if fine_tunes(mode) else None) or settings
    shown = min(chooses.k, settings.context_limit() or chooses.k)
    added = shown * length if adds_context(mode) else 0
    return Load(
        document=min(length, window) if fine_tunes(mode) else 0,
        prompt=min(window, added + settings.max_tokens),
        answer=settings.max_tokens,
    )
