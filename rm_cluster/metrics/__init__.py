"""Metrics on stored rewards: pure functions of tables; every number has an n and an interval."""

from __future__ import annotations

from rm_cluster.metrics.pairwise import accuracy
from rm_cluster.metrics.table import BenchmarkRewards, compare, measure

__all__ = ["BenchmarkRewards", "accuracy", "compare", "measure"]
