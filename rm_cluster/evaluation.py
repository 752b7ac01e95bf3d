"""The main job: benchmarks x reward models -> rewards -> metrics with intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rm_cluster.config import EvaluateConfig
from rm_cluster.downstream import correlate, read_outcomes
from rm_cluster.measurement import (
    fail_on_too_many_errors,
    measure_rewards,
    plan_measurements,
    rewards_frame,
)
from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.table import compare, measure
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, located_run
from rm_cluster.record import record
from rm_cluster.result import EvalResult
from rm_cluster.snapshot import rejected_rows
from rm_cluster.store import Folder


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
    outcomes = read_outcomes(run.downstream) if run.downstream else None
    plan = plan_measurements(run)
    announce(run, run.output_dir)
    measured = measure_rewards(run, plan)
    benchmarks = measured.benchmarks
    metrics = measure(benchmarks, run.seed)
    result = EvalResult(
        metrics=metrics,
        rewards=rewards_frame(benchmarks),
        comparisons=compare(benchmarks, run.seed),
        best_of_k=best_of_k_curves(benchmarks, run.seed),
        outcomes=outcomes,
        correlations=None if outcomes is None else correlate(metrics, outcomes, run.seed),
        config=run,
        run=record(run, measured, started),
    )
    rejected = rejected_rows(run.output_dir, measured.snapshots)
    Folder(run.output_dir).write_text("rejected_rows.jsonl", rejected)
    result.save(run.output_dir)
    fail_on_too_many_errors(run, result.rewards)
    return result
