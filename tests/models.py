"""Small reward models with random weights, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rm_cluster.sandbox.tokenizer import byte_tokenizer


def tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """The sandbox's byte tokenizer, with attributes changed."""
    found = byte_tokenizer()
    found.model_max_length = 100_000
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def save_llama(
    folder: Path, seed: int, *, changes: dict[str, Any] | None = None, **options: Any
) -> Path:
    """Save a Llama classifier; `changes` are to the tokenizer, `options` to the config."""
    tok = tokenizer(**(changes or {}))
    config = LlamaConfig(
        **{
            "vocab_size": len(tok),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "num_labels": 1,
            "pad_token_id": tok.pad_token_id,
            "initializer_range": 0.2,
            **options,
        }
    )
    return save(LlamaForSequenceClassification, config, folder, seed, tok)


def save(kind: Any, config: Any, folder: Path, seed: int, tok: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder
