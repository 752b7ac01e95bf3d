"""What a benchmark is: how its records become rows, and how its authors aggregate rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from rm_cluster.benchmarks.source import Place, Unreadable
from rm_cluster.metrics.estimate import Official
from rm_cluster.metrics.judged import Bools, Judged
from rm_cluster.metrics.pairwise import OVERALL, groups
from rm_cluster.metrics.table import JointMetrics
from rm_cluster.types import Record, Row

Records = Iterator[tuple[Place, Record | Unreadable]]


class HubSplit(NamedTuple):
    """A data set on the Hugging Face hub, and one of its splits."""

    dataset: str
    split: str


def plain_id(record: Record, place: Place) -> str:
    """The id that a score computed elsewhere gives; the record's line where it gives none."""
    return str(record.get("id", place.line))


@dataclass(frozen=True)
class Benchmark:
    """A named set of comparisons with its own rule of aggregation.

    Attributes:
        name: As published, kebab case.
        hub: Data sets on the Hugging Face hub that make it up; none for a user's own files.
        parse: Record and place -> row, or a `DataFormatError` that says what does not fit.
        official: Scored rows -> the authors' own metrics; accuracy needs none.
        choose: Data files of a folder -> those to read, where a release holds rows twice.
        join: Records -> fewer records, for a source that spreads one prompt over several.
        cluster: id -> what is resampled as one; prompts that share a source belong together.
        joint: The authors' metrics that are no sums of means.
        groups: Rows -> membership of every reporting group.
        headlines: The groups that leaderboards show.
        row_id: A score computed elsewhere -> the id of the row that it is for.
        partial_rows: Whether a prompt counts for its other completions when one has no score.
    """

    name: str
    hub: tuple[HubSplit, ...]
    parse: Callable[[Record, Place], Row]
    official: Callable[[Judged], Official] | None = None
    choose: Callable[[list[str]], list[str]] | None = None
    join: Callable[[Records], Records] | None = None
    cluster: Callable[[str], str] | None = None
    joint: JointMetrics | None = None
    groups: Callable[[pa.Table], dict[str, Bools]] = groups
    headlines: tuple[str, ...] = (OVERALL,)
    row_id: Callable[[Record, Place], str] = plain_id
    partial_rows: bool = False
