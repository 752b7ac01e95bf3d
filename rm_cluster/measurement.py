"""The measuring half of the jobs: benchmarks x reward models -> a table of rewards for each.

Some models do not see the rows as they stand. A judge is asked questions about them
(`scorers/questions.py`), and a prompt may be customized. What such a model sees
is laid down as a snapshot of its own, so that everything after that is measured and stored alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from rm_cluster.benchmarks.source import find_files
from rm_cluster.composition import Composition, compose
from rm_cluster.config import EvaluateConfig, ImportedConfig, JudgeConfig
from rm_cluster.errors import ScoringError
from rm_cluster.imported import Scores, find_score_files, import_scores
from rm_cluster.judging import BenchmarkJudged, judge
from rm_cluster.preparing import take_snapshots
from rm_cluster.scorers import AnyScorerConfig, Classifier, Logprob, Scorer, build_scorer
from rm_cluster.scorers.questions import answers, question_rows
from rm_cluster.scoring import Measured, score, stored_rewards
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rewrite_snapshot
from rm_cluster.types import Row

logger = logging.getLogger(__name__)

Rewrite = Callable[[Sequence[Row]], list[Row]]
Counts = dict[str, int]


class Plan(NamedTuple):
    """What is to be measured, and by what."""

    composition: Composition
    scorers: dict[str, Scorer]
    """By name of what is measured."""


class Measurements(NamedTuple):
    """What was measured or imported, and what came of it.

    Attributes:
        plan: What was to be measured.
        snapshots: The benchmarks' rows.
        judged: The rewards of every reward model, in the same order.
        measured: By name of what was measured, what the measuring came to.
        imported: By reward model that was not run, what was read for each benchmark.
        asked: By judge and benchmark, counts of its answers.
    """

    plan: Plan
    snapshots: list[Snapshot]
    judged: list[BenchmarkJudged]
    measured: dict[str, Measured]
    imported: dict[str, list[Scores]]
    asked: dict[str, dict[str, Counts]]


def plan_measurements(run: EvaluateConfig) -> Plan:
    """Find out what is to be measured, and tell whatever can be told before anything starts.

    Raises:
        ConfigError: A reward model cannot be used.
        DataFormatError: There are no files where a benchmark or scores should be.
    """
    composition = compose(run.reward_models)
    scorers = {name: build_scorer(c, run.scoring) for name, c in composition.measured.items()}
    for benchmark in run.benchmarks:
        if benchmark.path is not None:
            find_files(benchmark.path)
    for model in composition.imported:
        find_score_files(model)
    for scorer in scorers.values():
        if isinstance(scorer, Classifier | Logprob) and scorer.notice:
            logger.warning(scorer.notice)
    return Plan(composition, scorers)


def measure_rewards(run: EvaluateConfig, plan: Plan) -> Measurements:
    """Measure whatever `run.output_dir` lacks, and bring all rewards in line with the rows.

    Uses the Ray cluster at hand, or starts a local one.

    Raises:
        ConfigError: A model cannot be loaded.
        DataFormatError: A benchmark or imported scores cannot be read.
        ScoringError: Replicas failed for good.
    """
    composition = plan.composition
    seen: dict[str, dict[str, Snapshot]] = {}
    measured: dict[str, Measured] = {}
    with connect():
        snapshots = take_snapshots(run.benchmarks, run.limit, run.output_dir)
        for name, config in composition.measured.items():
            seen[name] = _seen(run, composition, name, config, snapshots)
            views = list(seen[name].values())
            measured[name] = score(config, plan.scorers[name], views, run)
    imported = {
        model.name: [_import(model, snapshot) for snapshot in snapshots]
        for model in composition.imported
    }
    stored = {name: stored_rewards(run, scorer) for name, scorer in plan.scorers.items()}
    judged = []
    asked: dict[str, dict[str, Counts]] = {}
    for i, snapshot in enumerate(snapshots):
        rows = snapshot.table()
        benchmark = snapshot.benchmark.name
        tables = {name: scores[i].table for name, scores in imported.items()}
        for name, config in composition.measured.items():
            view = seen[name].get(benchmark)
            found = stored[name].lookup((rows if view is None else view.table())["content"])
            if isinstance(config, JudgeConfig):
                found, asked.setdefault(name, {})[benchmark] = answers(config, rows, found)
            tables[name] = found
        judged.append(judge(snapshot, rows, composition, tables))
    return Measurements(plan, snapshots, judged, measured, imported, asked)


def fail_on_too_many_errors(run: EvaluateConfig, rewards: pd.DataFrame) -> None:
    """End a run, after everything is saved, in which too many prompts failed.

    Args:
        run: Says how many are too many.
        rewards: As of `rewards_frame`.

    Raises:
        ScoringError: More than `scoring.max_failed_fraction` of a reward model's did.
    """
    allowed = run.scoring.max_failed_fraction
    for name, its in rewards.groupby("reward_model", sort=False):
        failed = its[its["error"].notna()]
        if len(failed) > allowed * len(its):
            first = failed.iloc[0]
            raise ScoringError(
                f"{name}: {len(failed)} of {len(its)} prompts failed, more than "
                f"scoring.max_failed_fraction={allowed:g}; the first is {first['benchmark']} "
                f"{first['id']!r}: {first['error']}\nEverything is saved in {run.output_dir}; "
                "running again tries the failed ones again. To admit them raise the fraction; "
                "to cut long prompts set scoring.truncation=left_prompt."
            )


def _seen(
    run: EvaluateConfig,
    composition: Composition,
    name: str,
    config: AnyScorerConfig,
    snapshots: Sequence[Snapshot],
) -> dict[str, Snapshot]:
    """By benchmark that is needed of a model, the rows that it sees."""
    needed = composition.benchmarks(name, [snapshot.benchmark.name for snapshot in snapshots])
    found = {s.benchmark.name: s for s in snapshots if s.benchmark.name in needed}
    if isinstance(config, JudgeConfig):
        rewrite = _questions(config)
        found = {
            benchmark: rewrite_snapshot(snapshot, name, rewrite, run.output_dir)
            for benchmark, snapshot in found.items()
        }
    return found


def _questions(config: JudgeConfig) -> Rewrite:
    return lambda rows: [question for row in rows for question in question_rows(config, row)]


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
