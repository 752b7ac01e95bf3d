"""The density ratio of two language models, measured in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import LogRatioConfig, ScoringConfig
from rm_cluster.config.listing import check_ratio, measured_members
from rm_cluster.conversation import listed_rows
from rm_cluster.errors import ConfigError
from rm_cluster.rewards import log_ratio
from rm_cluster.scorers.logprob import Logprob
from rm_cluster.types import Row


class LogRatio:
    """beta * (log strong(y|x) - log weak(y|x)), without Ray.

    Takes the fields of `LogRatioConfig` as keywords, and `truncation` as in `ScoringConfig`:

        LogRatio(strong="path/or/hub-id", weak="path/or/hub-id", beta=0.1).score(rows)

    In an evaluation the same reward is computed from what is stored of the two models.

    Raises:
        ConfigError: As `Logprob`, for either model, or they do not go together.
    """

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        self.config = LogRatioConfig(**options)
        try:
            check_ratio(self.config, {})
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._strong, self._weak = (
            Logprob(truncation=truncation, **member.model_dump())
            for member in measured_members(self.config, {})
        )

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where either model failed."""
        rows = listed_rows(prompt_groups)
        return [
            log_ratio(
                strong.rewards,
                weak.rewards,
                strong.num_tokens,
                self.config.normalize,
                self.config.beta,
            )
            for strong, weak in zip(
                self._strong.measure(rows),
                self._weak.measure(rows),
                strict=True,
            )
        ]
