"""Scores that were computed elsewhere, joined to the rows of a benchmark without running a model.

A record is one prompt, `id` or `question_id` saying which, with its scores in `values` (a list) or
`score_1`, `score_2` ...: what `rewards.parquet` of an earlier run holds, what PPE's result archive
holds, and any CSV, JSON or Parquet in those columns. One completion per record (`id`, `completion`
from 0, `reward`) will do as well. A record whose `uid` is `question_id+position` compares the two
sides of one pair, as judges do.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.benchmarks.source import Place, Unreadable, find_files, read_records
from rm_cluster.config import BenchmarkConfig, ImportedConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.score_records import Found, take
from rm_cluster.types import Record

SCORES_SCHEMA = pa.schema(
    [
        ("values", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
        ("truncated", pa.list_(pa.bool_())),
        ("error", pa.string()),
        ("margins", pa.list_(pa.float64())),
    ]
)


class Scores(NamedTuple):
    """What one reward model's files say of one benchmark."""

    table: pa.Table  # P rows of `SCORES_SCHEMA`, aligned with the benchmark's
    num_records: int
    num_matched: int
    num_unmatched: int
    """Prompts that there is something of, in the benchmark and not in it."""


def import_scores(config: ImportedConfig, benchmark: BenchmarkConfig, rows: pa.Table) -> Scores:
    """Join a reward model's files to a benchmark's rows, by id.

    Ids that repeat are matched in their order, as the rows' own were made unique, where a record is
    a prompt and there are as many of both. A row for which nothing is found has failed and says so.

    Args:
        config: Where the files are.
        benchmark: What is judged.
        rows: P rows with `id`, `num_completions`, `pairs` and `metadata`.

    Raises:
        DataFormatError: A file or a record cannot be understood, or all are of other models.
    """
    rules = BENCHMARKS[benchmark.type]
    found: dict[str, Found] = {}
    seen: dict[str, int] = {}
    named: set[str] = set()
    num_records = 0
    for place, record in _records(config):
        try:
            if isinstance(record, Unreadable):
                raise DataFormatError(record.reason)
            named.add(_reward_model(record) or config.name)
            if _concerns(record, config.name, benchmark.name):
                num_records += 1
                take(record, place, rules, found, seen)
        except DataFormatError as error:
            raise DataFormatError(f"{place.file}:{place.line}: {error}") from None
    if named and config.name not in named:
        raise DataFormatError(
            f"{config.path} holds no scores of {config.name!r}, but of {', '.join(sorted(named))}; "
            "set `name` to one of them."
        )
    ids = set(rows["id"].to_pylist())
    for id, reason in _undecided(seen, ids).items():
        found[id] = Found({}, {}, {}, [reason], {}, {})
    lines = [
        _line(found.get(row["id"]), row, rules.partial_rows, config.path)
        for row in rows.select(["id", "num_completions", "pairs", "metadata"]).to_pylist()
    ]
    table = pa.Table.from_pylist(lines, schema=SCORES_SCHEMA)
    num_unmatched = len(found.keys() - ids)
    return Scores(table, num_records, len(found) - num_unmatched, num_unmatched)


def find_score_files(config: ImportedConfig) -> list[str]:
    """The files of a path; in a folder or a zip, those that bear the reward model's name, if any.

    Of the folders of runs it is their `rewards.parquet`.

    Raises:
        DataFormatError: There is none.
    """
    zipped = config.path.endswith(".zip")
    files = find_files(f"zip://::{config.path}" if zipped else config.path)
    if zipped:
        files = [f"{file}::{config.path}" for file in files]
    if not files:
        raise DataFormatError(f"No file or folder {config.path!r}.")
    finished = {_folder(file) for file in files if _base(file) == "run.json"}
    of_runs = [f for f in files if _base(f) == "rewards.parquet" and _folder(f) in finished]
    named = [file for file in files if _base(file).startswith(f"{config.name}.")]
    return of_runs or named or files


