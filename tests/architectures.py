"""Make small random models of the architectures that people run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WITHOUT_HEAD_SIZE = {
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **TOKENS,
}
SIZES = WITHOUT_HEAD_SIZE | {"head_dim": 8}
# A window shorter than prompts and documents, if the architecture has one.
WINDOW = {"sliding_window": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DEEPSEEK = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
# Of Phi-3: the frequencies of a pass depend on whether it is longer than 24 tokens.
LONG_ROPE = {
    "sliding_window": None,
    "original_max_position_embeddings": 24,
    "max_position_embeddings": 96,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.5, 3.0, 6.0, 12.0],
        "original_max_position_embeddings": 24,
        "factor": 4.0,
    },
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": SIZES | EXPERTS | {"num_local_experts": 4},
    "qwen2_moe": SIZES | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": SIZES | EXPERTS | {"num_experts": 4},
    "gpt_oss": SIZES | EXPERTS | WINDOW | {"num_local_experts": 4},
    "deepseek_v3": SIZES | EXPERTS | DEEPSEEK,
}
MULTIMODAL: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": SIZES | WINDOW,
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 61,
        "boi_token_index": 62,
        "eoi_token_index": 63,
    },
    "qwen2_vl": {
        "text_config": SIZES | {"rope_parameters": ROPE},
        "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
        "image_token_id": 60,
        "video_token_id": 61,
        "vision_start_token_id": 62,
        "vision_end_token_id": 63,
    },
    "llava": {
        "text_config": SIZES | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model", "projection_dim": 16},
        "image_token_index": 60,
    },
}
DENSE: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "gemma2": SIZES | WINDOW,
    "gemma3_text": SIZES | WINDOW,
    "mistral": SIZES | WINDOW,
    "phi": SIZES,
    "phi3": SIZES | WINDOW,
    "gpt2": TOKENS | {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "falcon": WITHOUT_HEAD_SIZE | {"new_decoder_architecture": True},
    "opt": WITHOUT_HEAD_SIZE | {"ffn_dim": 48, "word_embed_proj_dim": 16},
}
ARCHITECTURES = DENSE | MIXTURES | MULTIMODAL


def make_model(architecture: str) -> PreTrainedModel:
    """Make a model with random float32 weights, the same each time."""
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    auto: Any = AutoModelForImageTextToText if architecture in MULTIMODAL else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32).eval()
        for name, weights in model.named_parameters():
            if weights.ndim > 1:  # initial weights are so small that the layers hardly matter
                torch.nn.init.normal_(weights, std=0.5 if "embed" in name else 0.2)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each of 64 words."""
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), *(f"w{number}" for number in range(len(special), 64))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def random_words(rng: random.Random, count: int) -> str:
    """Return words that the tokenizer has one token each for."""
    return " ".join(f"w{rng.randrange(4, 60)}" for _ in range(count))
