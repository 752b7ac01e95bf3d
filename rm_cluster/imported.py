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
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from rm_cluster.benchmarks import BENCHMARKS, unique_id
from rm_cluster.benchmarks.benchmark import Benchmark
from rm_cluster.benchmarks.rows import number, text
from rm_cluster.benchmarks.source import Place, Unreadable, find_files, read_records
from rm_cluster.config import BenchmarkConfig, ImportedConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Record

FAILED = "$ERROR$"
"""What PPE writes in the place of a score that could not be had."""
SCORES_SCHEMA = pa.schema(
    [
        ("values", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
        ("truncated", pa.list_(pa.bool_())),
        ("error", pa.string()),
        ("margins", pa.list_(pa.float64())),
    ]
)


_NUMBERED = re.compile(r"(?:score|reward)_(\d+)")


class Scores(NamedTuple):
    """What one reward model's files say of one benchmark."""

    table: pa.Table  # P rows of `SCORES_SCHEMA`, aligned with the benchmark's
    num_records: int
    num_matched: int
    num_unmatched: int
    """Prompts that there is something of, in the benchmark and not in it."""


class _Found(NamedTuple):
    """What was found for one prompt: scores by completion, margins or pairs of scores by pair."""

    scores: dict[int, float]
    margins: dict[int, float]
    sides: dict[int, tuple[float, float]]
    errors: list[str]
    truncated: dict[int, Any]
    num_tokens: dict[int, Any]


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
    found: dict[str, _Found] = {}
    seen: dict[str, int] = {}
    named: set[str] = set()
    num_records = 0
    for place, record in _records(config):
        try:
            if isinstance(record, Unreadable):
                raise DataFormatError(record.reason)
            named.add(str(record.get("reward_model") or config.name))
            if _concerns(record, config.name, benchmark.name):
                num_records += 1
                _take(record, place, rules, found, seen)
        except DataFormatError as error:
            raise DataFormatError(f"{place.file}:{place.line}: {error}") from None
    if named and config.name not in named:
        raise DataFormatError(
            f"{config.path} holds no scores of {config.name!r}, but of {', '.join(sorted(named))}; "
            "set `name` to one of them."
        )
    ids = set(rows["id"].to_pylist())
    for id, reason in _undecided(seen, ids).items():
        found[id] = _Found({}, {}, {}, [reason], {}, {})
    lines = [
        _line(found.get(row["id"]), row, rules.partial_rows, config.path)
        for row in rows.select(["id", "num_completions", "pairs", "metadata"]).to_pylist()
    ]
    table = pa.Table.from_pylist(lines, schema=SCORES_SCHEMA)
    num_unmatched = len(found.keys() - ids)
    return Scores(table, num_records, len(found) - num_unmatched, num_unmatched)


def find_score_files(config: ImportedConfig) -> list[str]:
    """The files of a path; in a folder or a zip, those that bear the reward model's name, if any.

    Raises:
        DataFormatError: There is none.
    """
    zipped = config.path.endswith(".zip")
    files = find_files(f"zip://::{config.path}" if zipped else config.path)
    if zipped:
        files = [f"{file}::{config.path}" for file in files]
    if not files:
        raise DataFormatError(f"No file or folder {config.path!r}.")
    named = [file for file in files if _base(file).startswith(f"{config.name}.")]
    return named or files


def _base(file: str) -> str:
    return file.split("::")[0].rsplit("/", 1)[-1]


def _records(config: ImportedConfig) -> Iterator[tuple[Place, Record | Unreadable]]:
    return itertools.chain.from_iterable(map(read_records, find_score_files(config)))


def _concerns(record: Record, reward_model: str, benchmark: str) -> bool:
    """Whether a record is of this reward model and benchmark, as far as it says."""
    if record.get("reward_model") not in (None, "", reward_model):
        return False
    return "id" not in record or record.get("benchmark") in (None, benchmark)


def _take(
    record: Record,
    place: Place,
    rules: Benchmark,
    found: dict[str, _Found],
    seen: dict[str, int],
) -> None:
    """Add one record to what was found for its prompt."""
    pair, record = _pair_of(record)
    id = str(record["id"]) if "id" in record else rules.row_id(record, place)
    one_of_many = pair is not None or "completion" in record
    key = id if one_of_many else unique_id(id, seen)
    into = found.setdefault(key, _Found({}, {}, {}, [], {}, {}))
    if record.get("error"):
        into.errors.append(text(str(record["error"]), "error"))
        if not record.get("values") and not record.get("margins"):
            return
    if pair is not None:
        sides = (_score(record.get("score_1")), _score(record.get("score_2")))
        _once(into.sides, pair, sides, f"pair {pair} of {id!r}")
    elif "completion" in record:
        number_of = _whole(record["completion"], "completion")
        reward = _score(record.get("reward"))
        _once(into.scores, number_of, reward, f"completion {number_of} of {id!r}")
    else:
        into.scores.update(_scores(record))
        margins = _list(record.get("margins"), "margins") or []
        into.margins.update({i: _score(margin) for i, margin in enumerate(margins)})
        # lists are ours; elsewhere these may name anything
        truncated, num_tokens = (record.get(name) for name in ("truncated", "num_tokens"))
        if isinstance(truncated, list):
            into.truncated.update(enumerate(truncated))
        if isinstance(num_tokens, list):
            counts = [None if n is None else _whole(n, "num_tokens") for n in num_tokens]
            into.num_tokens.update(enumerate(counts))


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
                    "whose cannot be told; give each prompt an id of its own"
                )
                errors |= dict.fromkeys(rows, error)
    return errors


def _once(known: dict[int, Any], position: int, value: Any, what: str) -> None:
    """Add a score; which row a second one of the same id is for cannot be told."""
    if position in known:
        raise DataFormatError(f"a second score of {what}; give each prompt an id of its own")
    known[position] = value


def _whole(value: Any, what: str) -> int:
    found = number(value, what)
    if found != int(found) or not 0 <= found < 2**31:
        raise DataFormatError(f"{what} must be a whole number from 0, got {value!r}")
    return int(found)


def _pair_of(record: Record) -> tuple[int | None, Record]:
    """The position in a judge's `uid`, and the record with the question that it names."""
    question, plus, position = str(record.get("uid", "")).rpartition("+")
    if not plus or not position.isdecimal() or "score_3" in record:
        return None, record
    named = {key: value for key, value in record.items() if key != "uid"}
    return int(position), {**named, "question_id": question}


def _scores(record: Record) -> dict[int, float]:
    """Scores by completion, from `values` or from `score_1`, `score_2` ..."""
    values = _list(record.get("values"), "values")
    if values is not None:
        return {i: _score(value) for i, value in enumerate(values)}
    scores = {
        int(numbered[1]) - 1: _score(value)
        for key, value in record.items()
        if (numbered := _NUMBERED.fullmatch(key))
    }
    if not scores and record.get("margins") is None:
        raise DataFormatError(
            "no scores: wanted `values`, `score_1` and `score_2` ..., or `completion` and `reward`"
        )
    return scores


def _list(value: Any, what: str) -> list[Any] | None:
    """A list, or one written as JSON, as CSV has it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise DataFormatError(f"{what} must be a list, got {value[:40]!r}") from None
    if value is not None and not isinstance(value, list):
        raise DataFormatError(f"{what} must be a list, got {type(value).__name__}")
    return value


def _score(value: Any) -> float:
    """A score, which may stand in a list of one; nan where scoring failed."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == FAILED or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    return number(value, "a score")


def _line(found: _Found | None, row: Record, partial: bool, path: str) -> Record:
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