def _base(file: str) -> str:
    return file.split("::")[0].rsplit("/", 1)[-1]


def _folder(file: str) -> str:
    return file.split("::")[0].rpartition("/")[0]


def _records(config: ImportedConfig) -> Iterator[tuple[Place, Record | Unreadable]]:
    return itertools.chain.from_iterable(map(read_records, find_score_files(config)))


def _concerns(record: Record, reward_model: str, benchmark: str) -> bool:
    """Whether a record is of this reward model and benchmark, as far as it says."""
    if _reward_model(record) not in ("", reward_model):
        return False
    return "id" not in record or record.get("benchmark") in (None, benchmark)


def _reward_model(record: Record) -> str:
    """Which reward model a record is of, or nothing; a run's store has its name elsewhere."""
    column = "model" if "key" in record and "kind" in record else "reward_model"
    return str(record.get(column) or "")


def _undecided(seen: dict[str, int], ids: set[str]) -> dict[str, str]:
    """Rows whose score cannot be told, because not as many records have their id as rows have.

    One that was set aside among the rows, or left out among the scores, would hand each that
    follows the score of another.
    """
    errors: dict[str, str] = {}
    for id, count in seen.items():
        if count > 1:
            own = [id, *(f"{id}#{k}" for k in range(2, count + 1))]
            more = itertools.takewhile(ids.__contains__, (f"{id}#{k}" for k in itertools.count(2)))
            rows = [name for name in dict.fromkeys([*own, *more]) if name in ids]
            if len(rows) != count:
                error = (
                    f"{count} scores for the id {id!r}, which {len(rows)} rows have: which is "
                    "whose cannot be told; give each prompt an id, and each reward model a path, "
                    "of its own"
                )
                errors |= dict.fromkeys(rows, error)
    return errors


def _line(found: Found | None, row: Record, partial: bool, path: str) -> Record:
    """One row of `SCORES_SCHEMA`."""
    num, num_pairs = row["num_completions"], len(row["pairs"])
    if found is None:
        return {"error": f"no score for this prompt in {path}"}
    # a wide table has columns for the longest row of all; what it leaves empty is no score
    given = [i for i, score in found.scores.items() if not math.isnan(score)]
    beyond = any(not 0 <= i < num for i in given)
    if beyond or max([*found.margins, *found.sides], default=-1) >= num_pairs:
        return {
            "error": f"scores for more than the {num} completions or {num_pairs} pairs of this row "
            "(`score_1` is that of the first, `completion` 0 as well)"
        }
    margins = found.margins | _from_sides(found.sides, row)
    values = [found.scores.get(i, math.nan) for i in range(num)]
    num_lost = sum(map(math.isnan, values))
    stated = any(not math.isnan(margin) for margin in margins.values())
    if num_lost == num and not stated:
        return {"error": "; ".join(found.errors) or "scoring failed"}
    if num_lost and not margins and not partial:
        return {"error": f"{num_lost} of {num} completions have no score"}
    tokens = [found.num_tokens.get(i) for i in range(num)]
    return {
        "values": values,
        "num_tokens": None if None in tokens else tokens,
        "truncated": [bool(found.truncated.get(i, False)) for i in range(num)],
        "error": "; ".join(found.errors) or None,
        "margins": [margins.get(i, math.nan) for i in range(num_pairs)] if margins else None,
    }


def _from_sides(sides: dict[int, tuple[float, float]], row: Record) -> dict[int, float]:
    """Margins of pairs whose two sides a judge scored, in the order in which PPE lists them."""
    if not sides:
        return {}
    listed = json.loads(row["metadata"] or "{}").get("sampled_conflict_pairs")
    margins = {}
    for position, (first, second) in sides.items():
        straight = listed is None or listed[position][0] == row["pairs"][position]["chosen"]
        margins[position] = first - second if straight else second - first
    return margins
