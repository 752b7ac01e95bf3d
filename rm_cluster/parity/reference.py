"""A model in plain transformers, as a script would run it; the truth with one text at a time.

Shapes: B texts of a batch, T tokens of its longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_cluster.config import ClassifierConfig, LogprobConfig, PretrainedConfig
from rm_cluster.engines.decoder import right_padded
from rm_cluster.engines.device import device
from rm_cluster.engines.heads import attach_head
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.rewards import head_weights
from rm_cluster.scorers.continuation import unmark
from rm_cluster.scorers.scorer import TokenIds

_ROWS = 64
"""At once in float64, in which the logits of a long text are large."""


class Reference:
    """A reward model or a language model with transformers' own forward pass.

    Args:
        config: Which.
        dtype: Of the weights.
    """

    def __init__(self, config: ClassifierConfig | LogprobConfig, dtype: str) -> None:
        self._is_language_model = isinstance(config, LogprobConfig)
        loader = (
            AutoModelForCausalLM if self._is_language_model else AutoModelForSequenceClassification
        )
        # the attention that transformers takes by itself, or one that keeps soft caps (its eager
        # one, right for most, adds the biases of Falcon's ALiBi twice)
        plain = config.model_copy(update={"attn_implementation": None})
        self._model = load_pretrained(loader, plain, dtype, "a model of its type", _attach_head)
        self._given = None if isinstance(config, LogprobConfig) else config.head_weights
        self._name = config.name
        self._values = self._logprobs if self._is_language_model else self._rewards

    @property
    def is_decoder(self) -> bool:
        """Whether nothing but the choice of the last token can depend on the pad token."""
        return self._is_language_model or isinstance(
            getattr(self._model, "score", None), torch.nn.Linear
        )

    @torch.inference_mode()
    def one_at_a_time(self, texts: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return the value of each text; without padding there is nothing to choose."""
        self._set_pad(None)
        return np.concatenate([self._values([text]) for text in texts])

    @torch.inference_mode()
    def padded(
        self, texts: Sequence[TokenIds], batch_size: int, pad: int
    ) -> npt.NDArray[np.float64]:
        """Return the value of each text, in batches in the order given, padded on the right."""
        self._set_pad(pad)
        batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
        return np.concatenate([self._values(batch, pad) for batch in batches])

    def _set_pad(self, pad: int | None) -> None:
        self._model.config.get_text_config().pad_token_id = pad

    def _rewards(self, texts: Sequence[TokenIds], pad: int = 0) -> npt.NDArray[np.float64]:
        outputs = self._model(**_inputs(texts, pad)).logits.double().cpu().numpy()
        rewards: npt.NDArray[np.float64] = outputs @ head_weights(
            self._given, outputs.shape[1], self._name
        )
        return rewards

    def _logprobs(self, texts: Sequence[TokenIds], pad: int = 0) -> npt.NDArray[np.float64]:
        """Of marked texts, as `scorers.continuation.mark` makes them."""
        known = [unmark(text) for text in texts]
        logits = self._model(**_inputs([ids for ids, _ in known], pad)).logits  # [B, T, V]
        found = np.zeros(len(texts))
        for i, (ids, num_prompt) in enumerate(known):
            targets = torch.from_numpy(ids[num_prompt:].astype(np.int64)).to(logits.device)
            rows = logits[i, num_prompt - 1 : len(ids) - 1]
            for some, wanted in zip(
                torch.split(rows, _ROWS), torch.split(targets, _ROWS), strict=True
            ):
                logprobs = some.double().log_softmax(-1)
                found[i] += float(logprobs.gather(1, wanted[:, None]).sum())
        return found


def _attach_head(model: Any, config: PretrainedConfig, missing: Sequence[str]) -> bool:
    """A script has one dtype throughout."""
    found = attach_head(model, config, missing)
    if found:
        model.score.to(model.dtype)
    return found


def _inputs(texts: Sequence[TokenIds], pad: int) -> dict[str, Any]:
    input_ids, lengths = right_padded(texts)
    mask = torch.arange(input_ids.shape[1], device=device()) < lengths[:, None]
    return {"input_ids": input_ids.masked_fill(~mask, pad), "attention_mask": mask.long()}
