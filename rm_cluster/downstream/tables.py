"""The two tables that correlations start from: metrics of reward models, and outcomes of policies.

What is wrong with a table is told before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.table import LOWER_IS_BETTER

METRIC_KEYS = ["benchmark", "domain", "metric"]


class Matching(NamedTuple):
    """Which reward models the tables share by name, and which stand in one of them only."""

    shared: list[str]
    only_in_metrics: list[str]
    only_in_downstream: list[str]


def match(metrics: pd.DataFrame, downstream: pd.DataFrame) -> Matching:
    """Compare the reward models of the metrics with those of the outcomes, in table order."""
    measured, trained = (
        [str(name) for name in checked["reward_model"].unique()]
        for checked in (check_metrics(metrics), check_downstream(downstream))
    )
    return Matching(
        shared=[name for name in measured if name in trained],
        only_in_metrics=[name for name in measured if name not in trained],
        only_in_downstream=[name for name in trained if name not in measured],
    )


def check_metrics(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics with `value` as floats.

    Raises:
        DataFormatError: A column is missing, a value is no number, or a metric stands there twice.
    """
    return _checked(metrics, "metrics", ["reward_model", *METRIC_KEYS])


def check_downstream(downstream: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with `value` as floats.

    Raises:
        DataFormatError: It is empty, a column is missing, a value is no number, or an outcome
            stands there twice.
    """
    if downstream.empty:
        raise DataFormatError("The downstream table has no rows.")
    return _checked(downstream, "downstream", ["reward_model", "outcome"])


def values_by_reward_model(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per benchmark, domain and metric, one column per reward model; larger is better.

    Metrics that are better when lower change their sign; what is missing or infinite is nan.
    """
    values = check_metrics(metrics)
    order = values[METRIC_KEYS].drop_duplicates()
    wide = values.pivot(index=METRIC_KEYS, columns="reward_model", values="value")
    wide = wide.reindex(pd.MultiIndex.from_frame(order))
    wide = wide.where(np.isfinite(wide))
    lower_is_better = wide.index.get_level_values("metric").isin(LOWER_IS_BETTER)
    wide.loc[lower_is_better] *= -1.0
    return wide


def outcomes_by_reward_model(downstream: pd.DataFrame) -> pd.DataFrame:
    """One row per outcome, one column per reward model; what is missing or infinite is nan."""
    values = check_downstream(downstream)
    wide = values.pivot(index="outcome", columns="reward_model", values="value")
    return wide.where(np.isfinite(wide)).reindex(values["outcome"].unique())


def check_columns(table: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    """Raise `DataFormatError` where the table `name` lacks one of the columns."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataFormatError(
            f"The {name} table lacks {', '.join(map(repr, missing))}; "
            f"it must have the columns {', '.join(columns)}."
        )


def as_numbers(table: pd.DataFrame, name: str, column: str) -> pd.Series[float]:
    """The column as floats, nan where it is empty; `DataFormatError` where it holds anything else.

    Nothing is guessed: a number in quotes is one, `n/a` and `12 %` are not.
    """
    found = pd.to_numeric(table[column], errors="coerce")
    wrong = found.isna() & table[column].notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataFormatError(
            f"The {name} table has {column}={table[column].iloc[row]!r} in row {row + 1}: "
            "it must be a number, or empty where there is none."
        )
    return found.astype(float)


def check_filled(table: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    """Raise `DataFormatError` where one of the columns is empty in a row."""
    for column in columns:
        empty = table[column].isna()
        if empty.any():
            row = int(np.flatnonzero(empty)[0]) + 1
            raise DataFormatError(
                f"The {name} table has no {column} in row {row} ({int(empty.sum())} such rows): "
                "fill it in or leave the row out."
            )


def check_unique(table: pd.DataFrame, name: str, keys: Sequence[str]) -> None:
    """Raise `DataFormatError` where two rows have the same keys."""
    twice = table.duplicated(list(keys))
    if twice.any():
        first = table.loc[twice, list(keys)].iloc[0]
        what = ", ".join(f"{key}={value!r}" for key, value in first.items())
        raise DataFormatError(
            f"The {name} table has {what} more than once ({int(twice.sum())} rows too many): "
            "keep one row of each."
        )


def _checked(table: pd.DataFrame, name: str, keys: list[str]) -> pd.DataFrame:
    check_columns(table, name, [*keys, "value"])
    check_filled(table, name, keys)
    named = table.astype(dict.fromkeys(keys, str)).assign(value=as_numbers(table, name, "value"))
    check_unique(named, name, keys)
    return named
