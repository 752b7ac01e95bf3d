"""Several reward models made one, measured in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rm_cluster.config import EnsembleConfig
from rm_cluster.conversation import listed_rows, num_completions
from rm_cluster.rewards import Scale, combine
from rm_cluster.types import Row


class Member(Protocol):
    """Whatever scores in this process, such as `Classifier` or `LogRatio`."""

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]: ...


class Ensemble:
    """Combines the rewards of its members, without Ray.

    Takes the members by name, and `rule`, `weight` and `scale` as in `EnsembleConfig`:

        Ensemble({"a": Classifier(model=...), "b": LogRatio(...)}, rule="worst_case").score(rows)

    With `scale="z_score"` each member's rewards are put on one scale by their mean and standard
    deviation over the completions at hand that all members scored, so that a reward depends on the
    others it is scored with; in an evaluation they are those of a benchmark.

    Raises:
        pydantic.ValidationError: An option is wrong, or there are fewer than two members.
    """

    def __init__(self, members: dict[str, Member], **options: Any) -> None:
        self.config = EnsembleConfig(name="ensemble", members=list(members), **options)
        self._members = members

    def score(self, prompt_groups: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where a member failed.

        Raises:
            DataFormatError: The rewards of a member do not differ, so that they have no scale.
        """
        rows = listed_rows(prompt_groups)
        if not rows:
            return []
        sizes = [num_completions(row) for row in rows]
        flat = np.stack(
            [
                np.concatenate([np.empty(0), *member.score(rows)])
                for member in self._members.values()
            ]
        )
        if self.config.scale == "z_score":
            known = ~np.isnan(flat).any(axis=0)
            flat = np.stack([Scale.of(rewards[known]).z(rewards) for rewards in flat])
        combined = combine(flat, self.config.rule, self.config.weight)
        return np.split(combined, np.cumsum(sizes)[:-1])
