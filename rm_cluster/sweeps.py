"""The tables of a pair sweep: accuracy of every ordered pair, and its correlation with the gap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from rm_cluster.config import PairSweepConfig
from rm_cluster.config.listing import sweep_names
from rm_cluster.downstream.sources import read_table
from rm_cluster.downstream.tables import as_numbers, check_columns, check_filled, check_unique
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.gaps import GAP_COLUMNS, correlate_gaps
from rm_cluster.metrics.pair_sweep import PAIR_COLUMNS, sweep_pairs
from rm_cluster.metrics.table import BenchmarkRewards

OWN_ACCURACY = "own accuracy"
SWEEP_COLUMNS = ("pair_sweep", *PAIR_COLUMNS, "gap")
SWEEP_CORRELATION_COLUMNS = ("pair_sweep", "gap", *GAP_COLUMNS)


class SweepTables(NamedTuple):
    """What a sweep comes to on one benchmark.

    Attributes:
        pairs: `SWEEP_COLUMNS`: each ordered pair of each domain; `gap` is strong less weak.
        correlations: `SWEEP_CORRELATION_COLUMNS`; `gap` says what the models' values are.
    """

    pairs: pd.DataFrame
    correlations: pd.DataFrame


def read_gap(sweep: PairSweepConfig) -> dict[str, float] | None:
    """How good each model is by the user's table; None where there is none.

    Raises:
        ConfigError: There is no such file.
        DataFormatError: It is no table of numbers by model, or lacks a model.
    """
    if sweep.gap is None:
        return None
    table, column = read_table(sweep.gap), sweep.gap_column
    check_columns(table, "gap", ["model", column])
    check_filled(table, "gap", ["model"])
    check_unique(table, "gap", ["model"])
    values = dict(zip(table["model"].astype(str), as_numbers(table, "gap", column), strict=True))
    missing = [name for name in sweep_names(sweep) if not np.isfinite(values.get(name, np.nan))]
    if missing:
        raise DataFormatError(
            f"{sweep.gap} has no {column} for {missing[0]!r} ({len(missing)} such models of "
            f"{sweep.name}); its models are {', '.join(map(repr, list(values)[:20]))}."
        )
    return {name: float(values[name]) for name in sweep_names(sweep)}


def sweep_tables(
    sweep: PairSweepConfig,
    benchmark: BenchmarkRewards,
    values: dict[str, float] | None,
    seed: int,
) -> SweepTables:
    """Evaluate every ordered pair, and correlate its accuracy with its gap.

    Args:
        sweep: What is asked for.
        benchmark: `scores` are the sums of log-probs by the sweep's names of its models.
        values: Of `read_gap`. Where None, the value of a model is its own accuracy as a log-prob
            reward model (under the sweep's `normalize`), over all comparisons of the benchmark.
        seed: Of all draws.
    """
    swept = sweep_pairs(benchmark, sweep.normalize, seed)
    value = swept.own_accuracy if values is None else values
    gap = swept.pairs["strong"].map(value) - swept.pairs["weak"].map(value)
    source = OWN_ACCURACY if values is None else sweep.gap_column
    correlations = correlate_gaps(swept.pairs, value, seed)
    return SweepTables(
        swept.pairs.assign(pair_sweep=sweep.name, gap=gap.astype(float))[list(SWEEP_COLUMNS)],
        correlations.assign(pair_sweep=sweep.name, gap=source)[list(SWEEP_CORRELATION_COLUMNS)],
    )
