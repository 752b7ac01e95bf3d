"""Estimates with intervals: weighted sums of means, bootstrapped over clusters of prompts.

Every metric here is `sum_m weight_m * sum_p sums_mp / sum_p counts_mp`: an accuracy is one mean
over comparisons, RM-Bench's overall score four means over prompts, RewardBench's sections weighted
means of subsets. So one resampling of the prompts gives all metrics of all reward models at once,
and the difference of two reward models on the same draws is a paired comparison. What is no such
sum, as an ROC AUC or a rank correlation, is a `Joint` and computed anew on every draw.

Shapes: P prompts, C clusters (prompts resampled as one), M means, S bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.columns import Column, ranks
from rm_cluster.metrics.judged import Bools, Floats, Ints

NUM_DRAWS = 1000
NUM_COSTLY_DRAWS = 400
"""For metrics that compute something of their own on every draw."""
CONFIDENCE = 0.95
MIN_STRATUM = 10
"""Clusters of a stratum: what fewer vary is told too low, and one alone does not vary at all."""
_CHUNK_ELEMENTS = 1_000_000


class Mean(NamedTuple):
    """`weight` times the mean of what each prompt contributes: [P] sums over [P] counts."""

    sums: Floats
    counts: Floats
    weight: float = 1.0

    @classmethod
    def of(cls, values: npt.NDArray[Any], members: Bools) -> Mean:
        """The mean of one value per prompt ([P]) over the `members` ([P])."""
        return cls(np.where(members, values, 0.0).astype(float), members.astype(float))

    def scaled(self, weight: float) -> Mean:
        return self._replace(weight=weight)


Official = dict[tuple[str, str], list[Mean]]
"""Metrics by (domain, metric), as weighted sums of means."""


class Joint(NamedTuple):
    """Q metrics that come out of one computation on the drawn prompts.

    Attributes:
        keys: [Q] (domain, metric).
        values: [Q] on the prompts as they are.
        redrawn: [s, P] how often each prompt was drawn -> [s, Q].
        n: What goes into them: battles, or prompts.
        bounds: [Q] between which values they lie.
    """

    keys: Sequence[tuple[str, str]]
    values: Floats
    redrawn: Callable[[Floats], Floats]
    n: Sequence[int]
    bounds: Sequence[tuple[float, float]]


class Resampling(NamedTuple):
    """How prompts are drawn: clusters with replacement, as many from each stratum as it has."""

    cluster: Ints  # [P] cluster of each prompt, 0..C-1
    stratum: Ints  # [C] stratum of each cluster

    @classmethod
    def of(cls, clusters: Column | Sequence[str], strata: Column | Sequence[str]) -> Resampling:
        """Name the cluster and the stratum of each prompt; a cluster lies in one stratum.

        Strata of fewer than `MIN_STRATUM` clusters are drawn together, as one.
        """
        cluster, names = ranks(clusters)
        stratum = np.empty(len(names), dtype=np.int64)
        stratum[cluster] = ranks(strata)[0]
        small = np.bincount(stratum)[stratum] < MIN_STRATUM
        return cls(cluster, np.where(small, -1, stratum))

    def draws(self, seed: int, num_draws: int = NUM_DRAWS) -> Iterator[Floats]:
        """Yield [s, C] counts of how often each cluster was drawn, S rows in all.

        The same seed gives the same draws, whatever is estimated on them.
        """
        rng = np.random.default_rng(seed)
        members = [np.flatnonzero(self.stratum == s) for s in np.unique(self.stratum)]
        num_clusters = len(self.stratum)
        chunk = max(1, _CHUNK_ELEMENTS // max(1, num_clusters))
        for start in range(0, num_draws, chunk):
            counts = np.zeros((min(chunk, num_draws - start), num_clusters))
            for row in counts:
                for clusters in members:
                    picks = rng.integers(len(clusters), size=len(clusters))
                    row[clusters] = np.bincount(picks, minlength=len(clusters))
            yield counts


class Estimate(NamedTuple):
    """A value with its bootstrap draws; `n` is what it averages over (see `estimate`).

    Nothing is drawn (`draws` is empty) where fewer than two clusters contribute, and a draw is nan
    where it has none of those that do.
    """

    value: float
    draws: Floats  # [S]
    n: int
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def minus(self, other: Estimate) -> Estimate:
        """The difference on the same draws, of which there are none if one side has none."""
        known = self.draws.size and other.draws.size
        draws = self.draws - other.draws if known else np.empty(0)
        return Estimate(self.value - other.value, draws, self.n)

    @property
    def stderr(self) -> float:
        return float(np.nanstd(self.draws, ddof=1)) if self.draws.size else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Percentile interval at `CONFIDENCE`, within the values that there are."""
        if not self.draws.size:
            return float("nan"), float("nan")
        tail = (1 - CONFIDENCE) / 2
        low, high = np.clip(np.nanquantile(self.draws, (tail, 1 - tail)), *self.bounds)
        return float(low), float(high)


