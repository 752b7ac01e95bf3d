"""What best-of-n is worth in expectation, and how far it goes from the reference.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`), S draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.pools import (
    MEAN_DECIMALS,
    Pools,
    check_beta,
    check_n,
    unknown_name,
)
from rm_cluster.errors import ConfigError
from rm_cluster.metrics.judged import Bools, Floats, Ints
from rm_cluster.metrics.picks import best_of_k

_CHUNK_ELEMENTS = 10_000_000
NUM_SUBSETS = 200
"""Random subsets of a pool, where there is no closed form."""


def expected_best_of_n(proxy_PN: npt.ArrayLike, gold_PN: npt.ArrayLike, n: int) -> Floats:
    """Expected gold value of the best by proxy among n candidates of a pool, exactly.

    The mean over all n-subsets of the pool, in closed form (`metrics.best_of_k`), which is unbiased
    for n fresh draws from the policy (WebGPT, arXiv 2112.09332; Gao et al., arXiv 2210.10760).

    It holds where a candidate's value does not depend on the others: rewards, and those plus beta *
    bonus for `rbon_kl` and `rbon_l`. For `mbr` and `rbon_wd` see `resampled_best_of_n`.

    Args:
        proxy_PN: What is maximized, nan where there is no candidate.
        gold_PN: What is judged by; give `proxy_PN` again for the expected proxy reward.
        n: 1 to the size of the largest pool.

    Returns:
        [P]; nan where the pool holds fewer than n. Candidates of equal proxy share the pick: that
        is the first of them (the rule of `select`) in the mean over the orders in which a policy
        may have drawn them.

    Raises:
        ConfigError: n is out of range.
        DataFormatError: An array is not what it should be.
    """
    n = check_n(n, Pools.of(proxy_PN, "proxy_PN").rewards_PN.shape[1])
    return expected_best_of_all_n(proxy_PN, gold_PN)[:, n - 1]


def expected_best_of_all_n(proxy_PN: npt.ArrayLike, gold_PN: npt.ArrayLike) -> Floats:
    """[P, N] `expected_best_of_n` for all n at once, in column n - 1."""
    pools = Pools.of(proxy_PN, "proxy_PN")
    gold = pools.aligned("gold_PN", gold_PN)
    curve = np.full(gold.shape, np.nan)
    for size in np.unique(pools.sizes_P):
        rows = np.flatnonzero(pools.sizes_P == size)
        step = max(1, _CHUNK_ELEMENTS // size**2)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            here = pools.present_PN[some]
            proxy_here = pools.rewards_PN[some][here].reshape(-1, size)
            curve[some, :size] = best_of_k(proxy_here, gold[some][here].reshape(-1, size))
    return curve


class Resampled(NamedTuple):
    """A mean over random subsets, per prompt.

    Attributes:
        value_P: The mean over the draws; nan where the pool holds fewer than n.
        stderr_P: Its Monte Carlo error (the standard error over the draws), 0 where n is all.
    """

    value_P: Floats
    stderr_P: Floats


def resampled_best_of_n(
    rule: str,
    rewards_PN: npt.ArrayLike,
    gold_PN: npt.ArrayLike,
    n: int,
    similarity_PNN: npt.ArrayLike,
    beta: float = 0.0,
    num_draws: int = NUM_SUBSETS,
    seed: int = 0,
) -> Resampled:
    """Estimate the expected gold value of a rule whose pick depends on the other candidates.

    Each draw takes n of the pool without replacement, the means of similarity over those n, and the
    first of the best. The mean over all subsets, which the draws estimate, is unbiased for n fresh
    candidates, as in `expected_best_of_n`.

    Args:
        rule: `mbr` or `rbon_wd`.
        rewards_PN: Proxy rewards, nan where there is no candidate.
        gold_PN: What is judged by.
        n: 1 to the size of the largest pool.
        similarity_PNN: As in `select`.
        beta: Strength of `rbon_wd`.
        num_draws: S.
        seed: Of the draws.

    Raises:
        ConfigError: An unknown rule, or n, beta or num_draws is out of range.
        DataFormatError: An array is not what it should be.
    """
    if rule not in ("mbr", "rbon_wd"):
        raise unknown_name("pool rule", rule, ("mbr", "rbon_wd"))
    if num_draws < 2:
        raise ConfigError(f"num_draws must be at least 2 to tell an error, got {num_draws}.")
    pools, beta = Pools.of(rewards_PN), check_beta(beta)
    n = check_n(n, pools.rewards_PN.shape[1])
    gold, similarity = pools.aligned("gold_PN", gold_PN), pools.similarity(similarity_PNN)
    found = np.full((2, len(gold)), np.nan)
    for prompt, subsets in random_subsets(pools, similarity, n, num_draws, seed):
        here = subsets.here_N
        rewards = None if rule == "mbr" else pools.rewards_PN[prompt, here]
        picked = gold[prompt, here][subsets.picks(rewards, beta)]
        # the whole pool is one subset, however often it is drawn
        stderr = 0.0 if n == here.sum() else picked.std(ddof=1) / np.sqrt(num_draws)
        found[:, prompt] = picked.mean(), stderr
    return Resampled(*found)


class Subsets(NamedTuple):
    """Random subsets of a pool of C candidates.

    Attributes:
        here_N: Where its candidates are.
        among_CS: Which of them a subset has.
        means_CS: The mean similarity of each to a subset.
    """

    here_N: Bools
    among_CS: Bools
    means_CS: Floats

    def picks(self, rewards_C: Floats | None, beta: float) -> Ints:
        """[S] the first of the best of each subset, by reward and similarity or by that alone."""
        scores = self.means_CS
        if rewards_C is not None:
            scores = rewards_C[:, None] + beta * scores
        picks: Ints = np.where(self.among_CS, scores, -np.inf).argmax(axis=0)
        return picks


def random_subsets(
    pools: Pools,
    similarity_PNN: npt.NDArray[np.floating],
    n: int,
    num_draws: int = NUM_SUBSETS,
    seed: int = 0,
) -> Iterator[tuple[int, Subsets]]:
    """Yield each prompt that has n candidates, with subsets of n: the same for whatever scores."""
    rng = np.random.default_rng(seed)
    for prompt, here in enumerate(pools.present_PN):
        size = int(here.sum())
        if size >= n:
            among = _subsets(size, n, num_draws, rng)
            means = similarity_PNN[prompt][np.ix_(here, here)].astype(np.float64) @ among / n
            means = means.round(MEAN_DECIMALS)
            yield prompt, Subsets(here, among, means)


def _subsets(size: int, n: int, num_draws: int, rng: np.random.Generator) -> Bools:
    """[size, S] membership in random n-subsets."""
    order = rng.permuted(np.tile(np.arange(size)[:, None], num_draws), axis=0)
    return order < n


def kl_of_best_of_n(n: npt.ArrayLike, best_mass: npt.ArrayLike = 0.0) -> Floats:
    """KL(best-of-n || policy) in nats.

    log n - (n-1)/n holds where no two samples have equal rewards and is an upper bound elsewhere
    (arXiv 2401.01879). Where the policy puts mass eps on its best outcome and none on any other
    single one, it is

        (1-eps)^n [log n + (n-1) log(1-eps) - (n-1)/n]
        + (1 - (1-eps)^n) log[(1 - (1-eps)^n) / eps].

    Args:
        n: Numbers of candidates, at least 1.
        best_mass: eps, 0 to 1, as the policy's probability of the best candidate of the pool.

    Returns:
        An array (or scalar) of the two, broadcast.

    Raises:
        ConfigError: n or eps is out of range.
    """
    n, eps = np.asarray(n, dtype=np.float64), np.asarray(best_mass, dtype=np.float64)
    if not (n >= 1).all() or np.isinf(n).any():
        raise ConfigError(f"n must be at least 1, got n={n}.")
    if not ((eps >= 0) & (eps <= 1)).all():
        raise ConfigError(f"best_mass is a probability and must lie in 0..1, got {best_mass!r}.")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_missed = n * np.log1p(-eps)
        hit, missed = -np.expm1(log_missed), np.exp(log_missed)
        smooth = np.log(n) - (n - 1) / n
        inexact = missed * (smooth + (n - 1) * np.log1p(-eps)) + hit * np.log(hit / eps)
    kl: Floats = np.where(eps == 0, smooth, np.where(eps == 1, 0.0, inexact))
    return kl
