"""How good the pick of highest reward is among K completions drawn from those of a prompt, exactly.

The best-of-K curve of PPE (arXiv 2410.14872) is f(K) = E[label of the completion of highest reward]
over random K-subsets of a prompt's N completions, averaged over prompts. The expectation has a
closed form, so nothing is sampled: with b completions below a group of t equal rewards, the pick
falls into the group with probability (C(b+t, K) - C(b, K)) / C(N, K), and on each of its members
alike.

Shapes: P prompts, N completions of each, S draws of prompts. Rewards may be nan where scoring
failed: such a completion is picked only where a subset holds nothing else, as PPE does it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import gammaln

from rm_cluster.metrics.judged import Floats, Ints

Pooling = Literal["pooled", "prompt"]
LossNorm = Literal["absolute", "squared"]
_CHUNK_ELEMENTS = 4_000_000


def best_of_k(rewards: Floats, labels: Floats) -> Floats:
    """Expected label of the pick, for every K.

    Args:
        rewards: [P, N].
        labels: [P, N] gold values, 1 and 0 where answers are right or wrong.

    Returns:
        [P, N], column K-1 for best-of-K. The first column is the mean label, whatever the rewards.
    """
    rewards = np.where(np.isnan(rewards), -np.inf, rewards)
    order = np.argsort(rewards, axis=1, kind="stable")
    ascending = np.take_along_axis(rewards, order, axis=1)
    gold = np.take_along_axis(np.asarray(labels, dtype=float), order, axis=1)
    below, through = _tie_bounds(ascending)
    within = _subset_share(rewards.shape[1])
    curve = np.empty(gold.shape)
    at_once = max(1, _CHUNK_ELEMENTS // max(1, within.size))
    for start in range(0, len(gold), at_once):
        rows = slice(start, start + at_once)
        chances = within[through[rows]] - within[below[rows]]
        weights = chances / (through[rows] - below[rows])[..., None]
        curve[rows] = np.einsum("pn,pnk->pk", gold[rows], weights)
    return curve


def oracle_best_of_k(labels: Floats) -> Floats:
    """[P, N] the curve of a reward model that knows the labels: the best that any can do."""
    return best_of_k(labels, labels)


def curve_loss(curve: Floats, oracle: Floats, norm: LossNorm = "absolute") -> Floats:
    """[...] mean over K of the gap to the oracle's curve ([..., N] each), or of its square.

    PPE calls it the error against the ground truth and does not print the norm.
    """
    gap = oracle - curve
    loss: Floats = (gap if norm == "absolute" else gap**2).mean(axis=-1)
    return loss


def roc_auc(
    rewards: Floats, labels: Floats, weights: Floats | None = None, pooling: Pooling = "pooled"
) -> Floats:
    """Probability that a right completion has a higher reward than a wrong one; equal ones half.

    Args:
        rewards: [P, N]; completions that failed (nan) are left out.
        labels: [P, N], 1 right and 0 wrong.
        weights: [S, P] how often each prompt counts; once if None.
        pooling: Over all completions of all prompts at once, which asks that rewards of different
            prompts compare (scikit-learn's `roc_auc_score` on the flat arrays), or within each
            prompt and then averaged over those with both kinds. PPE does not print which it takes.

    Returns:
        [S], or a scalar without weights; nan where one kind is missing.
    """
    drawn = np.ones((1, len(rewards))) if weights is None else weights
    if pooling == "pooled":
        auc = _pooled_auc(rewards, labels, drawn)
    else:
        each = np.array(
            [
                _pooled_auc(rewards[i : i + 1], labels[i : i + 1], np.ones((1, 1)))[0]
                for i in range(len(rewards))
            ]
        )
        known = ~np.isnan(each)
        with np.errstate(divide="ignore", invalid="ignore"):
            auc = drawn[:, known] @ each[known] / drawn[:, known].sum(axis=1)
    return auc if weights is not None else auc[0]


def _pooled_auc(rewards: Floats, labels: Floats, drawn: Floats) -> Floats:
    """[S] by one sort of all completions and a running count of the wrong ones below."""
    scored = ~np.isnan(rewards)
    owner = np.nonzero(scored)[0]
    flat, right = rewards[scored], labels[scored] > 0.5
    _, group = np.unique(flat, return_inverse=True)
    order = np.argsort(group, kind="stable")
    group, owner, right = group[order], owner[order], right[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    auc = np.full(len(drawn), np.nan)
    if not len(group):
        return auc
    step = max(1, _CHUNK_ELEMENTS // len(group))
    for start in range(0, len(drawn), step):
        weight = drawn[start : start + step][:, owner]
        positive = np.add.reduceat(np.where(right, weight, 0.0), starts, axis=1)
        negative = np.add.reduceat(np.where(right, 0.0, weight), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        total = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            auc[start : start + step] = (positive * below).sum(axis=1) / total
    return auc


def _tie_bounds(ascending: Floats) -> tuple[Ints, Ints]:
    """[P, N] how many rewards of the row are below each, and how many are not above it."""
    num = ascending.shape[1]
    positions = np.arange(num)
    new = np.ones(ascending.shape, dtype=bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    below = np.maximum.accumulate(np.where(new, positions, 0), axis=1)
    last = np.ones(ascending.shape, dtype=bool)
    last[:, :-1] = new[:, 1:]
    ends = np.where(last, positions + 1, num)
    through = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return below, through


@lru_cache(maxsize=64)
def _subset_share(num: int) -> Floats:
    """[N+1, N] C(m, K) / C(N, K): the share of K-subsets that lie within given m completions."""
    m, k = np.arange(num + 1.0)[:, None], np.arange(1.0, num + 1)[None]
    log = (
        gammaln(m + 1) - gammaln(np.maximum(m - k, 0) + 1) - gammaln(num + 1) + gammaln(num - k + 1)
    )
    return np.where(k <= m, np.exp(log), 0.0)
