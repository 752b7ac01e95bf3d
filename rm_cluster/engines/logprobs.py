"""Log-probs of given tokens under causal language models, on torch.

Shapes: N hidden states, V vocabulary, R scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from rm_cluster.config import LogprobConfig
from rm_cluster.engines.decoder import Decoder, States, distinct, require_known, token_budget
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.engines.logits import float32_head, rows_at_once
from rm_cluster.engines.packing import Positions, TokenIds, is_packed
from rm_cluster.engines.probing import (
    alike,
    num_known,
    sees_no_token_to_come,
    some_tokens,
    told_of,
)
from rm_cluster.errors import ConfigError


class LogprobEngine:
    """A causal language model in memory, asked for the probabilities of given tokens.

    Args:
        config: Which, and how.
        dtype: Of the weights; logits and their log-sum-exp are float32.
        num_threads: Cores to use on a CPU; as many as torch uses if None.

    Raises:
        ConfigError: The checkpoint lacks weights, or its logits are not those of its output
            embeddings on its last hidden states, or it is not causal.
    """

    def __init__(self, config: LogprobConfig, dtype: str, num_threads: int | None = None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        model = load_pretrained(AutoModelForCausalLM, config, dtype, "a causal language model")
        self._model = model
        text_config = model.config.get_text_config()
        self._softcap: float | None = getattr(text_config, "final_logit_softcapping", None)
        # Cohere multiplies, Granite divides
        factor, divisor = (_number(text_config, k) for k in ("logit_scale", "logits_scaling"))
        self._scale: float = factor / divisor
        self._head = float32_head(model)
        self._rows_at_once = rows_at_once(self._head)
        with told_of(model, config.name), torch.inference_mode():
            self._check(model, config.name)
        self._decoder = Decoder(
            model,
            packed=is_packed(config, model.config),
            tokens_per_batch=token_budget(config),
            num_threads=num_threads,
        )

    def logprobs(
        self, token_ids: Sequence[TokenIds], num_prompt: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Return the sum of log p(token | all before it) over the tokens after the prompt.

        Args:
            token_ids: Of each text, prompt and completion.
            num_prompt: How many tokens of each text, one or more, are the prompt's.
        """
        texts, index = distinct(token_ids)
        require_known(texts, num_known(self._model))
        first = np.full(len(texts), np.iinfo(np.int64).max)
        np.minimum.at(
            first, np.asarray(index, dtype=np.int64), np.asarray(num_prompt, dtype=np.int64)
        )
        tokens: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(texts)

        def use(states: States) -> None:
            rows = [places[:-1] for places in states.where]
            targets = np.concatenate([texts[i][first[i] :] for i in states.indices])
            flat = self._token_logprobs(states.hidden, np.concatenate(rows), targets)
            parts = np.split(flat, np.cumsum([len(row) for row in rows])[:-1])
            for i, part in zip(states.indices, parts, strict=True):
                tokens[i] = part

        # a token's probability is read where the token before it stands
        self._decoder.each(texts, first - 1, use)
        return np.array(
            [tokens[i][n - first[i] :].sum() for i, n in zip(index, num_prompt, strict=True)]
        )

    def _token_logprobs(
        self, hidden: torch.Tensor, rows: Positions, targets: TokenIds
    ) -> npt.NDArray[np.float64]:
        """[R] log-probs of `targets` at `rows` of `hidden`; a row meets the head once."""
        unique, column = np.unique(rows, return_inverse=True)
        order = np.argsort(column, kind="stable")
        column, wanted = column[order], targets[order].astype(np.int64)
        found = np.empty(len(rows))
        for start in range(0, len(unique), self._rows_at_once):
            end = start + self._rows_at_once
            here = slice(*np.searchsorted(column, (start, end)))
            found[order[here]] = self._of_rows(
                hidden[unique[start:end]], column[here] - start, wanted[here]
            )
        return found

    def _of_rows(
        self, hidden: torch.Tensor, places: Positions, targets: Positions
    ) -> npt.NDArray[np.float64]:
        """Log-probs of `targets` at `places` of some rows, whose logits are there but once."""
        logits = self._logits(hidden)
        chosen = logits[places, targets].double()
        top = logits.amax(-1)
        # in float64 where there is one number for a row: sums over long texts keep to 1e-4
        others = logits.sub_(top[:, None]).exp_().sum(-1).double().log_() + top.double()
        return (chosen - others[places]).cpu().numpy()

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, V] in float32."""
        logits: torch.Tensor = self._head(hidden)
        if self._scale != 1.0:
            logits = logits.mul_(self._scale)
        if self._softcap is not None:
            logits = logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits

    def _check(self, model: Any, name: str) -> None:
        """Hold the head that is applied here against the model's own logits, on a few tokens."""
        if not sees_no_token_to_come(model):
            raise ConfigError(
                f"{name} is a {type(model).__name__} that sees tokens to come; log-probs need a "
                "causal language model."
            )
        ids = some_tokens(model, 6)[None]
        hidden = model.base_model(input_ids=ids, use_cache=False)[0]
        own = model(input_ids=ids, use_cache=False).logits.float()
        if not alike(self._logits(hidden[0]), own[0], model):
            raise ConfigError(
                f"{name} is a {type(model).__name__}, which does more to its logits than its "
                "output embeddings, a scale and a soft cap; its log-probs would be wrong."
            )


def _number(config: Any, name: str) -> float:
    """1 where a config has no such number: MPT's `logit_scale` may be None or a word."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else 1.0
