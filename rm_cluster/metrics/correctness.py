"""Metrics on verified samples: does the reward pick what is right?

PPE (arXiv 2410.14872): accuracy on stored pairs of a right and a wrong sample, ROC AUC, and three
readings of the best-of-K curve: its maximum over K, its end, and its distance from the oracle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rm_cluster.metrics.estimate import Joint, Mean
from rm_cluster.metrics.judged import Bools, Floats, Judged
from rm_cluster.metrics.picks import (
    LossNorm,
    Pooling,
    best_of_k,
    curve_loss,
    oracle_best_of_k,
    roc_auc,
)

CORRECTNESS_METRICS = ("roc_auc", "max_score", "end_score", "loss")
_BOUNDS = (0.0, 1.0)
"""Of all of them, for labels that are 0 or 1."""


class Samples(NamedTuple):
    """The rated prompts of one group that have labels.

    Attributes:
        position: [Q] where they stand among the judged prompts.
        rewards: [Q, N], nan where a completion failed.
        labels: [Q, N]; where prompts differ in their number of completions, nan fills up both.
        curve: [Q, N] best-of-K by prompt, for K up to the smallest number.
        oracle: [Q, N] the same for rewards that are the labels.
    """

    position: np.ndarray
    rewards: Floats
    labels: Floats
    curve: Floats
    oracle: Floats

    @classmethod
    def of(cls, judged: Judged, members: Bools) -> Samples | None:
        """Those of the prompts in `members` ([P]) that are rated and have labels, if any do."""
        position = np.flatnonzero(members & judged.rated & (judged.num_labels > 0))
        sizes = judged.num_labels[position]
        if not len(position):
            return None
        rewards, labels = (np.full((len(position), sizes.max()), np.nan) for _ in range(2))
        curve, oracle = (np.empty((len(position), sizes.min())) for _ in range(2))
        for size in np.unique(sizes):
            alike = np.flatnonzero(sizes == size)
            scores, gold = (
                np.stack([values[i] for i in position[alike]])
                for values in (judged.rewards, judged.labels)
            )
            rewards[alike, :size], labels[alike, :size] = scores, gold
            curve[alike] = best_of_k(scores, gold)[:, : sizes.min()]
            oracle[alike] = oracle_best_of_k(gold)[:, : sizes.min()]
        return cls(position, rewards, labels, curve, oracle)

    def metrics(self, drawn: Floats, pooling: Pooling, norm: LossNorm) -> Floats:
        """[s, Q'] `CORRECTNESS_METRICS` on draws of the judged prompts [s, P]."""
        weights = drawn[:, self.position]
        with np.errstate(divide="ignore", invalid="ignore"):
            curve, oracle = (
                (weights @ values) / weights.sum(axis=1, keepdims=True)
                for values in (self.curve, self.oracle)
            )
        return np.stack(
            [
                roc_auc(self.rewards, self.labels, weights, pooling),
                curve.max(axis=1),
                curve[:, -1],
                curve_loss(curve, oracle, norm),
            ],
            axis=1,
        )


def correctness_metrics(
    judged: Judged,
    domains: Sequence[str],
    mean: str,
    pooling: Pooling = "pooled",
    norm: LossNorm = "absolute",
) -> list[Joint]:
    """`CORRECTNESS_METRICS` of each domain, and their plain mean over the domains.

    A judge that only compares pairs has none of them.

    Args:
        judged: Scored prompts.
        domains: Which to take; those without a rated prompt are left out.
        mean: What the group of all of them is called.
        pooling: See `roc_auc`.
        norm: See `curve_loss`.
    """
    found = {
        name: samples
        for name in domains
        if (samples := Samples.of(judged, judged.domain == name)) is not None
    }
    if not found:
        return []

    def redrawn(drawn: Floats) -> Floats:
        each = [samples.metrics(drawn, pooling, norm) for samples in found.values()]
        return np.concatenate([*each, np.mean(each, axis=0)], axis=1)

    sizes = [len(samples.position) for samples in found.values()]
    return [
        Joint(
            keys=[(name, metric) for name in (*found, mean) for metric in CORRECTNESS_METRICS],
            values=redrawn(np.ones((1, len(judged))))[0],
            redrawn=redrawn,
            n=np.repeat([*sizes, sum(sizes)], len(CORRECTNESS_METRICS)).tolist(),
            bounds=[_BOUNDS] * (len(found) + 1) * len(CORRECTNESS_METRICS),
        )
    ]


def mean_accuracy(judged: Judged, domains: Sequence[str]) -> list[Mean]:
    """The plain mean over domains of the accuracy on their pairs; empty where there are none."""
    pairs = judged.pairs
    correct = np.bincount(pairs.row, pairs.correct, len(judged)).astype(float)
    count = np.bincount(pairs.row, minlength=len(judged)).astype(float)
    means = [
        Mean(np.where(inside, correct, 0.0), np.where(inside, count, 0.0))
        for name in domains
        if count[inside := judged.domain == name].any()
    ]
    return [mean.scaled(1 / len(means)) for mean in means]
