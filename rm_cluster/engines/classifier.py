"""Rewards of sequence classifiers on torch.

Shapes: B texts of a batch, H outputs of the head.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification

from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.decoder import (
    Decoder,
    States,
    distinct,
    enough,
    masked,
    padded_batches,
    require_known,
    token_budget,
)
from rm_cluster.engines.heads import attach_head, read_in_full
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.engines.packing import TokenIds, is_causal, is_packed, mixed_length
from rm_cluster.engines.probing import (
    hears_padding,
    num_known,
    reads_last_token,
    sees_no_token_to_come,
    told_of,
)
from rm_cluster.errors import ConfigError
from rm_cluster.rewards import head_weights

HEADS = ("score", "classifier", "classification_head")
"""What transformers calls the head of a sequence classifier."""


class ClassifierEngine:
    """A sequence classifier in memory.

    Args:
        config: Which, and how.
        dtype: Of the weights, the head excepted, which runs in float32.
        num_threads: Cores to use on a CPU; as many as torch uses if None.

    Raises:
        ConfigError: The checkpoint lacks weights, such as those of a reward head, or the head has
            as many outputs as there are no weights for.
    """

    def __init__(
        self, config: ClassifierConfig, dtype: str, num_threads: int | None = None
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._tokens_per_batch = enough(token_budget(config))
        self._model = load_pretrained(
            AutoModelForSequenceClassification, config, dtype, "a sequence classifier", attach_head
        )
        self._mixed = mixed_length(self._model.config)
        self._head, prefix = _head(self._model, config.name)
        if dtype != "float32":
            read_in_full(self._head, prefix, config)
        self._head.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
        self._weights = head_weights(config.head_weights, _num_outputs(self._model), config.name)
        # of several callers; rotary embeddings may change with the length of what they meet
        self._alone = threading.Lock()
        self._decoder: Decoder | None = None
        with told_of(self._model, config.name):
            self._reads_last = _is_decoder(self._model) and reads_last_token(
                self._model, self._head
            )
            decodes = (
                self._reads_last
                and is_causal(self._model.config)
                and sees_no_token_to_come(self._model)
            )
            if not decodes and hears_padding(self._model, self._pooled):
                self._mixed = 0
        if decodes:
            self._decoder = Decoder(
                self._model,
                packed=is_packed(config, self._model.config),
                tokens_per_batch=token_budget(config),
                num_threads=num_threads,
            )

    @property
    def num_outputs(self) -> int:
        """H, of the head."""
        return len(self._weights)

    def rewards(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return the reward of each text; order and company do not matter."""
        return self.objectives(token_ids) @ self._weights

    @torch.inference_mode()
    def objectives(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return [n, H] outputs of the head, of which the reward is the weighted sum."""
        texts, index = distinct(token_ids)
        require_known(texts, num_known(self._model))
        found = np.empty((len(texts), len(self._weights)))

        def use(states: States) -> None:
            last = states.hidden[[int(places[-1]) for places in states.where]]
            found[states.indices] = self._outputs(self._head(last))

        if self._decoder is None:
            sizes = [len(ids) for ids in texts]
            for indices in padded_batches(sizes, self._tokens_per_batch, self._mixed):
                with self._alone:
                    found[indices] = self._outputs(self._pooled([texts[i] for i in indices]))
        else:
            final = np.array([len(ids) - 1 for ids in texts], dtype=np.int64)
            self._decoder.each(texts, final, use)
        return found[index]

    def _outputs(self, logits: torch.Tensor) -> npt.NDArray[np.float64]:
        numbers: npt.NDArray[np.float64] = logits.float().cpu().double().numpy()
        return numbers.reshape(-1, len(self._weights))

    def _pooled(self, texts: Sequence[TokenIds]) -> torch.Tensor:
        """[B, H] of a batch of an encoder, or of a decoder whose tokens see those to come.

        Some take but one text at a time, or only texts with as many ends (CTRL, Bart, T5).
        """
        try:
            return self._together(texts)
        except ValueError:
            if len(texts) == 1:
                raise
            return torch.cat([self._together([text]) for text in texts])

    def _together(self, texts: Sequence[TokenIds]) -> torch.Tensor:
        inputs = masked(self._model, texts)
        if not self._reads_last:
            logits: torch.Tensor = self._model(**inputs).logits
            return logits
        hidden = self._model.base_model(**inputs)[0]
        last = inputs["attention_mask"].sum(1) - 1
        outputs: torch.Tensor = self._head(hidden[torch.arange(len(texts)), last])
        return outputs


def _is_decoder(model: Any) -> bool:
    """Whether the reward is read off the last token: a bare linear `score` on causal states."""
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def _head(model: Any, name: str) -> tuple[torch.nn.Module, str]:
    """The head of a model, and what the model calls it."""
    for attribute in HEADS:
        head = getattr(model, attribute, None)
        if isinstance(head, torch.nn.Module):
            return head, attribute
    raise ConfigError(
        f"{name} is a {type(model).__name__} without a head called {' or '.join(HEADS)}; it "
        "cannot be scored as a classifier."
    )


def _num_outputs(model: Any) -> int:
    return int(model.score.out_features if _is_decoder(model) else model.config.num_labels)
