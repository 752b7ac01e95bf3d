"""All strengths at once: the exact pick for every beta >= 0.

reward + beta * bonus is a line in beta for each candidate, so the picks over all beta are the upper
envelope of N lines: a sort and one pass, O(N log N) per prompt. A grid of betas is needed for plots
only.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`), B betas, M
breakpoints of the prompt that has most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.pools import Pools, floats
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.judged import Floats, Ints


class BetaPaths(NamedTuple):
    """Picks of P prompts as functions of beta.

    Attributes:
        breakpoints_PM: Ascending, padded with inf. Pick k of a prompt is the one for
            breakpoint k-1 < beta <= breakpoint k; at a breakpoint both its neighbors are as good.
        indices_PK: [P, M + 1] picks; the last one is repeated where breakpoints are padded.
    """

    breakpoints_PM: Floats
    indices_PK: Ints

    def picks(self, betas_B: npt.ArrayLike) -> Ints:
        """[P, B] the picks at given betas."""
        betas = floats("betas_B", betas_B)
        passed = np.zeros((len(self.indices_PK), len(betas)), dtype=np.int64)
        for breakpoints in self.breakpoints_PM.T:
            passed += breakpoints[:, None] < betas
        return np.take_along_axis(self.indices_PK, passed, axis=1)

    def mean_of(self, values_PN: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean over prompts of a value of the picks, for every beta.

        Returns:
            Breakpoints of all prompts, ascending and each once ([K]), and [K + 1] means: mean k is
            that for breakpoint k-1 < beta <= breakpoint k.
        """
        breakpoints, _, steps, first = self.steps(values_PN)
        means = (first.sum() + np.concatenate([[0.0], np.cumsum(steps)])) / len(first)
        last = np.append(np.diff(breakpoints) > 0, True)[: len(breakpoints)]
        return breakpoints[last], np.concatenate([means[:1], means[1:][last]])

    def steps(self, values_PN: npt.ArrayLike) -> tuple[Floats, Ints, Floats, Floats]:
        """How a value of the picks changes along beta.

        Returns:
            All breakpoints, ascending, the prompt of each, by how much its value changes there, and
            [P] the values at beta = 0.
        """
        values = np.take_along_axis(floats("values_PN", values_PN), self.indices_PK, axis=1)
        prompts, columns = np.nonzero(np.isfinite(self.breakpoints_PM))
        order = np.argsort(self.breakpoints_PM[prompts, columns], kind="stable")
        prompts, columns = prompts[order], columns[order]
        steps = values[prompts, columns + 1] - values[prompts, columns]
        return self.breakpoints_PM[prompts, columns], prompts, steps, values[:, 0]


def beta_path(rewards_N: npt.ArrayLike, bonus_N: npt.ArrayLike) -> tuple[Floats, Ints]:
    """Find the pick of one prompt for every beta >= 0.

    Args:
        rewards_N: Proxy rewards, nan where there is no candidate.
        bonus_N: What beta multiplies (`bonus`, `mean_similarity`).

    Returns:
        Ascending breakpoints ([M]) and [M + 1] picks: pick k is the one for
        breakpoint k-1 < beta <= breakpoint k, which is `indices[np.searchsorted(breakpoints,
        beta)]`. At beta = 0 that is plain Best-of-N with its rule for ties; a tie there that any
        beta > 0 breaks is a breakpoint 0. Along the picks the bonus rises and the reward falls.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    rewards, bonus = floats("rewards_N", rewards_N), floats("bonus_N", bonus_N)
    if rewards.ndim != 1 or bonus.shape != rewards.shape:
        raise DataFormatError(
            f"rewards_N and bonus_N have the shapes {rewards.shape} and {bonus.shape}; both must "
            "be [candidates] of one prompt. For many prompts use beta_paths."
        )
    paths = beta_paths(rewards[None], bonus[None])
    breakpoints = paths.breakpoints_PM[0]
    num_breakpoints = int(np.isfinite(breakpoints).sum())
    return breakpoints[:num_breakpoints], paths.indices_PK[0, : num_breakpoints + 1]


def beta_paths(rewards_PN: npt.ArrayLike, bonus_PN: npt.ArrayLike) -> BetaPaths:
    """Find the picks of all prompts for every beta >= 0, as `beta_path` does for one.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    pools = Pools.of(rewards_PN)
    bonus = pools.aligned("bonus_PN", bonus_PN)
    lines_PN, starts_PN, num_lines_P = _envelope(pools.rewards_PN, bonus)
    # plain Best-of-N holds at beta = 0 itself, where the envelope may begin with another of equals
    plain = pools.best_P
    differs = lines_PN[:, 0] != plain
    num_breakpoints = num_lines_P - 1 + differs
    width = int(num_breakpoints.max(initial=0))
    # where plain comes first, all else moves one to the right
    columns = np.arange(width + 1) - differs[:, None]
    last = num_lines_P[:, None] - 1
    indices = np.take_along_axis(lines_PN, np.clip(columns, 0, last), axis=1)
    indices[:, 0] = plain
    starts = np.take_along_axis(starts_PN, np.clip(columns, 0, last), axis=1)
    breakpoints = np.where(columns <= last, starts, np.inf)[:, 1:]
    return BetaPaths(breakpoints, indices)


def _envelope(rewards_PN: Floats, bonus_PN: Floats) -> tuple[Ints, Floats, Ints]:
    """The upper envelope on beta >= 0 of each prompt's lines, by one stack per prompt.

    Returns:
        [P, N] the lines of the envelope by ascending bonus, [P, N] the beta from which each is the
        highest, and [P] how many there are; what follows those is not defined.
    """
    present = np.isfinite(rewards_PN)
    slopes = np.where(present, bonus_PN, np.inf)
    # of equal slopes the highest reward comes first, of equal lines the first position
    order = np.lexsort((-rewards_PN, slopes), axis=1)
    slopes = np.take_along_axis(slopes, order, axis=1)
    heights = np.take_along_axis(rewards_PN, order, axis=1)
    new = np.take_along_axis(present, order, axis=1)
    new[:, 1:] &= slopes[:, 1:] != slopes[:, :-1]
    # below a steeper line that begins higher no line is ever the highest: few are left
    best_after = np.maximum.accumulate(heights[:, :0:-1], axis=1)[:, ::-1]
    new[:, :-1] &= heights[:, :-1] >= best_after
    stack, starts = np.zeros_like(order), np.zeros(rewards_PN.shape)
    depth = np.zeros(len(rewards_PN), dtype=np.int64)
    for line in np.flatnonzero(new.any(axis=0)):
        rows = np.flatnonzero(new[:, line])
        start = np.zeros(len(rows))
        todo = np.arange(len(rows))[depth[rows] > 0]
        while len(todo):
            row = rows[todo]
            top = stack[row, depth[row] - 1]
            with np.errstate(over="ignore"):
                crossing = (heights[row, top] - heights[row, line]) / (
                    slopes[row, line] - slopes[row, top]
                )
            hidden = crossing <= starts[row, depth[row] - 1]
            start[todo] = np.where(hidden, 0.0, crossing)
            depth[row[hidden]] -= 1
            todo = todo[hidden & (depth[row] > 0)]
        reached = np.isfinite(start)
        rows, start = rows[reached], start[reached]
        stack[rows, depth[rows]], starts[rows, depth[rows]] = line, start
        depth[rows] += 1
    return np.take_along_axis(order, stack, axis=1), starts, depth
