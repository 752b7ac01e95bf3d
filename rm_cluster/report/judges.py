"""What a result says of its judges: what the order of replies did, and what became of questions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from rm_cluster.report.page import Section
from rm_cluster.report.table import Table
from rm_cluster.report.wording import interval
from rm_cluster.result import EvalResult

ONLY_PAIRS = "only compared pairs: accuracy, but no ROC AUC and no best-of-K curve."
ORDER_METRICS = ("position_bias", "inconsistent")

_KEYS = ["reward_model", "benchmark", "domain"]
_COLUMNS = {
    "reward_model": "judge",
    "benchmark": "benchmark",
    "domain": "domain",
    "n": "comparisons",
    "inconsistent [inconsistent]": "inconsistent",
    "position_bias [position_bias]": "preference for the first place",
}


def judge_sections(result: EvalResult) -> list[Section]:
    """Sections on judges, if there are any."""
    found = []
    table, text = order_effects(result), " ".join(judge_lines(result))
    if len(table):
        explained = (
            "Each two replies were judged in both orders. Inconsistent are the comparisons that "
            "the order decided; they count as ties. The preference for the first place is in the "
            "judge's unit: nats, or verdicts of 1 and -1. 95 % intervals. "
        )
        shown = Table.of(table, _COLUMNS, "metrics.csv")
        found.append(Section("Judges: the order of replies", explained + text, table=shown))
    elif text:
        found.append(Section("Judges", text))
    return found


def judge_lines(result: EvalResult) -> list[str]:
    """Sentences on judges: those of pairs only, and what became of the questions of each."""
    lines = [
        f"{benchmark}: {', '.join(names)} {ONLY_PAIRS}"
        for benchmark, names in result.judges_of_pairs().items()
    ]
    for name, about in result.run.get("reward_models", {}).items():
        for benchmark, counts in about.get("asked", {}).items():
            if "n_questions" in counts:
                lines.append(
                    f"{benchmark}: of {counts['n_questions']:,} questions to {name} "
                    f"{counts['n_unscored']:,} had no verdict in the answer and "
                    f"{counts['n_failed_questions']:,} no answer."
                )
    return lines


def order_lines(result: EvalResult) -> list[str]:
    """What the order did overall, a line for each judge and benchmark."""
    table = order_effects(result).drop_duplicates(["reward_model", "benchmark"])
    return [
        f"{row['benchmark']}: the order decided "
        f"{_with_ends(row, 'inconsistent')} of {row['n']:,} comparisons of {row['reward_model']}, "
        f"which prefers the first place by {_with_ends(row, 'position_bias')} [95% interval]"
        for row in table.to_dict("records")
    ]


def order_effects(result: EvalResult) -> pd.DataFrame:
    """By judge, benchmark and domain: `n`, and `X, X_low, X_high` for X of `ORDER_METRICS`."""
    metrics = result.metrics[result.metrics["metric"].isin(ORDER_METRICS)]
    lines = []
    for keys, rows in metrics.groupby(_KEYS, sort=False):
        line: dict[str, Any] = {**dict(zip(_KEYS, keys, strict=True)), "n": int(rows["n"].iloc[0])}
        for row in rows.to_dict("records"):
            name = row["metric"]
            line |= {
                name: row["value"],
                f"{name}_low": row["ci_low"],
                f"{name}_high": row["ci_high"],
            }
        lines.append(line)
    return pd.DataFrame(lines, columns=None if lines else [*_KEYS, "n"])


def _with_ends(row: Mapping[Hashable, Any], name: str) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
