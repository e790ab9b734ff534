"""Tell how much memory a server needs, before the first request."""

from __future__ import annotations

from langchain_sift.config import adds_context, fine_tunes
from langchain_sift.serving.service import Service
from langchain_sift.ttft.memory.estimate import Load, batch_bytes

_GB = 1e9


def describe_memory(service: Service) -> str:
    """Return the memory in use and the estimated peak of a full batch, in words.

    The documents of this batch have `max_length` tokens, and its prompts are as long as these
    documents, if the mode adds them, and as the answers.
    """
    settings, engine = service.settings, service.engine
    footprint, batch = engine.memory.watch(), settings.limits.max_batch_size
    length, window = settings.finetune.max_length, engine.language_model.context_length
    chooses = (settings.training_selection if fine_tunes(settings.mode) else None) or settings
    shown = min(chooses.k, settings.context_limit() or chooses.k)
    added = shown * length if adds_context(settings.mode) else 0
    load = Load(
        document=min(length, window) if fine_tunes(settings.mode) else 0,
        prompt=min(window, added + settings.max_tokens),
        answer=settings.max_tokens,
    )
    one, full = (batch_bytes(footprint, [load] * count) for count in (1, batch))
    used = engine.status().estimated_memory or 0
    limit = settings.limits.max_memory_gb
    return (
        f"memory: {used / _GB:.2f} GB in use; by estimate {one / _GB:.2f} GB more for one prompt "
        f"of mode {settings.mode}, {full / _GB:.2f} GB more for a batch of {batch}"
        + ("" if limit is None else f"; batches are made smaller to stay below {limit:g} GB")
    )
