"""The measuring half of the jobs: benchmarks x reward models -> a table of rewards for each.

Some models do not see the rows as they stand. A judge is asked questions about them
(`scorers/questions.py`), and a prompt may be customized. What such a model sees
is laid down as a snapshot of its own, so that everything after that is measured and stored alike.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rm_cluster.benchmarks.rows import without_replies
from rm_cluster.benchmarks.source import find_files
from rm_cluster.composition import Composition, compose
from rm_cluster.config import (
    EvaluateConfig,
    ImportedConfig,
    JudgeConfig,
    LogprobConfig,
    RouterConfig,
)
from rm_cluster.errors import DataFormatError, ScoringError
from rm_cluster.imported import Scores, find_score_files, import_scores
from rm_cluster.judging import BenchmarkJudged, judge
from rm_cluster.preparing import take_snapshots
from rm_cluster.scorers import (
    AnyScorerConfig,
    Classifier,
    Logprob,
    Router,
    Scorer,
    build_scorer,
)
from rm_cluster.scorers.customization import Customizer
from rm_cluster.scorers.pretrained import pinned
from rm_cluster.scorers.questions import answers, question_rows
from rm_cluster.scorers.router import UNKNOWN
from rm_cluster.scoring import Measured, lost, score, stored_rewards
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rewrite_snapshot
from rm_cluster.store import StoredRewards
from rm_cluster.types import Row

logger = logging.getLogger(__name__)

Rewrite = Callable[[Row], list[Row]]
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
        asked: By name of what was measured and benchmark, counts of what a judge answered, or of
            the domains that prompts were customized for.
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
    measured = {name: pinned(config) for name, config in composition.measured.items()}
    composition = composition._replace(measured=measured)
    scorers = {name: build_scorer(c, run.scoring) for name, c in composition.measured.items()}
    for benchmark in run.benchmarks:
        if benchmark.path is not None:
            find_files(benchmark.path, benchmark.split)
    for model in composition.imported:
        find_score_files(model)
    for config in composition.measured.values():
        if isinstance(config, LogprobConfig) and config.customize is not None:
            routing = config.customize.routing()
            if routing is not None:
                Router(**routing.model_dump())
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
    views: dict[str, dict[str, Snapshot]] = {}
    measured: dict[str, Measured] = {}
    asked: dict[str, dict[str, Counts]] = {}
    with connect():
        snapshots = take_snapshots(run.benchmarks, run.limit, run.output_dir)
        for name, config in composition.measured.items():
            needed = composition.benchmarks(name, [s.benchmark.name for s in snapshots])
            rows = [snapshot for snapshot in snapshots if snapshot.benchmark.name in needed]
            views[name], asked[name] = _seen(run, name, config, rows)
            measured[name] = score(config, plan.scorers[name], list(views[name].values()), run)
    imported = {model.name: _import(model, snapshots) for model in composition.imported}
    benchmarks = [(snapshot, snapshot.table()) for snapshot in snapshots]
    tables = [{name: its[i].table for name, its in imported.items()} for i in range(len(snapshots))]
    for name, config in composition.measured.items():
        stored = stored_rewards(run, plan.scorers[name])  # of one at a time: there may be millions
        for into, (snapshot, rows) in zip(tables, benchmarks, strict=True):
            benchmark = snapshot.benchmark.name
            view = views[name].get(benchmark)
            if view is None:  # of this benchmark it was asked nothing
                found = stored.lookup(rows["content"])
            else:
                found = looked_up(stored, view.content(), name, run)
            if isinstance(config, JudgeConfig):
                found, asked[name][benchmark] = answers(config, rows, found)
            into[name] = found
        del stored
    pa.default_memory_pool().release_unused()  # or what the lookups needed would stay
    judged = [
        judge(snapshot, rows.drop_columns("content"), composition, scores)
        for (snapshot, rows), scores in zip(benchmarks, tables, strict=True)
    ]
    return Measurements(plan, snapshots, judged, measured, imported, asked)


def looked_up(stored: StoredRewards, content: pa.Array, name: str, run: EvaluateConfig) -> pa.Table:
    """What is stored of each prompt group; after a run that is rewards or an error.

    Raises:
        ScoringError: There is neither.
    """
    found = stored.lookup(content)
    nothing = pc.and_(found["values"].is_null(), found["error"].is_null())
    if pc.any(nothing).as_py():
        raise lost(name, pc.sum(nothing).as_py(), run.output_dir)
    return found


def fail_on_too_many_errors(run: EvaluateConfig, scored: pa.Table) -> None:
    """End a run, after everything is saved, in which too many prompts failed.

    Args:
        run: Says how many are too many.
        scored: As of `rewards_table`.

    Raises:
        ScoringError: More than `scoring.max_failed_fraction` of a reward model's did.
    """
    allowed = run.scoring.max_failed_fraction
    kinds = {model.name: type(model) for model in run.reward_models}
    for name in scored["reward_model"].unique().to_pylist():
        its = scored.filter(pc.equal(scored["reward_model"], name))
        failed = its.filter(its["error"].is_valid())
        if len(failed) > allowed * len(its):
            first = failed.slice(0, 1).to_pylist()[0]
            advice = "to admit them raise the fraction."
            if kinds.get(name) is not ImportedConfig:
                advice = f"running again tries the failed ones again; {advice}"
                if kinds.get(name) is not JudgeConfig:  # whose questions are never cut
                    advice += " To cut long prompts set scoring.truncation=left_prompt."
            raise ScoringError(
                f"{name}: {len(failed)} of {len(its)} prompts failed, more than "
                f"scoring.max_failed_fraction={allowed:g}; the first is {first['benchmark']} "
                f"{first['id']!r}: {first['error']}\n"
                f"Everything is saved in {run.output_dir}; {advice}"
            )


def _seen(
    run: EvaluateConfig, name: str, config: AnyScorerConfig, snapshots: Sequence[Snapshot]
) -> tuple[dict[str, Snapshot], dict[str, Counts]]:
    """What a model sees of each benchmark, and counts of what was asked to find that out."""
    rewrites: list[Rewrite] = []
    counts: dict[str, Counts] = {}
    if isinstance(config, JudgeConfig):
        rewrites = [_questions(config)] * len(snapshots)
    elif isinstance(config, LogprobConfig) and config.customize is not None:
        customizer = Customizer(config.customize)
        domains = _domains(run, customizer, config.customize.routing(), snapshots)
        rewrites = [_customized(customizer, its) for its, _ in domains]
        counts = {
            snapshot.benchmark.name: {**Counter(its), "n_unrouted": unrouted}
            for snapshot, (its, unrouted) in zip(snapshots, domains, strict=True)
        }
    else:
        return {snapshot.benchmark.name: snapshot for snapshot in snapshots}, {}
    views = {
        snapshot.benchmark.name: rewrite_snapshot(snapshot, name, rewrite, run.output_dir)
        for snapshot, rewrite in zip(snapshots, rewrites, strict=True)
    }
    return views, counts


def _questions(config: JudgeConfig) -> Rewrite:
    return lambda row: question_rows(config, row)


def _customized(customizer: Customizer, domains: Sequence[str]) -> Rewrite:
    """Customizes rows for these domains, in their order."""
    following = iter(domains)
    return lambda row: [customizer.customized(row, next(following))]


def _domains(
    run: EvaluateConfig,
    customizer: Customizer,
    routing: RouterConfig | None,
    snapshots: Sequence[Snapshot],
) -> list[tuple[list[str], int]]:
    """By benchmark, the domains of its rows, and how many a router could not tell."""
    if routing is None:
        return [
            ([customizer.domain_of(row) for row in s.table(("domain", "slices")).to_pylist()], 0)
            for s in snapshots
        ]
    routing = pinned(routing)
    router = Router(**routing.model_dump())
    prompts = [
        rewrite_snapshot(snapshot, f"router {routing.name}", _prompt, run.output_dir)
        for snapshot in snapshots
    ]
    score(routing, router, prompts, run)
    stored = stored_rewards(run, router)
    found = []
    for view in prompts:
        routed = looked_up(stored, view.content(), routing.name, run)
        positions = [value[0] if value else UNKNOWN for value in routed["values"].to_pylist()]
        found.append((list(map(router.domain, positions)), positions.count(UNKNOWN)))
    return found


def _prompt(row: Row) -> list[Row]:
    """The row without replies, of which a router sees nothing."""
    return [without_replies(row)]


def _import(model: ImportedConfig, snapshots: Sequence[Snapshot]) -> list[Scores]:
    """By benchmark, what files say of a reward model; they must say something of one."""
    found = []
    for snapshot in snapshots:
        rows = snapshot.table(("id", "num_completions", "pairs", "metadata"))
        scores = import_scores(model, snapshot.benchmark, rows)
        logger.info(
            "%s: %d scores read for %s, %d of no row there",
            model.name,
            scores.num_records,
            snapshot.benchmark.name,
            scores.num_unmatched,
        )
        found.append(scores)
    if not any(scores.num_matched for scores in found):
        names = ", ".join(snapshot.benchmark.name for snapshot in snapshots)
        num_records = sum(scores.num_records for scores in found)
        row = snapshots[0].table(("id",))["id"][0].as_py()
        raise DataFormatError(
            f"{model.path} has no score for any row of {names} ({num_records} records read). A "
            f"record says by `id` of which row it is, such as {row!r}; its column `benchmark`, if "
            "there is one, must name one of these."
        )
    return found
