"""Describe a model to LangChain without loading it."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile
from transformers import AutoConfig, PreTrainedModel


def model_profile(model: str | PreTrainedModel, revision: str | None) -> ModelProfile:
    """Return the length of a model's context; nothing is downloaded.

    Args:
        model: A name or folder, or a loaded model.
        revision: Branch, tag or commit of a named model.
    """
    if isinstance(model, str):
        config = AutoConfig.from_pretrained(
            model, revision=revision, local_files_only=True, trust_remote_code=False
        )
    else:
        config = model.config
    context = int(config.get_text_config().max_position_embeddings)
    return ModelProfile(
        max_input_tokens=context, text_inputs=True, text_outputs=True, image_inputs=False
    )
