"""Evaluate reward models for RLHF on a Ray cluster of any size.

Importing the package loads neither torch nor Ray; each name does so when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm_cluster import best_of_n, downstream, metrics
    from rm_cluster.benchmarks import load_benchmark
    from rm_cluster.config import CorrelateConfig, EvaluateConfig
    from rm_cluster.downstream import correlate
    from rm_cluster.errors import RMClusterError
    from rm_cluster.evaluation import evaluate
    from rm_cluster.result import EvalResult, load_result
    from rm_cluster.scorers import (
        Classifier,
        Embedding,
        Generator,
        Length,
        Logprob,
        LogRatio,
    )

__all__ = [
    "Classifier",
    "CorrelateConfig",
    "Embedding",
    "EvalResult",
    "EvaluateConfig",
    "Generator",
    "Length",
    "LogRatio",
    "Logprob",
    "RMClusterError",
    "best_of_n",
    "correlate",
    "downstream",
    "evaluate",
    "load_benchmark",
    "load_result",
    "metrics",
]

_HOMES = {
    "Classifier": "scorers",
    "CorrelateConfig": "config",
    "Embedding": "scorers",
    "EvalResult": "result",
    "EvaluateConfig": "config",
    "Generator": "scorers",
    "Length": "scorers",
    "LogRatio": "scorers",
    "Logprob": "scorers",
    "RMClusterError": "errors",
    "correlate": "downstream",
    "evaluate": "evaluation",
    "load_benchmark": "benchmarks",
    "load_result": "result",
}


def __getattr__(name: str) -> Any:
    if name in ("best_of_n", "downstream", "metrics"):
        return importlib.import_module(f"rm_cluster.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rm_cluster' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rm_cluster.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
