"""What a judge is asked of a benchmark, and what becomes of its answers.

Every question is a row of its own, two completions to be compared or one to be judged by itself. So
an answer that cannot be had or read costs one comparison and no more, is asked again by the next
run, and is stored like any other measurement.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rm_cluster.benchmarks.rows import pair
from rm_cluster.config import JudgeConfig
from rm_cluster.metrics.judged import Floats
from rm_cluster.metrics.verdicts import debias, round_robin_rewards
from rm_cluster.scorers.judge_prompt import UNSCORED
from rm_cluster.types import Pair, Record, Row

JUDGED_SCHEMA = pa.schema(
    [
        ("values", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
        ("truncated", pa.list_(pa.bool_())),
        ("error", pa.string()),
        ("margins", pa.list_(pa.float64())),
        ("num_compared", pa.int32()),
        ("bias", pa.float64()),  # sum over the comparisons
        ("num_inconsistent", pa.int32()),
    ]
)

Question = tuple[int, ...]
"""The completions of a row that a question is about, in the order of the row."""


class Answers(NamedTuple):
    """What a judge said of a benchmark."""

    table: pa.Table
    """P rows of `JUDGED_SCHEMA`."""
    counts: dict[str, int]
    """`n_questions`, `n_unscored` (an answer without a verdict), `n_failed_questions` (no answer),
    and of a pairwise judge `n_inconsistent`."""


def questions(config: JudgeConfig, pairs: Sequence[Pair], num_completions: int) -> list[Question]:
    """What is asked about a prompt, each question once; gold ties are asked about too."""
    if not config.is_pairwise:
        return [(k,) for k in range(num_completions)]
    if config.compare == "round_robin":
        return list(itertools.combinations(range(num_completions), 2))
    asked = {tuple(sorted((p["chosen"], p["rejected"]))) for p in pairs}
    return sorted(asked)


def question_rows(config: JudgeConfig, row: Row) -> list[Row]:
    """The questions about a row, as rows."""
    return [
        Row(
            id=f"{row['id']}/{'-'.join(map(str, question))}",
            benchmark=row["benchmark"],
            domain=row["domain"],
            slices=[],
            prompt=row["prompt"],
            completions=[row["completions"][k] for k in question],
            labels=None,
            policies=None,
            pairs=[pair(0, 1)] if len(question) == 2 else [],
            metadata=json.dumps({"row": row["id"], "completions": question}),
        )
        for question in questions(config, row["pairs"], len(row["completions"]))
    ]


def answers(config: JudgeConfig, rows: pa.Table, stored: pa.Table) -> Answers:
    """Bring the answers in line with the rows that were asked about.

    Args:
        config: Of the judge.
        rows: P rows with `pairs` and `num_completions`.
        stored: The stored answers, one per question, in the order of `questions`.
    """
    values, errors = stored["values"].to_pylist(), stored["error"].to_pylist()
    columns = rows["pairs"].to_pylist(), rows["num_completions"].to_pylist()
    lines, start = [], 0
    for pairs, num_completions in zip(*columns, strict=True):
        asked = questions(config, pairs, num_completions)
        here = slice(start, start + len(asked))
        start += len(asked)
        found = (
            _compared(config, asked, values[here], pairs, num_completions)
            if config.is_pairwise
            else _rated(values[here], num_completions)
        )
        lines.append(found | _error(errors[here], values[here]))
    failed = [error or "" for error, value in zip(errors, values, strict=True) if value is None]
    num_unscored = sum(UNSCORED in error for error in failed)
    counts = {
        "n_questions": len(values),
        "n_unscored": num_unscored,
        "n_failed_questions": len(failed) - num_unscored,
    }
    if config.is_pairwise:
        counts["n_inconsistent"] = sum(line["num_inconsistent"] for line in lines)
    return Answers(pa.Table.from_pylist(lines, schema=JUDGED_SCHEMA), counts)


def _compared(
    config: JudgeConfig,
    asked: Sequence[Question],
    values: Sequence[list[float] | None],
    pairs: Sequence[Pair],
    num_completions: int,
) -> Record:
    """One prompt of a pairwise judge: margins of its pairs, or rewards by round robin."""
    nothing = [float("nan")] * 2
    both = np.array([value or nothing for value in values]).reshape(-1, 2)
    margins, bias, inconsistent = debias(both[:, 0], both[:, 1])
    known = ~np.isnan(margins)
    line: Record = {
        "num_compared": int(known.sum()),
        "bias": float(bias[known].sum()),
        "num_inconsistent": int(inconsistent.sum()),
    }
    if config.compare == "round_robin":
        rewards = round_robin_rewards(margins, asked, num_completions)
        return line | _values(rewards, num_completions)
    if asked and not known.any():
        return line
    of = dict(zip(asked, margins.tolist(), strict=True))
    line["margins"] = [
        of[p["chosen"], p["rejected"]] if p["chosen"] < p["rejected"]
        else 0.0 - of[p["rejected"], p["chosen"]]
        for p in pairs
    ]  # fmt: skip
    return line | _values(np.full(num_completions, np.nan), num_completions)


def _rated(values: Sequence[list[float] | None], num_completions: int) -> Record:
    """One prompt of a judge of single replies: a reward for each, nan where there is none."""
    rewards = np.array([np.nan if value is None else value[0] for value in values])
    return _values(None if np.isnan(rewards).all() else rewards, num_completions)


def _values(rewards: Floats | None, num_completions: int) -> Record:
    if rewards is None:
        return {}
    return {"values": rewards.tolist(), "truncated": [False] * num_completions}


def _error(errors: Sequence[str | None], values: Sequence[list[float] | None]) -> Record:
    """What failed of a prompt's questions; where nothing was to be asked nothing did."""
    failed = [error for error, value in zip(errors, values, strict=True) if value is None]
    if not failed:
        return {}
    return {"error": f"{len(failed)} of {len(values)} questions failed; the first: {failed[0]}"}
