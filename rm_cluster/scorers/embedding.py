"""Sentence embeddings of completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import EmbeddingConfig
from rm_cluster.conversation import texts as readable_texts
from rm_cluster.engines import engine_module
from rm_cluster.errors import DataFormatError
from rm_cluster.scorers.pretrained import open_pretrained

if TYPE_CHECKING:
    from rm_cluster.engines.torch_engine import EmbeddingEngine


class Embedding:
    """Mean-pools an encoder's last hidden states over a text's tokens, to unit length.

    Takes the fields of `EmbeddingConfig` as keywords:

        Embedding(model="path/or/hub-id").embed(["a text", "another"])

    The inner product of two embeddings is their cosine similarity, as Regularized Best-of-N takes
    it for its utility (arXiv 2404.01054). A text is embedded by itself, without its prompt.

    Raises:
        ConfigError: No such model, or no safetensors weights.
    """

    def __init__(self, **options: Any) -> None:
        self.config = EmbeddingConfig(**options)
        self._pretrained = open_pretrained(self.config)
        self._engine: EmbeddingEngine | None = None

    def load(self, num_threads: int | None = None) -> None:
        if self._engine is None:
            self._engine = engine_module(self.config).EmbeddingEngine(
                self.config, self._pretrained.dtype, num_threads
            )

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return [n, d] embeddings; equal texts have equal ones.

        Raises:
            DataFormatError: What is given is no list of texts, or a text has no tokens, or more
                than `max_length` and `truncate` is off.
        """
        texts = readable_texts(texts, "texts")
        if not texts:
            return np.empty((0, self._pretrained.hf.get_text_config().hidden_size))
        ids = self._pretrained.tokenizer(
            texts,
            truncation=self.config.truncate and self._pretrained.max_length is not None,
            max_length=self._pretrained.max_length,
            verbose=False,
        )["input_ids"]
        limit = self._pretrained.max_length
        for index, one in enumerate(ids):
            if not one or (limit is not None and len(one) > limit):
                raise DataFormatError(
                    f"Text {index} makes {len(one)} tokens; there must be 1 or more, and at most "
                    f"{limit}. With truncate=True the end of longer ones is left out."
                )
        self.load()
        assert self._engine is not None
        return self._engine.embeddings([np.asarray(one, dtype=np.int32) for one in ids])
