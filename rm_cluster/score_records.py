"""What one record of a file of scores says of a prompt: rewards, margins, or that it failed."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from rm_cluster.benchmarks import unique_id
from rm_cluster.benchmarks.benchmark import Benchmark
from rm_cluster.benchmarks.rows import number
from rm_cluster.benchmarks.source import Place
from rm_cluster.conversation import text
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Record

FAILED = "$ERROR$"
"""What PPE writes in the place of a score that could not be had."""
_NUMBERED = re.compile(r"(?:score|reward)_(\d+)")


class Found(NamedTuple):
    """What was found for one prompt: scores by completion, margins or pairs of scores by pair."""

    scores: dict[int, float]
    margins: dict[int, float]
    sides: dict[int, tuple[float, float]]
    errors: list[str]
    truncated: dict[int, Any]
    num_tokens: dict[int, Any]


def take(
    record: Record,
    place: Place,
    rules: Benchmark,
    found: dict[str, Found],
    seen: dict[str, int],
) -> None:
    """Add one record to what was found for its prompt."""
    pair, record = _pair_of(record)
    id = str(record["id"]) if "id" in record else rules.row_id(record, place)
    one_of_many = pair is not None or "completion" in record
    key = id if one_of_many else unique_id(id, seen)
    into = found.setdefault(key, Found({}, {}, {}, [], {}, {}))
    if record.get("error") and record["error"] == record["error"]:  # not nan, as tables have it
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
