"""Rankings of policies, from battles that people decided and a reward model decides anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rm_cluster.columns import strings
from rm_cluster.metrics.estimate import Joint
from rm_cluster.metrics.judged import Bools, Floats, Ints, Judged
from rm_cluster.metrics.ranking import (
    RANKING_METRICS,
    HumanTies,
    rank_policies,
    redrawn_rankings,
)
from rm_cluster.metrics.strengths import FIRST, SECOND, TIE, tally

_BOUNDS = {"separability": (0.0, 1.0), "brier": (0.0, 1.0)}
"""Of those that are no correlations, nor an agreement from -1 to 1."""


class Battles(NamedTuple):
    """B battles between policies.

    Attributes:
        row: [B] the prompt each belongs to.
        first: [B] index of the policy that people preferred, or of either where they tied.
        second: [B] index of the other.
        human: [B] `FIRST` or `TIE`.
        model: [B] `FIRST`, `SECOND` or `TIE`, by the rewards.
        policies: [M] names.
    """

    row: Ints
    first: Ints
    second: Ints
    human: Ints
    model: Ints
    policies: list[str]

    @classmethod
    def of(cls, judged: Judged, members: Bools) -> Battles:
        """The judged comparisons of prompts in `members` ([P]), people's ties included."""
        compared = judged.comparisons
        compared = compared.only(members[compared.row] & ~np.isnan(compared.margin))
        lists = judged.rows["policies"].combine_chunks()
        starts = lists.offsets.to_numpy()[compared.row]
        policies, index = np.unique(strings(lists.values), return_inverse=True)
        by_sign = np.array([SECOND, TIE, FIRST])
        first, second = index[starts + compared.chosen], index[starts + compared.rejected]
        met, dense = np.unique(np.concatenate([first, second]), return_inverse=True)
        return cls(
            row=compared.row,
            first=dense[: len(first)],
            second=dense[len(first) :],
            human=np.where(compared.tie, TIE, FIRST),
            model=by_sign[np.sign(compared.margin).astype(int) + 1],
            policies=[str(policies[i]) for i in met],
        )

    def only(self, members: Bools) -> Battles:
        """Those of the prompts in `members` ([P]), among the same policies."""
        inside = members[self.row]
        return Battles(
            row=self.row[inside],
            first=self.first[inside],
            second=self.second[inside],
            human=self.human[inside],
            model=self.model[inside],
            policies=self.policies,
        )

    def tallies(self, drawn: Floats | None = None) -> tuple[Floats, Floats]:
        """By people and by the reward model, [R, 3] each; [s, R, 3] on draws of prompts [s, P]."""
        weights = None if drawn is None else drawn[:, self.row]
        num = len(self.policies)
        return (
            tally(self.first, self.second, self.human, num, weights),
            tally(self.first, self.second, self.model, num, weights),
        )


def policy_rankings(
    judged: Judged, members: Mapping[str, Bools], seed: int, human_ties: HumanTies = "half"
) -> list[Joint]:
    """`RANKING_METRICS` of each group ([P] membership by name), among all policies that battled.

    A policy that is in no battle of a group keeps its place there, unseparated from its neighbors,
    so that every group has the same pairs of policies.
    """
    if not members:
        return []
    battles = Battles.of(judged, np.any(list(members.values()), axis=0))
    if len(battles.policies) < 2:
        return []
    return [
        _joint(name, battles.only(inside), seed, human_ties) for name, inside in members.items()
    ]


def _joint(name: str, battles: Battles, seed: int, human_ties: HumanTies) -> Joint:
    values = rank_policies(*battles.tallies(), human_ties=human_ties, seed=seed)

    def redrawn(drawn: Floats) -> Floats:
        found = redrawn_rankings(*battles.tallies(drawn), human_ties=human_ties)
        return np.stack([found[metric] for metric in RANKING_METRICS], axis=1)

    return Joint(
        keys=[(name, metric) for metric in RANKING_METRICS],
        values=np.array([values[metric] for metric in RANKING_METRICS]),
        redrawn=redrawn,
        n=[len(battles.row)] * len(RANKING_METRICS),
        bounds=[_BOUNDS.get(metric, (-1.0, 1.0)) for metric in RANKING_METRICS],
    )
