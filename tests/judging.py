"""Rows with given rewards, judged without any model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rm_cluster.metrics.judged import Judged
from rm_cluster.snapshot import JUDGED_COLUMNS
from rm_cluster.types import ROW_SCHEMA, Row


def rows_table(rows: Sequence[Row]) -> pa.Table:
    table = pa.Table.from_pylist(list(rows), schema=ROW_SCHEMA)
    return table.select([name for name in JUDGED_COLUMNS if name in table.column_names])


def scores_table(rewards: Sequence[Sequence[float] | None]) -> pa.Table:
    return pa.table(
        {
            "values": pa.array(rewards, pa.list_(pa.float64())),
            "truncated": pa.array(
                [None if values is None else [False] * len(values) for values in rewards],
                pa.list_(pa.bool_()),
            ),
        }
    )


def judge_pairs(rows: Sequence[Row], margins: Sequence[Sequence[float]]) -> Judged:
    """By one that only compares pairs, in the order of the rows'; nan is undecided."""
    unrated = scores_table([[math.nan] * len(row["completions"]) for row in rows])
    stated = pa.array(margins, pa.list_(pa.float64()))
    return Judged.of(rows_table(rows), unrated.append_column("margins", stated))


def judge(rows: Sequence[Row], rewards: Sequence[Sequence[float] | None]) -> Judged:
    return Judged.of(rows_table(rows), scores_table(rewards))


def values(means: dict[tuple[str, str], Any]) -> dict[tuple[str, str], float]:
    """The value of every metric, without its interval."""
    return {
        key: sum(mean.weight * mean.sums.sum() / mean.counts.sum() for mean in terms)
        for key, terms in means.items()
    }
