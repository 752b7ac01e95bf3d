"""From reward-model metrics to the outcome: correlation, prediction and base-model choice.

Functions of pandas tables; `read_metrics` and `read_outcomes` read such tables from files.
"""

from __future__ import annotations

from rm_cluster.downstream.base_models import compare_base_models, coverage_at_k, stage_deltas
from rm_cluster.downstream.coefficients import critical_r
from rm_cluster.downstream.correlation import correlate, quantile_aggregation
from rm_cluster.downstream.prediction import predict
from rm_cluster.downstream.sources import read_metrics, read_outcomes
from rm_cluster.downstream.tables import match

__all__ = [
    "compare_base_models",
    "correlate",
    "coverage_at_k",
    "critical_r",
    "match",
    "predict",
    "quantile_aggregation",
    "read_metrics",
    "read_outcomes",
    "stage_deltas",
]
