"""Evaluate reward models for RLHF on a Ray cluster of any size.

Importing the package loads neither torch nor Ray; each name does so when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm_cluster import best_of_n, downstream, metrics
    from rm_cluster.annotation import annotate
    from rm_cluster.benchmarks import load_benchmark
    from rm_cluster.config import (
        AnnotateConfig,
        CorrelateConfig,
        EvaluateConfig,
        GenerateConfig,
        SearchConfig,
    )
    from rm_cluster.downstream import correlate
    from rm_cluster.errors import RMClusterError
    from rm_cluster.evaluation import evaluate
    from rm_cluster.generation import generate
    from rm_cluster.parity import doctor
    from rm_cluster.result import EvalResult, load_result
    from rm_cluster.scorers import (
        Classifier,
        Embedding,
        Ensemble,
        Generator,
        Judge,
        Length,
        Logprob,
        LogRatio,
    )
    from rm_cluster.search_result import SearchResult
    from rm_cluster.searching.job import search

__all__ = [
    "AnnotateConfig",
    "Classifier",
    "CorrelateConfig",
    "Embedding",
    "Ensemble",
    "EvalResult",
    "EvaluateConfig",
    "GenerateConfig",
    "Generator",
    "Judge",
    "Length",
    "LogRatio",
    "Logprob",
    "RMClusterError",
    "SearchConfig",
    "SearchResult",
    "annotate",
    "best_of_n",
    "correlate",
    "doctor",
    "downstream",
    "evaluate",
    "generate",
    "load_benchmark",
    "load_result",
    "metrics",
    "search",
]

_HOMES = {
    "AnnotateConfig": "config",
    "Classifier": "scorers",
    "CorrelateConfig": "config",
    "Embedding": "scorers",
    "Ensemble": "scorers",
    "EvalResult": "result",
    "EvaluateConfig": "config",
    "GenerateConfig": "config",
    "Generator": "scorers",
    "Judge": "scorers",
    "Length": "scorers",
    "LogRatio": "scorers",
    "Logprob": "scorers",
    "RMClusterError": "errors",
    "SearchConfig": "config",
    "SearchResult": "search_result",
    "annotate": "annotation",
    "correlate": "downstream",
    "doctor": "parity",
    "evaluate": "evaluation",
    "generate": "generation",
    "load_benchmark": "benchmarks",
    "load_result": "result",
    "search": "searching.job",
}


def __getattr__(name: str) -> Any:
    if name in ("best_of_n", "downstream", "metrics"):
        return importlib.import_module(f"rm_cluster.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rm_cluster' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rm_cluster.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
