"""From what was measured to rewards: each benchmark's rows beside those of every reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.composition import Composition
from rm_cluster.config.listing import sweep_names
from rm_cluster.imported import SCORES_SCHEMA
from rm_cluster.metrics.table import BenchmarkRewards
from rm_cluster.rewards import Scale
from rm_cluster.snapshot import Snapshot

SCORED_SCHEMA = pa.schema(
    [
        ("reward_model", pa.string()),
        ("benchmark", pa.string()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("slices", pa.list_(pa.string())),
        *SCORES_SCHEMA,
    ]
)


class BenchmarkJudged(NamedTuple):
    """What is known of one benchmark.

    Attributes:
        rewards: Of every reward model.
        scales: By ensemble and member, what made the member's rewards comparable.
        swept: By sweep that covers the benchmark, the sums of log-probs of its models.
    """

    rewards: BenchmarkRewards
    scales: dict[str, dict[str, Scale]]
    swept: dict[str, BenchmarkRewards]


def judge(
    snapshot: Snapshot, rows: pa.Table, composition: Composition, tables: Mapping[str, pa.Table]
) -> BenchmarkJudged:
    """Derive every reward from what was measured or imported.

    Args:
        snapshot: Of the benchmark.
        rows: Its P rows, without their texts.
        composition: What is derived from what.
        tables: By name of what was measured or imported, in the order of the rows.
    """
    derived = composition.derive(tables)
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
    swept = {
        sweep.name: rewards._replace(
            scores={
                name: tables[part]
                for name, part in zip(
                    sweep_names(sweep), composition.parts[sweep.name], strict=True
                )
            }
        )
        for sweep in composition.sweeps
        if sweep.benchmarks is None or rewards.name in sweep.benchmarks
    }
    return BenchmarkJudged(rewards, derived.scales, swept)


def rewards_table(benchmarks: Sequence[BenchmarkRewards]) -> pa.Table:
    """One row per (reward_model, prompt)."""
    tables = [SCORED_SCHEMA.empty_table()]
    for benchmark in benchmarks:
        for name, scores in benchmark.scores.items():
            num = len(scores)
            columns = {
                "reward_model": pa.repeat(name, num),
                "benchmark": pa.repeat(benchmark.name, num),
                "margins": pa.nulls(num, pa.list_(pa.float64())),
            }
            columns |= {key: benchmark.rows[key] for key in ("id", "domain", "slices")}
            columns |= {
                key: scores[key] for key in SCORED_SCHEMA.names if key in scores.schema.names
            }
            table = pa.table({key: columns[key] for key in SCORED_SCHEMA.names})
            tables.append(table.cast(SCORED_SCHEMA))
    return pa.concat_tables(tables)
