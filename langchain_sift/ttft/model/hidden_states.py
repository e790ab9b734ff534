"""Represent a text by the mean of the model's last hidden states.

The output layer of the model is linear in these states, and SIFT's surrogate is linear in the
same representation φ (arXiv 2410.08020, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.positions import encoding_switch
from langchain_sift.ttft.model.tokens import beginning, first_tokens
from langchain_sift.ttft.openmp import release_helper_threads

# Bounds the memory of one forward pass. On a CPU, larger batches leave its cache.
_TOKENS_IN_A_BATCH = {"cpu": 1024}
_TOKENS_ON_ACCELERATOR = 8192


def mean_hidden_states(
    language_model: LanguageModel, texts: Sequence[str], *, max_length: int
) -> npt.NDArray[np.float32]:
    """Return one vector per text, shape (n, d): the mean over its first `max_length` tokens.

    The vector of a text does not depend on the other texts: padding is on the right, where a
    causal model does not attend, and the mean excludes it.

    Args:
        language_model: The model.
        texts: At least one text.
        max_length: Number of tokens at which a text is cut.

    Returns:
        Vectors of the width d of the model's last states, which in some models is less than that
        of its layers.
    """
    tokenizer = language_model.tokenizer
    # The tokenizer must not truncate: that setting is shared by all threads that use it.
    token_ids = [
        first_tokens(tokenizer, text, max_length) or beginning(tokenizer) or [0] for text in texts
    ]
    means: dict[int, npt.NDArray[np.float32]] = {}
    limit = _TOKENS_IN_A_BATCH.get(language_model.device.type, _TOKENS_ON_ACCELERATOR)
    for batch in _batches(token_ids, limit, encoding_switch(language_model.model)):
        lengths = torch.tensor([len(token_ids[i]) for i in batch], device=language_model.device)
        longest = max(len(token_ids[i]) for i in batch)
        padded = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, i in enumerate(batch):
            padded[row, : len(token_ids[i])] = torch.tensor(token_ids[i])
        with torch.inference_mode():
            states = language_model.model.base_model(
                input_ids=padded.to(language_model.device), use_cache=False
            ).last_hidden_state.float()
            is_token = torch.arange(longest, device=lengths.device) < lengths[:, None]
            mean = (states * is_token[..., None]).sum(dim=1) / lengths[:, None]
        means.update(zip(batch, mean.cpu().numpy(), strict=True))
    release_helper_threads()
    return np.stack([means[i] for i in range(len(texts))])


def _batches(token_ids: Sequence[Sequence[int]], limit: int, switch: float) -> Iterator[list[int]]:
    """Yield batches of indices of texts of similar length, which need little padding.

    A batch has at most `limit` tokens, padding included, or one text. A text of at most `switch`
    tokens is in no batch with a longer one.
    """
    batch: list[int] = []
    for i in sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i])):
        longest = len(token_ids[batch[0]]) if batch else 0
        is_apart = longest > switch >= len(token_ids[i])
        if batch and (is_apart or (len(batch) + 1) * longest > limit):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
