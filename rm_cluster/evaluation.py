"""The main job: benchmarks x reward models -> rewards -> metrics with intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rm_cluster.config import EvaluateConfig
from rm_cluster.downstream import correlate, read_outcomes
from rm_cluster.errors import DataFormatError
from rm_cluster.judging import BenchmarkJudged, rewards_table
from rm_cluster.measurement import (
    Plan,
    fail_on_too_many_errors,
    measure_rewards,
    plan_measurements,
)
from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.gains import ensemble_gains
from rm_cluster.metrics.table import compare, measure
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, located_run
from rm_cluster.record import record
from rm_cluster.result import EvalResult
from rm_cluster.snapshot import rejected_rows
from rm_cluster.store import Folder
from rm_cluster.sweeps import read_gap, sweep_tables


def evaluate(config: EvaluateConfig | Mapping[str, Any] | str | Path) -> EvalResult:
    """Score every benchmark with every reward model, and save and return what comes of it.

    Uses the Ray cluster at hand, or starts a local one. What `output_dir` already holds of earlier
    runs is not measured again.

    Args:
        config: An `EvaluateConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration or a model cannot be used.
        DataFormatError: A benchmark cannot be read.
        ScoringError: Replicas failed for good, or, after everything is saved, more than
            `scoring.max_failed_fraction` of the prompts failed.
    """
    run = located_run(parse_config(EvaluateConfig, config))
    started = time.monotonic()
    plan = _plan(run)
    announce(run, run.output_dir)
    found = measure_rewards(run, plan.measurements)
    result = _result(run, plan, found.judged, record(run, found, started))
    rejected = rejected_rows(run.output_dir, found.snapshots)
    Folder(run.output_dir).write_text("rejected_rows.jsonl", rejected)
    result.save(run.output_dir)
    swept = [rewards for judged in found.judged for rewards in judged.swept.values()]
    for scored in (result.scored, rewards_table(swept)):
        fail_on_too_many_errors(run, scored)
    return result


class _Plan(NamedTuple):
    """What is to be measured, and the small tables that results are held against."""

    measurements: Plan
    outcomes: pd.DataFrame | None
    gaps: dict[str, dict[str, float] | None]


def _plan(run: EvaluateConfig) -> _Plan:
    """Open everything but weights and benchmarks, so that what is wrong is told before it runs."""
    measurements = plan_measurements(run)
    return _Plan(
        measurements,
        _outcomes(run, run.downstream) if run.downstream else None,
        {sweep.name: read_gap(sweep) for sweep in measurements.composition.sweeps},
    )


def _outcomes(run: EvaluateConfig, path: str) -> pd.DataFrame:
    """The outcomes, some of which are of reward models of the run."""
    outcomes = read_outcomes(path)
    known = outcomes["reward_model"].unique().tolist()
    if not {model.name for model in run.reward_models} & set(known):
        raise DataFormatError(
            f"downstream: {path} has no outcome of any reward model of this run, but of "
            f"{', '.join(known[:5])}. The names must be equal."
        )
    return outcomes


def _result(
    run: EvaluateConfig, plan: _Plan, judged: Sequence[BenchmarkJudged], about: dict[str, Any]
) -> EvalResult:
    """Compute every table."""
    benchmarks = [found.rewards for found in judged]
    metrics = measure(benchmarks, run.seed)
    gains = ensemble_gains(benchmarks, plan.measurements.composition.ensembles, run.seed)
    swept = [
        sweep_tables(sweep, found.swept[sweep.name], plan.gaps[sweep.name], run.seed)
        for sweep in plan.measurements.composition.sweeps
        for found in judged
        if sweep.name in found.swept
    ]
    outcomes = plan.outcomes
    return EvalResult(
        metrics=metrics,
        scored=rewards_table(benchmarks),
        comparisons=compare(benchmarks, run.seed),
        best_of_k=best_of_k_curves(benchmarks, run.seed),
        ensemble_gains=_together([gains]),
        pair_sweep=_together([tables.pairs for tables in swept]),
        pair_sweep_correlations=_together([tables.correlations for tables in swept]),
        outcomes=outcomes,
        correlations=None if outcomes is None else correlate(metrics, outcomes, run.seed),
        config=run,
        run=about,
    )


def _together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """One table of several; None where there is nothing in them."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else None
