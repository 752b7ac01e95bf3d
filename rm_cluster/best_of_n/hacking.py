"""Where a proxy is hacked: win rates, the turn of the best-of-n curve, agreement with gold.

Functions give one value per prompt where they can, and `over_prompts` makes a mean with an interval
of those, from a bootstrap over prompts.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`), S bootstrap draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.estimators import expected_best_of_all_n
from rm_cluster.best_of_n.pools import Pools, floats
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.estimate import CONFIDENCE, Estimate, Mean, Resampling, estimate
from rm_cluster.metrics.judged import Floats, Ints


def over_prompts(values_P: Floats, seed: int = 0) -> Estimate:
    """The mean over prompts; those of nan are left out, and `n` says how many stayed."""
    known = ~np.isnan(values_P)
    key = ("prompts", "mean")
    mean = {key: [Mean.of(values_P, known)]}
    return estimate(mean, np.arange(len(values_P)), prompts(len(values_P)), seed)[key]


def prompts(num_prompts: int) -> Resampling:
    """Each prompt drawn by itself."""
    return Resampling(np.arange(num_prompts), np.zeros(num_prompts, dtype=np.int64))


def taken(values_PN: npt.ArrayLike, indices_P: Ints) -> Floats:
    """[P] the values of the picks."""
    values = floats("values_PN", values_PN)
    return np.take_along_axis(values, indices_P[:, None], axis=1)[:, 0]


def wins(picked_P: Floats, other_P: Floats) -> Floats:
    """[P] 1 where the gold value of a pick is above that of another, 1/2 where they are equal.

    The mean is the win rate of one rule against another, 1/2 for a rule against itself; against
    plain Best-of-N, below 1/2 says that regularization hurts.
    """
    return np.where(np.isnan(picked_P - other_P), np.nan, (np.sign(picked_P - other_P) + 1) / 2)


def win_chances(gold_PN: npt.ArrayLike, against_PN: Floats | None = None) -> Floats:
    """How likely each candidate beats one that is drawn from its pool by gold, equal ones half.

    Args:
        gold_PN: Gold values, nan where there is no candidate.
        against_PN: The law that is drawn from (`select_probabilities`); uniform over the pool if
            None, which is the policy that wrote it, so that `taken(win_chances(gold), picks)` is
            the win rate over the reference. A candidate meets itself too, and ties.

    Returns:
        [P, N]; 0 where there is no candidate, so that `(p * win_chances(gold, q)).sum(axis=1)` is
        the exact win rate of one law against another.
    """
    pools = Pools.of(gold_PN, "gold_PN")
    uniform = pools.present_PN / pools.sizes_P[:, None]
    law = uniform if against_PN is None else pools.aligned("against_PN", against_PN)
    gold = np.where(pools.present_PN, pools.rewards_PN, 0.0)
    chances = np.zeros(gold.shape)
    for other in range(gold.shape[1]):
        outcome = (np.sign(gold - gold[:, other, None]) + 1) / 2
        chances += law[:, other, None] * outcome
    return np.where(pools.present_PN, chances, 0.0)


class OverOptimization(NamedTuple):
    """Where the expected gold value of best-of-n is largest.

    Attributes:
        n: The first n of the largest mean over prompts.
        interval: Of that n, by percentiles of the bootstrap over prompts.
        turned_fraction: Share of the draws in which the largest is before the last n, so that gold
            turns down within the pools. Only near 1 is it evidence of a turn.
        gold: Mean gold at `n`. It is the largest of several estimates and so somewhat high.
        drop: Mean gold at `n` minus that at the last n. At least 0, and somewhat high likewise; its
            interval is that of this n against the last.
        last_n: The size of the smallest pool, up to which every prompt takes part.
    """

    n: int
    interval: tuple[int, int]
    turned_fraction: float
    gold: Estimate
    drop: Estimate
    last_n: int


def over_optimization_point(
    proxy_PN: npt.ArrayLike, gold_PN: npt.ArrayLike, seed: int = 0
) -> OverOptimization:
    """Find the n from which a higher proxy reward means less gold.

    Args:
        proxy_PN: What is maximized; a value per candidate as in `expected_best_of_n`.
        gold_PN: What is judged by.
        seed: Of the bootstrap.

    Raises:
        DataFormatError: An array is not what it should be, or there are fewer than two prompts.
    """
    curve = expected_best_of_all_n(proxy_PN, gold_PN)
    if len(curve) < 2:
        raise DataFormatError(f"An interval needs two prompts at least, got {len(curve)}.")
    curve = curve[:, ~np.isnan(curve).any(axis=0)]
    drawn = np.concatenate(list(prompts(len(curve)).draws(seed)))
    peaks = first_peak(drawn @ curve / len(curve))
    peak = int(first_peak(curve.mean(axis=0)[None])[0])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(peaks, (tail, 1 - tail), method="inverted_cdf")
    return OverOptimization(
        n=peak + 1,
        interval=(int(low) + 1, int(high) + 1),
        turned_fraction=float((peaks < curve.shape[1] - 1).mean()),
        gold=over_prompts(curve[:, peak], seed),
        drop=over_prompts(curve[:, peak] - curve[:, -1], seed),
        last_n=curve.shape[1],
    )


def first_peak(curves_SN: Floats) -> Ints:
    """[S] the first position of the largest value, up to the rounding errors of running sums."""
    largest = curves_SN.max(axis=1, keepdims=True)
    slack = 1e-12 * np.abs(curves_SN).max(axis=1, keepdims=True)
    first: Ints = (curves_SN >= largest - slack).argmax(axis=1)
    return first


def spearman_per_pool(proxy_PN: npt.ArrayLike, gold_PN: npt.ArrayLike) -> Floats:
    """[P] rank correlation of proxy and gold among the candidates of a prompt.

    Equal values share their mean rank. nan where one side is constant or fewer than two candidates
    are there: `over_prompts` leaves these out and tells how many stayed.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    from scipy.stats import rankdata

    pools = Pools.of(proxy_PN, "proxy_PN")
    gold = pools.aligned("gold_PN", gold_PN)
    ranks = []
    for values in (pools.rewards_PN, gold):
        here = np.where(pools.present_PN, values, np.nan)
        rank = rankdata(here, axis=1, nan_policy="omit")
        ranks.append(np.where(pools.present_PN, rank - (pools.sizes_P[:, None] + 1) / 2, 0.0))
    first, second = ranks
    with np.errstate(invalid="ignore"):
        norm = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        correlation: Floats = (first * second).sum(axis=1) / norm
    return correlation
