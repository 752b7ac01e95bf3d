"""The main job: benchmarks x reward models -> rewards -> metrics with intervals."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rm_cluster.benchmarks.source import find_files
from rm_cluster.composition import Composition, compose
from rm_cluster.config import EvaluateConfig, ImportedConfig
from rm_cluster.config.listing import absolute, located
from rm_cluster.downstream import correlate, read_outcomes
from rm_cluster.errors import ConfigError, RMClusterError, ScoringError
from rm_cluster.imported import Scores, find_score_files, import_scores
from rm_cluster.judging import BenchmarkJudged, judge, rewards_frame
from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.gains import ensemble_gains
from rm_cluster.metrics.table import compare, measure
from rm_cluster.parsing import parse_config
from rm_cluster.record import record
from rm_cluster.result import EvalResult
from rm_cluster.scorers import Classifier, Logprob, build_scorer
from rm_cluster.scorers.scorer import Scorer
from rm_cluster.scoring import score, stored_rewards
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rejected_rows, take_snapshot
from rm_cluster.store import Folder
from rm_cluster.sweeps import read_gap, sweep_tables

logger = logging.getLogger(__name__)


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
    run = _absolute(parse_config(EvaluateConfig, config))
    started = time.monotonic()
    plan = _plan(run)
    composition, scorers = plan.composition, plan.scorers
    _announce(run)
    with connect():
        snapshots = _snapshots(run)
        measured = {
            name: score(config, scorers[name], _needed(composition, name, snapshots), run)
            for name, config in composition.measured.items()
        }
    read = {m.name: [_import(m, snapshot) for snapshot in snapshots] for m in composition.imported}
    stored = {name: stored_rewards(run, scorer) for name, scorer in scorers.items()}
    judged = [
        judge(snapshot, composition, stored, {name: its[i].table for name, its in read.items()})
        for i, snapshot in enumerate(snapshots)
    ]
    about = record(run, snapshots, judged, composition, scorers, measured, read, started)
    result = _result(run, plan, judged, about)
    Folder(run.output_dir).write_text(
        "rejected_rows.jsonl", rejected_rows(run.output_dir, snapshots)
    )
    result.save(run.output_dir)
    for members in (result.rewards, rewards_frame([r for j in judged for r in j.swept.values()])):
        _fail_on_too_many_errors(run, members)
    return result


class _Plan(NamedTuple):
    """What is to be done, and the small tables that it takes."""

    composition: Composition
    scorers: dict[str, Scorer]
    outcomes: pd.DataFrame | None
    gaps: dict[str, dict[str, float] | None]


def _plan(run: EvaluateConfig) -> _Plan:
    """Open everything but weights and benchmarks, so that what is wrong is told before it runs."""
    composition = compose(run.reward_models)
    plan = _Plan(
        composition,
        {name: build_scorer(c, run.scoring) for name, c in composition.measured.items()},
        read_outcomes(run.downstream) if run.downstream else None,
        {sweep.name: read_gap(sweep) for sweep in composition.sweeps},
    )
    for benchmark in run.benchmarks:
        if benchmark.path is not None:
            find_files(benchmark.path)
    for model in composition.imported:
        find_score_files(model)
    for scorer in plan.scorers.values():
        if isinstance(scorer, Classifier | Logprob) and scorer.notice:
            logger.warning(scorer.notice)
    return plan


def _result(
    run: EvaluateConfig, plan: _Plan, judged: Sequence[BenchmarkJudged], about: dict[str, Any]
) -> EvalResult:
    """Compute every table."""
    benchmarks = [found.rewards for found in judged]
    metrics = measure(benchmarks, run.seed)
    gains = ensemble_gains(benchmarks, plan.composition.ensembles, run.seed)
    swept = [
        sweep_tables(sweep, found.swept[sweep.name], plan.gaps[sweep.name], run.seed)
        for sweep in plan.composition.sweeps
        for found in judged
        if sweep.name in found.swept
    ]
    outcomes = plan.outcomes
    return EvalResult(
        metrics=metrics,
        rewards=rewards_frame(benchmarks),
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


def _announce(run: EvaluateConfig) -> None:
    """Write the resolved config first, so that an output folder that cannot be used is told now.

    A result of an earlier run is no longer one: its `run.json` goes.
    """
    folder = Folder(run.output_dir)
    try:
        folder.remove("run.json")
        folder.write_text("config.yaml", run.to_yaml())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"Cannot write to output_dir {run.output_dir!r}: {error}") from None


def _snapshots(run: EvaluateConfig) -> list[Snapshot]:
    """Read all benchmarks at once, on the driver's node, where local files are."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    task = ray.remote(take_snapshot).options(num_cpus=0, scheduling_strategy=here)
    pending = [task.remote(benchmark, run.limit, run.output_dir) for benchmark in run.benchmarks]
    try:
        snapshots: list[Snapshot] = ray.get(pending)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, RMClusterError) else error) from None
    for snapshot in snapshots:
        if Folder(snapshot.url).names() != snapshot.windows:
            raise ConfigError(
                f"output_dir={run.output_dir!r} is not the same folder on every node. Use a shared "
                "file system or a URL such as s3://bucket/run."
            )
        logger.info(
            "%s: %d prompts, %d rows set aside",
            snapshot.benchmark.name,
            snapshot.num_rows,
            snapshot.num_rejected,
        )
    return snapshots


def _import(model: ImportedConfig, snapshot: Snapshot) -> Scores:
    rows = snapshot.table(("id", "num_completions", "pairs", "metadata"))
    scores = import_scores(model, snapshot.benchmark, rows)
    logger.info(
        "%s: %d scores read for %s, %d of no row there",
        model.name,
        scores.num_records,
        snapshot.benchmark.name,
        scores.num_unmatched,
    )
    return scores


def _needed(composition: Composition, name: str, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    names = composition.benchmarks(name, [snapshot.benchmark.name for snapshot in snapshots])
    return [snapshot for snapshot in snapshots if snapshot.benchmark.name in names]


def _together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """One table of several; None where there is nothing in them."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else None


def _fail_on_too_many_errors(run: EvaluateConfig, all_rewards: pd.DataFrame) -> None:
    allowed = run.scoring.max_failed_fraction
    for name, rewards in all_rewards.groupby("reward_model", sort=False):
        failed = rewards[rewards["error"].notna()]
        if len(failed) > allowed * len(rewards):
            first = failed.iloc[0]
            raise ScoringError(
                f"{name}: {len(failed)} of {len(rewards)} prompts failed, more than "
                f"scoring.max_failed_fraction={allowed:g}; the first is {first['benchmark']} "
                f"{first['id']!r}: {first['error']}\nEverything is saved in {run.output_dir}; "
                "running again tries the failed ones again. To admit them raise the fraction; "
                "to cut long prompts set scoring.truncation=left_prompt."
            )


def _absolute(run: EvaluateConfig) -> EvaluateConfig:
    """Local paths as they are seen from here, for processes that run elsewhere."""
    benchmarks = [b.model_copy(update={"path": absolute(b.path)}) for b in run.benchmarks]
    remote = "://" in run.output_dir
    output_dir = run.output_dir if remote else os.path.abspath(run.output_dir)
    return run.model_copy(
        update={
            "reward_models": located(run.reward_models),
            "benchmarks": benchmarks,
            "downstream": absolute(run.downstream),
            "output_dir": output_dir,
        }
    )
