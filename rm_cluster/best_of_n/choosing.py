"""Choosing the strength of regularization on some prompts, and judging it on others.

What beta maximizes on the development prompts is a value per candidate: the gold reward where there
is one, and without gold the reward of a second reward model that was held out of the selection, or
a pessimistic combination of an ensemble (`combine_members`), which is low where its members
disagree. Say in a report which it was. The maximum is over all beta >= 0, not over a grid.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`), S bootstrap draws, K
breakpoints of all prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.hacking import (
    first_peak,
    over_prompts,
    prompts,
    taken,
    win_chances,
    wins,
)
from rm_cluster.best_of_n.path import beta_paths
from rm_cluster.best_of_n.pools import Pools, check_beta, floats
from rm_cluster.best_of_n.rules import pick
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.metrics.estimate import CONFIDENCE, NUM_COSTLY_DRAWS, Estimate
from rm_cluster.metrics.judged import Bools, Floats

_CHUNK_ELEMENTS = 5_000_000


class BetaChoice(NamedTuple):
    """The beta of the largest mean criterion.

    Attributes:
        beta: The middle of the interval of betas whose picks are those; of several intervals the
            first. 0 where plain Best-of-N is as good as any, and twice the last breakpoint where
            the interval has no end.
        low, high: That interval: low < beta <= high, or 0 <= beta <= high where it begins with 0.
        interval: Of the chosen beta, by percentiles of a bootstrap over prompts which chooses anew;
            nan for a single prompt.
        criterion: Mean at `beta`. It is the largest of many and so somewhat high: judge on others.
        criterion_of_bon: Mean at beta = 0.
        n: Prompts.
    """

    beta: float
    low: float
    high: float
    interval: tuple[float, float]
    criterion: float
    criterion_of_bon: float
    n: int


class BetaOutcome(NamedTuple):
    """What a given beta does, by gold, each with its bootstrap over prompts.

    Attributes:
        beta: The strength.
        gold: Mean gold value of the picks.
        gold_of_bon: The same at beta = 0.
        gain: Their difference, prompt by prompt.
        win_rate_over_bon: Against plain Best-of-N, equal gold half.
        win_rate_over_reference: Against a uniform draw from the pool.
        changed: Share of prompts whose pick is not plain Best-of-N's.
    """

    beta: float
    gold: Estimate
    gold_of_bon: Estimate
    gain: Estimate
    win_rate_over_bon: Estimate
    win_rate_over_reference: Estimate
    changed: Estimate


def development_prompts(num_prompts: int, num_dev: int, seed: int = 0) -> Bools:
    """[P] `num_dev` of the prompts, at random.

    Raises:
        ConfigError: No prompt would be left for one side.
    """
    if not 1 <= num_dev < num_prompts:
        raise ConfigError(
            f"num_dev must leave prompts on both sides, 1 to {num_prompts - 1} of {num_prompts}; "
            f"got num_dev={num_dev}."
        )
    dev = np.zeros(num_prompts, dtype=bool)
    dev[np.random.default_rng(seed).permutation(num_prompts)[:num_dev]] = True
    return dev


def best_beta(
    rewards_PN: npt.ArrayLike, bonus_PN: npt.ArrayLike, criterion_PN: npt.ArrayLike
) -> tuple[float, float]:
    """The beta of `choose_beta` and its mean criterion, without what a bootstrap says of them.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    criterion = Pools.of(rewards_PN).aligned("criterion_PN", criterion_PN)
    breakpoints, means = beta_paths(rewards_PN, bonus_PN).mean_of(criterion)
    best = int(first_peak(means[None])[0])
    return _middle(np.concatenate([[0.0], breakpoints, [np.inf]]), best), float(means[best])


