"""A text's representation in the model itself: the mean of its last hidden states.

The surrogate of SIFT is linear in the representation φ that the model's own output layer is
linear in (arXiv 2410.08020, section 4), and that is what this returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.model.tokens import beginning, well_formed
from langchain_sift.ttft.openmp import release_helper_threads

# Bounds the memory of one forward pass, whatever the lengths.
TOKENS_IN_A_BATCH = 8192


def mean_hidden_states(
    language_model: LanguageModel, texts: Sequence[str], *, max_length: int
) -> npt.NDArray[np.float32]:
    """Return one vector per text, shape (n, d): the mean over its first `max_length` tokens.

    There is at least one text. d is what the model returns: the last states of some are narrower
    than its layers.

    A text does not depend on the texts beside it: shorter ones are padded on the right, where
    a causal model does not look, and only the text's own tokens are averaged.
    """
    tokenizer = language_model.tokenizer
    # Cut here: a tokenizer told to truncate is in that state for all threads that share it.
    token_ids = [
        tokenizer(well_formed(text), verbose=False)["input_ids"][:max_length]
        or beginning(tokenizer)
        or [0]
        for text in texts
    ]
    means: dict[int, npt.NDArray[np.float32]] = {}
    for batch in _batches(token_ids):
        lengths = torch.tensor([len(token_ids[i]) for i in batch], device=language_model.device)
        longest = max(len(token_ids[i]) for i in batch)
        padded = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, i in enumerate(batch):
            padded[row, : len(token_ids[i])] = torch.tensor(token_ids[i])
        with torch.inference_mode():
            states = language_model.model.base_model(
                input_ids=padded.to(language_model.device), use_cache=False
            ).last_hidden_state.float()
            own = torch.arange(longest, device=lengths.device) < lengths[:, None]
            mean = (states * own[..., None]).sum(dim=1) / lengths[:, None]
        means.update(zip(batch, mean.cpu().numpy(), strict=True))
    release_helper_threads()
    return np.stack([means[i] for i in range(len(texts))])


def _batches(token_ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield indices of texts of similar length, so that little is padded."""
    batch: list[int] = []
    for i in sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i])):
        if batch and (len(batch) + 1) * len(token_ids[batch[0]]) > TOKENS_IN_A_BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
