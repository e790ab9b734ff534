"""Set the learning rate by the width of the model."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig


def with_learning_rate(config: FineTuneConfig, model: PreTrainedModel) -> FineTuneConfig:
    """Return the config with a learning rate: its own, or one divided by the model's width.

    AdamW's steps have the same size in every entry of a matrix, so that their effect grows with
    the number of inputs (arXiv 2203.03466, table 3). The width is the size of the hidden states.
    """
    if config.learning_rate is not None:
        return config
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    if width is None:
        (embeddings,) = model.get_input_embeddings().parameters()
        width = embeddings.shape[-1]
    return replace(config, learning_rate=1 / int(width))
