"""What a benchmark is: how its records become rows, and how its authors aggregate rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rm_cluster.benchmarks.source import Place, Unreadable
from rm_cluster.metrics.estimate import Official
from rm_cluster.metrics.judged import Judged
from rm_cluster.types import Record, Row

Records = Iterator[tuple[Place, Record | Unreadable]]


@dataclass(frozen=True)
class Benchmark:
    """A named set of comparisons with its own rule of aggregation.

    Attributes:
        name: As published, kebab case.
        hub: Data set on the Hugging Face hub, or None.
        split: Its split there.
        parse: Record and place -> row, or a `DataFormatError` that says what does not fit.
        official: Scored rows -> the authors' own metrics; accuracy needs none.
        choose: Data files of a folder -> those to read, where a release holds rows twice.
        join: Records -> fewer records, for a source that spreads one prompt over several.
        cluster: id -> what is resampled as one; prompts that share a source belong together.
    """

    name: str
    hub: str | None
    split: str
    parse: Callable[[Record, Place], Row]
    official: Callable[[Judged], Official] | None = None
    choose: Callable[[list[str]], list[str]] | None = None
    join: Callable[[Records], Records] | None = None
    cluster: Callable[[str], str] | None = None
