"""Measurements on torch: rewards and log-probs of given tokens.

Shapes: B texts of a batch, T tokens of its longest, N hidden states, H hidden, V vocabulary, R
scored tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rm_cluster.config import ClassifierConfig, LogprobConfig
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
from rm_cluster.engines.embedding import EmbeddingEngine
from rm_cluster.engines.heads import attach_head, read_in_full
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.engines.logits import float32_head, rows_at_once
from rm_cluster.engines.packing import Positions, TokenIds, is_causal, is_packed, mixed_length
from rm_cluster.engines.probing import (
    alike,
    hears_padding,
    num_known,
    reads_last_token,
    sees_no_token_to_come,
    some_tokens,
    told_of,
)
from rm_cluster.engines.sampling import SamplingEngine
from rm_cluster.errors import ConfigError
from rm_cluster.rewards import head_weights

__all__ = ["HEADS", "ClassifierEngine", "EmbeddingEngine", "LogprobEngine", "SamplingEngine"]

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
        return _numbers(logits).reshape(-1, len(self._weights))

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


def _number(config: Any, name: str) -> float:
    """1 where a config has no such number: MPT's `logit_scale` may be None or a word."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else 1.0


def _numbers(values: torch.Tensor) -> npt.NDArray[np.float64]:
    return values.float().flatten().cpu().double().numpy()