def choose_beta(
    rewards_PN: npt.ArrayLike,
    bonus_PN: npt.ArrayLike,
    criterion_PN: npt.ArrayLike,
    seed: int = 0,
) -> BetaChoice:
    """Find the beta whose picks have the largest mean criterion, among all beta >= 0.

    Args:
        rewards_PN: Proxy rewards, nan where there is no candidate.
        bonus_PN: What beta multiplies (`bonus`, `mean_similarity`).
        criterion_PN: Gold rewards, or what stands in for them (see the module).
        seed: Of the bootstrap.

    Raises:
        DataFormatError: An array is not what it should be, or there is no prompt.
    """
    criterion = Pools.of(rewards_PN).aligned("criterion_PN", criterion_PN)
    if not len(criterion):
        raise DataFormatError("beta cannot be chosen on no prompts.")
    breakpoints, prompt, steps, first = beta_paths(rewards_PN, bonus_PN).steps(criterion)
    # several prompts may change at one breakpoint: means stand between different ones only
    edge = np.append(np.diff(breakpoints) > 0, True)[: len(breakpoints)]
    edges = np.concatenate([[0.0], breakpoints[edge], [np.inf]])

    def means(weights_SP: Floats) -> Floats:
        """[S, K + 1] mean criterion between breakpoints, with prompts weighted."""
        changes = np.cumsum(weights_SP[:, prompt] * steps, axis=1)[:, edge]
        start = weights_SP @ first
        return np.column_stack([start, start[:, None] + changes]) / len(first)

    whole = means(np.ones((1, len(first))))
    best = int(first_peak(whole)[0])
    chosen = [
        _middle(edges, int(interval))
        for weights in _draws(len(first), seed, num_elements=len(breakpoints))
        for interval in first_peak(means(weights))
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(chosen, (tail, 1 - tail), method="inverted_cdf")
    known = len(first) > 1
    return BetaChoice(
        beta=_middle(edges, best),
        low=float(edges[best]),
        high=float(edges[best + 1]),
        interval=(float(low), float(high)) if known else (math.nan, math.nan),
        criterion=float(whole[0, best]),
        criterion_of_bon=float(whole[0, 0]),
        n=len(first),
    )


def judge_beta(
    rewards_PN: npt.ArrayLike,
    bonus_PN: npt.ArrayLike,
    gold_PN: npt.ArrayLike,
    beta: float,
    seed: int = 0,
) -> BetaOutcome:
    """Judge a beta by gold, on prompts that had no part in its choice.

    Raises:
        ConfigError: beta is not a finite number >= 0.
        DataFormatError: An array is not what it should be.
    """
    pools, beta = Pools.of(rewards_PN), check_beta(beta)
    gold = pools.aligned("gold_PN", gold_PN)
    picks, plain = pick(rewards_PN, bonus_PN, beta), pick(rewards_PN, bonus_PN, 0.0)
    picked, of_bon = taken(gold, picks), taken(gold, plain)
    chances = win_chances(np.where(pools.present_PN, gold, np.nan))
    return BetaOutcome(
        beta=beta,
        gold=over_prompts(picked, seed),
        gold_of_bon=over_prompts(of_bon, seed),
        gain=over_prompts(picked - of_bon, seed),
        win_rate_over_bon=over_prompts(wins(picked, of_bon), seed),
        win_rate_over_reference=over_prompts(taken(chances, picks), seed),
        changed=over_prompts((picks != plain).astype(float), seed),
    )


def choose_and_judge(
    rewards_PN: npt.ArrayLike,
    bonus_PN: npt.ArrayLike,
    criterion_PN: npt.ArrayLike,
    gold_PN: npt.ArrayLike,
    dev_P: npt.ArrayLike,
    seed: int = 0,
) -> tuple[BetaChoice, BetaOutcome]:
    """Choose beta on the development prompts and judge it on the others.

    Args:
        rewards_PN: Proxy rewards, nan where there is no candidate.
        bonus_PN: What beta multiplies.
        criterion_PN: As in `choose_beta`; used on development prompts only.
        gold_PN: Used on the others only, unless it is the criterion too.
        dev_P: Which prompts are for development (`development_prompts`).
        seed: Of the bootstraps.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    pools = Pools.of(rewards_PN)
    rewards = np.where(pools.present_PN, pools.rewards_PN, np.nan)
    given = {"bonus_PN": bonus_PN, "criterion_PN": criterion_PN, "gold_PN": gold_PN}
    bonus, criterion, gold = (floats(name, values) for name, values in given.items())
    for name, array in zip(given, (bonus, criterion, gold), strict=True):
        pools.check_shape(name, array, rewards.shape)
    dev = np.asarray(dev_P)
    if dev.dtype != bool or dev.shape != rewards.shape[:1] or dev.all() or not dev.any():
        raise DataFormatError(
            f"dev_P must be {len(rewards)} booleans, true for development and false for test, with "
            f"some of both; got {dev.dtype} of the shape {dev.shape}."
        )
    choice = choose_beta(rewards[dev], bonus[dev], criterion[dev], seed)
    return choice, judge_beta(rewards[~dev], bonus[~dev], gold[~dev], choice.beta, seed)


def _middle(edges: Floats, interval: int) -> float:
    low, high = edges[interval], edges[interval + 1]
    if interval == 0:
        return 0.0
    middle = 2 * low if np.isinf(high) else (low + high) / 2
    # between two neighbors among floats there is no middle, and the upper one belongs here
    return float(middle if middle > low else high)


def _draws(num_prompts: int, seed: int, num_elements: int) -> Iterator[Floats]:
    """Yield [s, P] how often each prompt is drawn, S rows in all, few enough to work on at once."""
    step = max(1, _CHUNK_ELEMENTS // max(1, num_elements))
    for drawn in prompts(num_prompts).draws(seed, NUM_COSTLY_DRAWS):
        for start in range(0, len(drawn), step):
            yield drawn[start : start + step]
