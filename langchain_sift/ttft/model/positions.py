"""Find up to which length a model encodes the positions of all texts in one way."""

from __future__ import annotations

import math
from collections.abc import Mapping

from transformers import PreTrainedModel


def encoding_switch(model: PreTrainedModel) -> float:
    """Return the number of tokens beyond which a model encodes all positions in another way.

    With LongRoPE (arXiv 2402.13753), as in Phi-3 and Phi-4-mini, transformers rotates the tokens of
    a pass by long factors if its last position is beyond the original context, and by short ones
    otherwise. So texts on both sides of the switch cannot share a pass, and what was read on one
    side is of no use on the other. Infinite for other models: with "dynamic", only positions beyond
    the context change the encoding, and no text has any.

    Args:
        model: Any causal language model.
    """
    settings = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # Models with several kinds of layers may have parameters for each.
    kinds = [settings, *(value for value in settings.values() if isinstance(value, Mapping))]
    lengths = (
        kind["original_max_position_embeddings"]
        for kind in kinds
        if kind.get("rope_type") == "longrope"
    )
    return min(lengths, default=math.inf)
