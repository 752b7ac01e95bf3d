"""What is judged: every benchmark is turned into rows of one shape (`rm_cluster.types.Row`).

To add one, write a file with a `BENCHMARK` beside `rm_bench.py` and name it here and in
`config.BENCHMARK_TYPES`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rm_cluster.benchmarks import ppe, preferences, prompts, rewardbench, rewardbench2, rm_bench
from rm_cluster.benchmarks.benchmark import Benchmark, HubSplit
from rm_cluster.benchmarks.source import Place, Unreadable, find_files, read_hub, read_records
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.parsing import parse_config
from rm_cluster.types import Row

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (ppe, preferences, prompts, rewardbench, rewardbench2, rm_bench)
}


class RejectedRow(NamedTuple):
    """A record that is no row: where it stands, why it was set aside, and what it held."""

    benchmark: str
    file: str
    line: int
    reason: str
    record: str


def read_rows(config: BenchmarkConfig) -> Iterator[Row | RejectedRow]:
    """Yield the rows of a benchmark in the order of its source, one at a time.

    Ids that come a second time get `#2`, a third time `#3`, in the order of the source.

    Raises:
        DataFormatError: A file is missing or is not what its name says.
    """
    benchmark = BENCHMARKS[config.type]
    seen: dict[str, int] = {}
    records = _records(config, benchmark)
    for place, record in records if benchmark.join is None else benchmark.join(records):
        try:
            if isinstance(record, Unreadable):
                raise DataFormatError(record.reason)
            row = benchmark.parse(record, place)
        except DataFormatError as error:
            held = record.text if isinstance(record, Unreadable) else str(record)
            yield RejectedRow(config.name, place.file, place.line, str(error), held[:10_000])
            continue
        row["benchmark"] = config.name
        row["id"] = unique_id(row["id"], seen)
        yield row


def unique_id(id: str, seen: dict[str, int]) -> str:
    """Return `id`, or `id#2`, `id#3` ... when it is taken; `seen` counts what was given out."""
    unique, count = id, seen.get(id, 0)
    while unique in seen:
        count += 1
        unique = f"{id}#{count}"
    seen[id] = max(count, 1)
    seen[unique] = seen.get(unique, 1)
    return unique


def _records(
    config: BenchmarkConfig, benchmark: Benchmark
) -> Iterator[tuple[Place, dict[str, object] | Unreadable]]:
    files = find_files(config.path, config.split) if config.path else []
    if benchmark.choose is not None:
        files = benchmark.choose(files)
    if files:
        return itertools.chain.from_iterable(map(read_records, files))
    hub = benchmark.hub or (HubSplit("", "train"),)
    if config.path:
        known = [source for source in hub if source.dataset == config.path]
        hub = (HubSplit(config.path, (known or hub)[0].split),)
    return itertools.chain.from_iterable(
        read_hub(dataset, config.split or split) for dataset, split in hub
    )


def load_benchmark(
    name: str, path: str | None = None, limit: int | None = None
) -> ray.data.Dataset:
    """Return the rows of a benchmark as a lazy `ray.data.Dataset` with `ROW_SCHEMA`'s columns.

    Args:
        name: `ppe`, `rm-bench`, `rewardbench`, `rewardbench2`, or a path to your own preferences.
        path: File, folder, fsspec URL or hub data set; the benchmark's own on the hub if None.
        limit: At most so many rows, from the beginning.

    Rows that do not fit are logged with their place and reason, and left out.

    Raises:
        ConfigError: Neither a known benchmark nor a path.
        DataFormatError: At execution, when a file is not what its name says.
    """
    import ray.data

    known = name in BENCHMARKS or path is not None
    config = parse_config(
        BenchmarkConfig, {"name": name, "path": path} if known else {"path": name}
    )
    if config.path:
        find_files(config.path)
    rows = ray.data.from_items([config], override_num_blocks=1).flat_map(
        lambda item: itertools.islice(_accepted_rows(item["item"]), limit)
    )
    return rows


def _accepted_rows(config: BenchmarkConfig) -> Iterator[Row]:
    for row in read_rows(config):
        if isinstance(row, RejectedRow):
            logger.warning("%s:%d set aside: %s", row.file, row.line, row.reason)
        else:
            yield row
