"""From a judge's verdicts to margins and rewards, with the part that the order had in them.

A verdict is how strongly a judge prefers the reply that it is shown first: the log-odds of A over B
in nats, or 1, 0 and -1 where it speaks in words. Two replies are judged in both orders.

Shapes: R comparisons, K completions of a prompt, P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rm_cluster.metrics.estimate import Mean, Official
from rm_cluster.metrics.judged import Bools, Floats, Judged


class Debiased(NamedTuple):
    """[R] what is left of the verdicts in two orders; nan where one of the two is."""

    margin: Floats
    """Preference for the first reply: the mean of both orders, 0 where these contradict."""
    bias: Floats
    """Preference for whatever is shown first, in the same unit."""
    inconsistent: Bools
    """Whether the order decides which reply is preferred."""


def debias(straight_R: Floats, swapped_R: Floats) -> Debiased:
    """Put the verdicts on (first, second) and on (second, first) together.

    A preference m for the first reply and b for the first place make m + b in one order and -m + b
    in the other, so that m and b are half their difference and half their sum.
    """
    known = ~np.isnan(straight_R) & ~np.isnan(swapped_R)
    inconsistent = known & (np.sign(straight_R) != np.sign(-swapped_R))
    margin = np.where(inconsistent, 0.0, (straight_R - swapped_R) / 2)
    return Debiased(margin, (straight_R + swapped_R) / 2, inconsistent)


def round_robin_rewards(
    margins_R: Floats, pairs: Sequence[tuple[int, ...]], num_completions: int
) -> Floats | None:
    """[K] rewards whose differences are as near as can be to the margins, by least squares.

    With all K (K - 1) / 2 comparisons the reward of a completion is the sum of its margins over all
    others, divided by K; they sum to 0 (HodgeRank: Jiang et al., arXiv 0811.1067).

    Args:
        margins_R: nan for a comparison that failed.
        pairs: [R] (first, second).
        num_completions: K.

    Returns:
        None where the comparisons that there are do not connect all completions.
    """
    known = ~np.isnan(margins_R)
    rows = np.arange(int(known.sum()))
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2)[known].T
    design = np.zeros((len(rows), num_completions))
    design[rows, first], design[rows, second] = 1.0, -1.0
    found, _, rank, _ = np.linalg.lstsq(design, margins_R[known], rcond=None)
    # rounded beyond its errors, so that what is equal ties; without -0.0
    rewards = np.asarray(found.round(12) + 0.0, dtype=np.float64)
    return rewards if rank == num_completions - 1 else None


def order_effects(judged: Judged, members: Mapping[str, Bools]) -> Official:
    """What the order of two replies did, over the comparisons of each group.

    `position_bias` is the mean preference for the reply shown first, and `inconsistent` the share
    of comparisons in which the order decided; these count as ties.
    """
    if judged.orders is None:
        return {}
    count, bias, inconsistent = judged.orders
    return {
        (name, metric): [Mean(np.where(inside, sums, 0.0), np.where(inside, count, 0.0))]
        for name, inside in members.items()
        if count[inside].any()
        for metric, sums in (("position_bias", bias), ("inconsistent", inconsistent))
    }
