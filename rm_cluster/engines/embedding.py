"""Embeddings of texts on torch.

Shapes: B texts of a batch, d hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel

from rm_cluster.config import EmbeddingConfig, PretrainedConfig
from rm_cluster.engines.decoder import (
    distinct,
    enough,
    masked,
    padded_batches,
    require_known,
    token_budget,
)
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.engines.packing import TokenIds, mixed_length
from rm_cluster.engines.probing import hears_padding, num_known, told_of


class EmbeddingEngine:
    """An encoder in memory: a model, or that part of an encoder-decoder.

    Args:
        config: Which, and how.
        dtype: Of the weights; the mean over tokens is float32.
        num_threads: Of torch on a CPU; torch's own choice if None.
    """

    def __init__(self, config: EmbeddingConfig, dtype: str, num_threads: int | None = None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._tokens_per_batch = enough(token_budget(config))
        model = load_pretrained(AutoModel, config, dtype, "an encoder", _is_no_part)
        self._model = model.get_encoder() if _has_decoder(model) else model
        self._mixed = mixed_length(self._model.config)
        with told_of(model, config.name):
            if hears_padding(self._model, self._means):
                self._mixed = 0

    @torch.inference_mode()
    def embeddings(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return [n, d] means of the last hidden states over each text's tokens, to length 1."""
        texts, index = distinct(token_ids)
        require_known(texts, num_known(self._model))
        sizes = [len(ids) for ids in texts]
        found: dict[int, npt.NDArray[np.float64]] = {}
        for indices in padded_batches(sizes, self._tokens_per_batch, self._mixed):
            means = self._means([texts[i] for i in indices]).cpu().double().numpy()
            found.update(zip(indices, means, strict=True))
        return np.stack([found[i] for i in index])

    def _means(self, texts: Sequence[TokenIds]) -> torch.Tensor:
        """[B, d] of a batch."""
        inputs = masked(self._model, texts)
        total = (self._model(**inputs)[0].float() * inputs["attention_mask"][..., None]).sum(1)
        # the number of tokens cancels when the length becomes 1
        return torch.nn.functional.normalize(total, dim=-1)


def _is_no_part(model: Any, config: PretrainedConfig, missing: Sequence[str]) -> bool:
    """Whether an encoder's hidden states need nothing of what is missing.

    A pooler comes after them, as the decoder does that checkpoints of T5's encoder lack.
    """
    after = ("pooler.", "decoder.") if _has_decoder(model) else ("pooler.",)
    return all(name.startswith(after) for name in missing)


def _has_decoder(model: Any) -> bool:
    """Whether a decoder stands behind the encoder; the config of T5's encoder alone denies it.

    Funnel's, whose encoder is no model of its own, writes the hidden states of the texts.
    """
    encoder = getattr(model, "encoder", None)
    return hasattr(model, "decoder") and hasattr(encoder, "get_input_embeddings")
