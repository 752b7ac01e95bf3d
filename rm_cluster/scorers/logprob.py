"""The log-probability of completions under a causal language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import LogprobConfig, ScoringConfig
from rm_cluster.engines import engine_module
from rm_cluster.rewards import logprob_reward
from rm_cluster.scorers.continuation import ContinuationTemplate, unmark
from rm_cluster.scorers.customization import Customizer, folded
from rm_cluster.scorers.pretrained import load_tokenizer, open_pretrained
from rm_cluster.scorers.scorer import EncodedGroup, RowRewards, TokenIds, measure_rows
from rm_cluster.types import Row

if TYPE_CHECKING:
    from rm_cluster.engines.torch_engine import LogprobEngine


class Logprob:
    """Sums log p(token | all tokens before it) over a completion's tokens, in nats.

    Takes the fields of `LogprobConfig` as keywords, and `truncation` as in `ScoringConfig`:

        Logprob(model="path/or/hub-id", include_eos=False).score(rows)

    The conversation is rendered as for a classifier; prompt and completion are tokenized apart, so
    that the prompt's tokens are a true prefix of every text (`scorers/continuation.py`). The tokens
    that are summed over are counted in `num_tokens`; with `include_eos` the token that ends the
    turn is the last of them. An empty completion without it is a sum of 0 over 0 tokens. What is
    measured and stored is the sum; `normalize` and `beta` make a reward of it, as density ratios
    and implicit rewards are made of two (`rewards.py`).

    Raises:
        ConfigError: No such model, no safetensors weights, no causal language model, or no token
            that ends a turn.
    """

    uses_gpu = True

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        self.config = LogprobConfig(**options)
        self.pretrained = open_pretrained(self.config)
        writer = self.config.renderer
        self._template = ContinuationTemplate(
            self.pretrained.tokenizer,
            self.config.template,
            self.pretrained.max_length,
            truncation,
            self.config.name,
            include_eos=self.config.include_eos,
            renderer=writer
            and load_tokenizer(
                writer.tokenizer, writer.revision, trust_remote_code=writer.trust_remote_code
            ),
        )
        told = self.config.customize
        self._customizer = None if told is None else Customizer(told)
        self._folds = self._customizer is not None and not self._template.takes_system()
        self._engine: LogprobEngine | None = None

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the rewards; made when asked for, because it reads all the weights."""
        template = dict(self._template.contract)
        # under a name of its own it is part of what is measured: with another limit all is measured
        # again, because num_tokens does not tell how long the whole texts were
        limit = template.pop("max_length")
        return {
            "type": "logprob",
            **self.pretrained.contract(),
            **template,
            "max_tokens": limit,
            "include_eos": self.config.include_eos,
            "reward": "sum of natural log-probs of the completion's tokens",
            "logits_dtype": "float32",
            "batching": self.pretrained.batching,
            **self._customization(),
        }

    @property
    def notice(self) -> str | None:
        """What the user should know of the contract before it runs."""
        return self._template.notice

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        """Render and tokenize rows, whose prompts are customized already if they are to be."""
        if self._folds:
            rows = [folded(row) for row in rows]
        return self._template.encode(rows)

    def load(self, num_threads: int | None = None) -> None:
        if self._engine is None:
            self._engine = engine_module(self.config).LogprobEngine(
                self.config, self.pretrained.dtype, num_threads
            )

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[npt.NDArray[np.float64]]:
        self.load()
        assert self._engine is not None
        texts = [unmark(text) for group in groups for text in group]
        flat = self._engine.logprobs([ids for ids, _ in texts], [num for _, num in texts])
        return np.split(flat, np.cumsum([len(group) for group in groups])[:-1])

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where a group failed."""
        return [
            logprob_reward(sums, num_tokens, self.config.normalize, self.config.beta)
            for sums, num_tokens in self.measure(prompt_groups)
        ]

    def measure(self, prompt_groups: Iterable[Row]) -> list[RowRewards]:
        """Return the sums of each prompt group, and over how many tokens each is."""
        rows = self._customizer.routed(prompt_groups) if self._customizer else prompt_groups
        return measure_rows(self, rows)

    def _customization(self) -> dict[str, Any]:
        if self._customizer is None:
            return {}
        place = "begins the first user turn" if self._folds else "turn of its own"
        return {"customize": {**self._customizer.contract, "system": place}}
