"""Tiny random models of many families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from tests.models import save

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 4096}
GROUPED = {**DECODER, "num_key_value_heads": 2}
WINDOWED = {**GROUPED, "head_dim": 8, "sliding_window": 16}

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 8},
    "Mistral": {**GROUPED, "sliding_window": 16},
    # caps so low that they matter
    "Gemma2": {**WINDOWED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "Gemma3Text": {**WINDOWED, "final_logit_softcapping": 3.0},
    "GPTNeoX": DECODER,
    "Gemma": {**GROUPED, "head_dim": 8},
    "Olmo2": GROUPED,
    "Phi3": {**GROUPED, "sliding_window": 16},
    # the second layer tells no positions
    "SmolLM3": {**GROUPED, "no_rope_layers": [1, 0]},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 4096},
    "OPT": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 4096},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": {**SMALL, "alibi": True, "parallel_attn": False, "multi_query": False},
    "Bert": DECODER,
    "Roberta": DECODER,
    "DebertaV2": DECODER,
    "ModernBert": {**DECODER, "local_attention": 16},
}
# they have no reward heads, and change the scale of their logits
CAUSAL_ONLY: dict[str, dict[str, Any]] = {
    "Cohere": {**GROUPED, "logit_scale": 0.5},
    "Granite": {**GROUPED, "logits_scaling": 3.0},
}
# heads of 32, the smallest that vLLM has kernels for on a CPU; Qwen 2 has no head_dim of its own
FOR_VLLM: dict[str, dict[str, Any]] = {
    "Llama": {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
    "Qwen2": {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
    "Qwen3": {"head_dim": 32},
    "Gemma2": {"head_dim": 32},
}


def changing_with_length(rope_type: str, limit: int) -> dict[str, Any]:
    """Options of a config whose rotary embeddings are others beyond `limit` tokens."""
    more: dict[str, dict[str, Any]] = {
        "dynamic": {"factor": 2.0},
        "longrope": {
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": limit,
        },
    }
    rope = {"rope_type": rope_type, "rope_theta": 1e4, **more[rope_type]}
    return {"max_position_embeddings": limit, "rope_parameters": rope}


CLASSIFIER = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
CAUSAL = transformers.MODEL_FOR_CAUSAL_LM_MAPPING


def save_family(
    family: str, folder: Path, tok: Any, kind: Any = CLASSIFIER, **options: Any
) -> Path:
    """Save a model of a family with the head of `kind`, a mapping of transformers."""
    config = getattr(transformers, f"{family}Config")(
        **{
            "vocab_size": 300,
            "pad_token_id": tok.pad_token_id,
            "bos_token_id": tok.bos_token_id,
            "eos_token_id": tok.eos_token_id,
            "initializer_range": 0.2,
            **({"num_labels": 1} if kind is CLASSIFIER else {}),
            **{**FAMILIES, **CAUSAL_ONLY}[family],
            **options,
        }
    )
    return save(kind[type(config)], config, folder, 0, tok)


def attention_of_reference(config: Any) -> str | None:
    """The default, SDPA, leaves the soft cap of Gemma 2 out."""
    return "eager" if config.model_type == "gemma2" else None
