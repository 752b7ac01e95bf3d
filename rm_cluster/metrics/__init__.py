"""Metrics on stored rewards: pure functions of arrays and tables."""

from __future__ import annotations

from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.gains import ensemble_gains
from rm_cluster.metrics.gaps import correlate_gaps
from rm_cluster.metrics.head_weights import search_head_weights, weight_accuracies
from rm_cluster.metrics.pair_sweep import sweep_pairs
from rm_cluster.metrics.pairwise import accuracy
from rm_cluster.metrics.picks import best_of_k, curve_loss, oracle_best_of_k, roc_auc
from rm_cluster.metrics.ranking import rank_policies
from rm_cluster.metrics.strengths import bradley_terry, tally
from rm_cluster.metrics.table import LOWER_IS_BETTER, BenchmarkRewards, compare, measure

__all__ = [
    "LOWER_IS_BETTER",
    "BenchmarkRewards",
    "accuracy",
    "best_of_k",
    "best_of_k_curves",
    "bradley_terry",
    "compare",
    "correlate_gaps",
    "curve_loss",
    "ensemble_gains",
    "measure",
    "oracle_best_of_k",
    "rank_policies",
    "roc_auc",
    "search_head_weights",
    "sweep_pairs",
    "tally",
    "weight_accuracies",
]
