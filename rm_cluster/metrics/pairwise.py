"""Accuracy on comparisons: how often the chosen completion has the higher reward."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from rm_cluster.columns import strings
from rm_cluster.metrics.estimate import Mean, Official
from rm_cluster.metrics.judged import Bools, Floats, Judged, slices

OVERALL = "overall"


def groups(rows: pa.Table) -> dict[str, Bools]:
    """[P] membership of every reporting group: all rows, each domain, each slice.

    A slice that bears a domain's name joins that domain's rows.
    """
    domain = strings(rows["domain"])
    members = {OVERALL: np.ones(len(rows), dtype=bool)}
    members |= {str(name): domain == name for name in np.unique(domain)}
    for name, inside in slices(rows).items():
        members[name] = members[name] | inside if name in members else inside
    return members


def accuracy(judged: Judged, members: Mapping[str, Bools] | None = None) -> Official:
    """Share of comparisons won by the chosen completion, per group; equal rewards count 0.5.

    Every comparison weighs the same, so a prompt with nine pairs weighs nine times one with one.
    Comparisons that are ties in the gold data have no winner and are left out, as are those of a
    completion that failed.

    Args:
        judged: Scored prompts.
        members: [P] membership by group; `groups` of the rows if None.
    """
    pairs = judged.pairs
    correct = np.bincount(pairs.row, pairs.correct, len(judged)).astype(np.float64)
    count = np.bincount(pairs.row, minlength=len(judged)).astype(np.float64)
    return {
        (name, "accuracy"): [Mean(_only(correct, inside), _only(count, inside))]
        for name, inside in (groups(judged.rows) if members is None else members).items()
        if count[inside].any()
    }


def num_tied(judged: Judged) -> Floats:
    """[P] comparisons of each prompt whose two rewards are equal."""
    tied = judged.pairs.tied.astype(np.float64)
    return np.bincount(judged.pairs.row, tied, len(judged)).astype(np.float64)


def _only(values: Floats, members: Bools) -> Floats:
    return np.where(members, values, 0.0)