def estimate(
    metrics: Mapping[tuple[str, str], Sequence[Mean]],
    position: Ints,
    resampling: Resampling,
    seed: int,
) -> dict[tuple[str, str], Estimate]:
    """Estimate every metric, on the same draws.

    Args:
        metrics: Weighted sums of means whose arrays are [len(position)].
        position: Where those prompts stand among the P prompts of `resampling`.
        resampling: How the benchmark's prompts are drawn.
        seed: Of the draws.

    Returns:
        Estimates by the same keys; `n` counts what went in: comparisons, or prompts for the
        metrics that take one value per prompt. A mean over nothing is nan.
    """
    means = [mean for terms in metrics.values() for mean in terms]
    if not means:
        return {}
    cluster, num_clusters = resampling.cluster[position], len(resampling.stratum)
    sums, counts = (
        np.stack([np.bincount(cluster, array, num_clusters) for array in arrays], axis=1)
        for arrays in ([mean.sums for mean in means], [mean.counts for mean in means])
    )
    weights = np.array([mean.weight for mean in means])
    with np.errstate(divide="ignore", invalid="ignore"):
        values = weights * sums.sum(axis=0) / counts.sum(axis=0)
        draws = np.concatenate(
            [weights * (drawn @ sums) / (drawn @ counts) for drawn in resampling.draws(seed)]
        )
    found, start = {}, 0
    for key, terms in metrics.items():
        columns = slice(start, start + len(terms))
        start += len(terms)
        # where no term has more than one, the value is that of every draw which has them all
        contributing = (counts[:, columns] > 0).sum(axis=0).max()
        value = float(values[columns].sum())
        usable = contributing > 1 and not np.isnan(value)
        found[key] = Estimate(
            value=value,
            draws=draws[:, columns].sum(axis=1) if usable else np.empty(0),
            n=round(np.max([mean.counts for mean in terms], axis=0).sum()),
        )
    return found


def estimate_joint(
    joints: Iterable[Joint], position: Ints, resampling: Resampling, seed: int
) -> dict[tuple[str, str], Estimate]:
    """Estimate metrics that are no sums of means, on the first draws that `estimate` makes.

    Resampling adds noise of its own, which pulls such metrics to one side (correlations towards
    zero), so their draws are moved to have the value as their mean: they tell the spread.
    """
    joints = list(joints)
    if not joints:
        return {}
    cluster = resampling.cluster[position]
    chunks = [
        [joint.redrawn(drawn[:, cluster]) for joint in joints]
        for drawn in resampling.draws(seed, NUM_COSTLY_DRAWS)
    ]
    found = {}
    for joint, redrawn in zip(joints, zip(*chunks, strict=True), strict=True):
        for column, (key, value) in enumerate(zip(joint.keys, joint.values, strict=True)):
            draws = np.concatenate([values[:, column] for values in redrawn])
            known = draws[~np.isnan(draws)]
            usable = len(known) > 1 and joint.n[column] > 1 and not np.isnan(value)
            moved = known - known.mean() + value if usable else np.empty(0)
            found[key] = Estimate(float(value), moved, joint.n[column], joint.bounds[column])
    return found
