"""The main job: benchmarks x reward models -> rewards -> metrics with intervals."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.benchmarks.source import find_files
from rm_cluster.composition import Composition, compose
from rm_cluster.config import EvaluateConfig, ImportedConfig
from rm_cluster.config.listing import absolute, located
from rm_cluster.downstream import correlate, read_outcomes
from rm_cluster.errors import ScoringError
from rm_cluster.imported import Scores, find_score_files, import_scores
from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.table import BenchmarkRewards, compare, measure
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, output_folder, take_snapshots
from rm_cluster.record import record
from rm_cluster.result import EvalResult
from rm_cluster.rewards import Scale
from rm_cluster.scorers import Classifier, Logprob, build_scorer
from rm_cluster.scoring import score, stored_rewards
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rejected_rows
from rm_cluster.store import Folder, StoredRewards

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
    composition = compose(run.reward_models)
    scorers = {name: build_scorer(c, run.scoring) for name, c in composition.measured.items()}
    outcomes = read_outcomes(run.downstream) if run.downstream else None
    for benchmark in run.benchmarks:
        if benchmark.path is not None:
            find_files(benchmark.path)  # a wrong path is told before anything starts
    for model in composition.imported:
        find_score_files(model)
    for scorer in scorers.values():
        if isinstance(scorer, Classifier | Logprob) and scorer.notice:
            logger.warning(scorer.notice)
    announce(run, run.output_dir)
    with connect():
        snapshots = take_snapshots(run.benchmarks, run.limit, run.output_dir)
        measured = {
            name: score(config, scorers[name], _needed(composition, name, snapshots), run)
            for name, config in composition.measured.items()
        }
    read = {m.name: [_import(m, snapshot) for snapshot in snapshots] for m in composition.imported}
    stored = {name: stored_rewards(run, scorer) for name, scorer in scorers.items()}
    found = [
        _benchmark_rewards(
            snapshot, composition, stored, {name: scores[i].table for name, scores in read.items()}
        )
        for i, snapshot in enumerate(snapshots)
    ]
    benchmarks = [rewards for rewards, _ in found]
    metrics = measure(benchmarks, run.seed)
    result = EvalResult(
        metrics=metrics,
        rewards=_rewards_frame(benchmarks),
        comparisons=compare(benchmarks, run.seed),
        best_of_k=best_of_k_curves(benchmarks, run.seed),
        outcomes=outcomes,
        correlations=None if outcomes is None else correlate(metrics, outcomes, run.seed),
        config=run,
        run=record(
            run, snapshots, benchmarks, composition, scorers, measured, read,
            [scales for _, scales in found], started,
        ),
    )  # fmt: skip
    Folder(run.output_dir).write_text(
        "rejected_rows.jsonl", rejected_rows(run.output_dir, snapshots)
    )
    result.save(run.output_dir)
    _fail_on_too_many_errors(run, result)
    return result


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


def _benchmark_rewards(
    snapshot: Snapshot,
    composition: Composition,
    stored: Mapping[str, StoredRewards],
    imported: Mapping[str, pa.Table],
) -> tuple[BenchmarkRewards, dict[str, dict[str, Scale]]]:
    """Bring the rewards of every reward model in line with the benchmark's rows."""
    rows = snapshot.table()
    measured = {name: scores.lookup(rows["content"]) for name, scores in stored.items()}
    derived = composition.derive({**imported, **measured})
    benchmark = BENCHMARKS[snapshot.benchmark.type]
    rewards = BenchmarkRewards(
        name=snapshot.benchmark.name,
        rows=rows,
        scores=derived.tables,
        official=benchmark.official,
        cluster=benchmark.cluster,
        joint=benchmark.joint,
        groups=benchmark.groups,
        headlines=benchmark.headlines,
    )
    return rewards, derived.scales


def _rewards_frame(benchmarks: Sequence[BenchmarkRewards]) -> pd.DataFrame:
    """One row per (reward_model, prompt)."""
    frames = []
    for benchmark in benchmarks:
        for name, scores in benchmark.scores.items():
            table = pa.table(
                {
                    "reward_model": pa.array([name] * len(scores)),
                    "benchmark": pa.array([benchmark.name] * len(scores)),
                    **{column: benchmark.rows[column] for column in ("id", "domain", "slices")},
                    **{
                        column: scores[column]
                        for column in ("values", "num_tokens", "truncated", "error")
                    },
                    "margins": scores["margins"]
                    if "margins" in scores.column_names
                    else pa.nulls(len(scores), pa.list_(pa.float64())),
                }
            )
            frames.append(table.to_pandas())
    rewards: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return rewards


def _fail_on_too_many_errors(run: EvaluateConfig, result: EvalResult) -> None:
    allowed = run.scoring.max_failed_fraction
    for name, rewards in result.rewards.groupby("reward_model", sort=False):
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
    return run.model_copy(
        update={
            "reward_models": located(run.reward_models),
            "benchmarks": benchmarks,
            "downstream": absolute(run.downstream),
            "output_dir": output_folder(run.output_dir),
        }
    )
