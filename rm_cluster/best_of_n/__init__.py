"""Best-of-N under regularization: pure functions of arrays of rewards.

Picks by every rule (`select`, `select_probabilities`), for every strength at once (`beta_path`),
what they are worth (`expected_best_of_n`), where a proxy is hacked, and how a strength is chosen.
"""

from __future__ import annotations

from rm_cluster.best_of_n.choosing import (
    BetaChoice,
    BetaOutcome,
    best_beta,
    choose_and_judge,
    choose_beta,
    development_prompts,
    judge_beta,
)
from rm_cluster.best_of_n.ensembles import combine_members, zscore_pools
from rm_cluster.best_of_n.estimators import (
    Resampled,
    expected_best_of_all_n,
    expected_best_of_n,
    kl_of_best_of_n,
    resampled_best_of_n,
)
from rm_cluster.best_of_n.hacking import (
    OverOptimization,
    over_optimization_point,
    over_prompts,
    spearman_per_pool,
    taken,
    win_chances,
    wins,
)
from rm_cluster.best_of_n.overlap import token_overlap
from rm_cluster.best_of_n.path import BetaPaths, beta_path, beta_paths
from rm_cluster.best_of_n.rules import (
    DETERMINISTIC,
    STOCHASTIC,
    bonus,
    cosine_similarity,
    mean_similarity,
    pick,
    select,
)
from rm_cluster.best_of_n.stochastic import sample, select_probabilities

__all__ = [
    "DETERMINISTIC",
    "STOCHASTIC",
    "BetaChoice",
    "BetaOutcome",
    "BetaPaths",
    "OverOptimization",
    "Resampled",
    "best_beta",
    "beta_path",
    "beta_paths",
    "bonus",
    "choose_and_judge",
    "choose_beta",
    "combine_members",
    "cosine_similarity",
    "development_prompts",
    "expected_best_of_all_n",
    "expected_best_of_n",
    "judge_beta",
    "kl_of_best_of_n",
    "mean_similarity",
    "over_optimization_point",
    "over_prompts",
    "pick",
    "resampled_best_of_n",
    "sample",
    "select",
    "select_probabilities",
    "spearman_per_pool",
    "taken",
    "token_overlap",
    "win_chances",
    "wins",
    "zscore_pools",
]
