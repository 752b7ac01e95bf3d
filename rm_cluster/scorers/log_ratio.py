"""The density ratio of two language models, measured in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import LogRatioConfig, ScoringConfig
from rm_cluster.config.listing import measured_members
from rm_cluster.rewards import log_ratio
from rm_cluster.scorers.logprob import Logprob
from rm_cluster.types import Row


class LogRatio:
    """beta * (log strong(y|x) - log weak(y|x)), without Ray.

    Takes the fields of `LogRatioConfig` as keywords, and `truncation` as in `ScoringConfig`:

        LogRatio(strong="path/or/hub-id", weak="path/or/hub-id", beta=0.1).score(rows)

    In an evaluation the same reward is computed from what is stored of the two models.

    Raises:
        ConfigError: As `Logprob`, for either model.
    """

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        self.config = LogRatioConfig(**options)
        self._strong, self._weak = (
            Logprob(truncation=truncation, **member.model_dump())
            for member in measured_members(self.config, {})
        )

    def score(self, prompt_groups: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where either model failed."""
        return [
            log_ratio(
                strong.rewards,
                weak.rewards,
                strong.num_tokens,
                self.config.normalize,
                self.config.beta,
            )
            for strong, weak in zip(
                self._strong.measure(prompt_groups),
                self._weak.measure(prompt_groups),
                strict=True,
            )
        ]
