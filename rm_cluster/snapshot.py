"""A benchmark's rows, read once and laid down in windows for every model to be measured on.

The snapshot is what was judged: metrics are computed from it, and the rows that did not fit stand
beside it with their reasons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.benchmarks.rows import without_replies
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError, ScoringError
from rm_cluster.store import WINDOW_SCHEMA, Folder, content_hash
from rm_cluster.types import ROW_SCHEMA, Row

WINDOW_ROWS = 1024
WINDOW_CHARACTERS = 32_000_000
_PAIR_CHARACTERS = 64
"""What a pair counts for; graded pools have about as many as half the square of their size."""

JUDGED_COLUMNS = (
    "id", "domain", "slices", "labels", "policies", "pairs", "num_completions", "content",
)  # fmt: skip
"""What metrics need of a row: everything but its texts."""


class Snapshot(NamedTuple):
    """Where the rows of a benchmark lie, and how many there are."""

    benchmark: BenchmarkConfig
    url: str
    windows: list[str]
    num_rows: int
    num_rejected: int

    def table(self, columns: Sequence[str] = JUDGED_COLUMNS) -> pa.Table:
        """The rows without their texts, in the order of the source.

        Raises:
            ScoringError: They are others than were laid down.
        """
        try:
            read = Folder(self.url).read_tables(self.windows, columns)
        except FileNotFoundError:
            read = []
        found = pa.concat_tables([WINDOW_SCHEMA.empty_table().select(columns), *read])
        if len(found) != self.num_rows:
            raise ScoringError(
                f"{self.benchmark.name}: {self.url} now holds {len(found)} rows and not "
                f"{self.num_rows}: another run has the same output_dir. What was measured is "
                "stored; run again when that run is done, or with an output_dir of its own."
            )
        return found

    def content(self) -> pa.ChunkedArray:
        """By which the store knows the rows."""
        return self.table(("content",))["content"]


def take_snapshot(
    config: BenchmarkConfig, limit: int | None, output_dir: str, *, only_prompts: bool = False
) -> Snapshot:
    """Write windows of rows under `rows/`, and rejected rows as JSON lines under `rejected/`.

    Args:
        config: What to read.
        limit: At most so many rows.
        output_dir: Of the run.
        only_prompts: Whether the rows are left without their completions.

    Raises:
        DataFormatError: A file is not what its name says, or holds no row that fits.
    """
    folder = Folder(output_dir).sub("rows").sub(config.name)
    rejected_folder = Folder(output_dir).sub("rejected").sub(config.name)
    folder.clear()
    rejected_folder.clear()
    windows: list[str] = []
    num_rows = num_rejected = 0
    reason = ""
    for number, (rows, rejected) in enumerate(_windows(read_rows(config), limit)):
        if rejected:
            lines = "".join(json.dumps(row._asdict()) + "\n" for row in rejected)
            rejected_folder.write_text(f"{number:06d}.jsonl", lines)
            reason = reason or f"{rejected[0].file}:{rejected[0].line}: {rejected[0].reason}"
            num_rejected += len(rejected)
        if only_prompts:
            rows = [without_replies(row) for row in rows]
        if rows:
            windows.append(f"{number:06d}.parquet")
            folder.write_table(windows[-1], _window_table(rows))
            num_rows += len(rows)
    if not windows:
        found = f"none of its {num_rejected} rows fits; {reason}" if num_rejected else "it is empty"
        raise DataFormatError(f"Benchmark {config.name!r} has nothing to judge: {found}")
    return Snapshot(config, folder.url, windows, num_rows, num_rejected)


def rewrite_snapshot(
    snapshot: Snapshot,
    model: str,
    rewrite: Callable[[Row], list[Row]],
    output_dir: str,
) -> Snapshot:
    """Lay down what a model sees of a benchmark where that is not the rows as they stand.

    Args:
        snapshot: Of the rows.
        model: For which it is.
        rewrite: A row -> those that the model sees in its place, in the order of the rows.
        output_dir: Of the run.
    """
    source = Folder(snapshot.url)
    folder = Folder(output_dir).sub("seen").sub(model).sub(snapshot.benchmark.name)
    folder.clear()
    windows: list[str] = []
    num_rows = 0
    rows = (
        seen
        for file in snapshot.windows
        for row in source.read_table(file, ROW_SCHEMA.names).to_pylist()
        for seen in rewrite(row)
    )
    for window, _ in _windows(rows, None):
        if window:
            windows.append(f"{len(windows):06d}.parquet")
            folder.write_table(windows[-1], _window_table(window))
            num_rows += len(window)
    return Snapshot(snapshot.benchmark, folder.url, windows, num_rows, 0)


def _window_table(rows: Sequence[Row]) -> pa.Table:
    columns = [
        {**row, "content": content_hash(row), "num_completions": len(row["completions"])}
        for row in rows
    ]
    return pa.Table.from_pylist(columns, schema=WINDOW_SCHEMA)


def _windows(
    rows: Iterator[Row | RejectedRow], limit: int | None
) -> Iterator[tuple[list[Row], list[RejectedRow]]]:
    """Group rows, up to `limit` of them, into windows of bounded size."""
    window: list[Row] = []
    rejected: list[RejectedRow] = []
    characters = num_rows = 0
    for row in rows:
        if isinstance(row, RejectedRow):
            rejected.append(row)
        else:
            window.append(row)
            num_rows += 1
            characters += sum(map(len, row["completions"]))
            characters += sum(len(message["content"]) for message in row["prompt"])
            characters += _PAIR_CHARACTERS * len(row["pairs"])
        if (
            len(window) + len(rejected) >= WINDOW_ROWS
            or characters >= WINDOW_CHARACTERS
            or num_rows == limit
        ):
            yield window, rejected
            window, rejected, characters = [], [], 0
        if num_rows == limit:
            return
    yield window, rejected


def rejected_rows(output_dir: str, snapshots: list[Snapshot]) -> str:
    """All rejected rows of a run as JSON lines."""
    folders = [Folder(output_dir).sub("rejected").sub(s.benchmark.name) for s in snapshots]
    return "".join(
        folder.read_bytes(name).decode("utf-8")
        for folder in folders
        for name in folder.names(".jsonl")
    )
