"""The row: one prompt with all its completions, the one shape that every benchmark is turned into.

A preference pair is the case of two completions, RM-Bench has six, a Best-of-N pool has N.
"""

from __future__ import annotations

from typing import Any, TypedDict

import pyarrow as pa


class Message(TypedDict):
    """One turn of a conversation; roles are the chat template's: system, user, assistant, tool."""

    role: str
    content: str


class Pair(TypedDict):
    """One comparison, as indices into `completions`; with `tie` neither is preferred."""

    chosen: int
    rejected: int
    tie: bool


class Row(TypedDict):
    """One prompt of a benchmark with its K completions and the comparisons among them.

    Attributes:
        id: Unique within the benchmark.
        benchmark: Name of the benchmark.
        domain: The reporting group; each row has one.
        slices: Overlapping tags, reported beside the domains.
        prompt: The conversation so far, system and tool turns included.
        completions: K candidate replies.
        labels: Gold value per completion, or None.
        policies: Who wrote each completion, or None.
        pairs: The comparisons that the benchmark defines.
        metadata: Whatever else the source had, as JSON, or None.
    """

    id: str
    benchmark: str
    domain: str
    slices: list[str]
    prompt: list[Message]
    completions: list[str]
    labels: list[float] | None
    policies: list[str] | None
    pairs: list[Pair]
    metadata: str | None


Record = dict[str, Any]
"""One record of a source file, as parsed and not yet understood."""

ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("domain", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("completions", pa.list_(pa.string())),
        ("labels", pa.list_(pa.float64())),
        ("policies", pa.list_(pa.string())),
        (
            "pairs",
            pa.list_(
                pa.struct([("chosen", pa.int32()), ("rejected", pa.int32()), ("tie", pa.bool_())])
            ),
        ),
        ("metadata", pa.string()),
    ]
)
