"""Ensemble-pessimistic Best-of-N: several reward models made one, for `select` to maximize.

Shapes: M members, P prompts, N candidates (nan rewards where there is none, see `pools`).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.pools import Pools, check_beta, floats, unknown_name
from rm_cluster.config import EnsembleRule
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.judged import Floats
from rm_cluster.rewards import combine

Scale = Literal["pool", "given"]


def combine_members(
    rewards_MPN: npt.ArrayLike, rule: EnsembleRule, weight: float = 0.5, scale: Scale = "pool"
) -> Floats:
    """Combine the rewards of an ensemble's members.

    The rules are those of `rewards.combine`. The code of arXiv 2310.02743 puts members on no common
    scale, so that the one of the widest rewards decides.

    Args:
        rewards_MPN: A candidate that a member could not score (nan) is none for the ensemble.
        rule: `mean`, `worst_case`, `uncertainty_weighted` or `lower_confidence_bound`.
        weight: >= 0.
        scale: `pool`: rewards of each member are z-scores within each pool (`zscore_pools`), so
            beta is in standard deviations of a pool; `given`: they compare as they are.

    Returns:
        [P, N], nan where there is no candidate.

    Raises:
        ConfigError: An unknown rule or scale, or a negative weight.
        DataFormatError: Not [M, P, N], infinite, or a prompt without a candidate of all members.
    """
    if rule not in get_args(EnsembleRule):
        raise unknown_name("ensemble rule", rule, get_args(EnsembleRule))
    if scale not in get_args(Scale):
        raise unknown_name("scale", scale, get_args(Scale))
    weight, rewards = check_beta(weight, "weight"), floats("rewards_MPN", rewards_MPN)
    if rewards.ndim != 3 or not len(rewards):
        raise DataFormatError(
            f"rewards_MPN has the shape {rewards.shape}; it must be [members, prompts, candidates]."
        )
    for member, of_member in enumerate(rewards):
        Pools.of(of_member, f"rewards_MPN[{member}]")
    # nan in any member is nan in the sum
    present = Pools.of(rewards.sum(axis=0), "the sum of rewards_MPN over members").present_PN
    rewards = np.where(present, rewards, np.nan)
    if scale == "pool":
        rewards = np.stack([zscore_pools(member) for member in rewards])
    return combine(rewards, rule, weight)


def zscore_pools(rewards_PN: npt.ArrayLike) -> Floats:
    """[P, N] rewards less the mean of their pool, in its standard deviations (ddof 0).

    A pool of equal rewards becomes zeros.

    Raises:
        DataFormatError: An array is not what it should be.
    """
    pools = Pools.of(rewards_PN)
    rewards = np.where(pools.present_PN, pools.rewards_PN, np.nan)
    centered = rewards - np.nanmean(rewards, axis=1, keepdims=True)
    spread = np.nanstd(rewards, axis=1, keepdims=True)
    # what is constant up to rounding errors is not to be blown up
    constant = spread <= 1e-12 * np.nanmax(np.abs(rewards), axis=1, keepdims=True)
    scores: Floats = centered / np.where(constant, np.inf, spread)
    return scores
