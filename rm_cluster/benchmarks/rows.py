"""Building a valid row from what a source holds; what does not fit is a `DataFormatError`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rm_cluster.conversation import kind_of, text
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message, Pair, Record, Row

_WRITTEN = {"true": 1.0, "false": 0.0}


def make_row(
    *,
    prompt: list[Message],
    completions: list[str],
    pairs: list[Pair],
    id: Any,
    domain: str,
    slices: Iterable[str] = (),
    labels: Sequence[Any] | None = None,
    policies: list[str] | None = None,
    metadata: Record | None = None,
) -> Row:
    """Return a row, without its `benchmark`; `id` may still clash with another row's.

    Raises:
        DataFormatError: A value has the wrong type, or a text is not valid Unicode.
    """
    if not prompt:
        raise DataFormatError("the prompt is empty")
    if not completions:
        raise DataFormatError("there is no completion")
    row = Row(
        id=text(str(id), "id"),
        benchmark="",
        domain=text(domain, "domain"),
        slices=sorted({text(name, "slices") for name in slices}),
        prompt=prompt,
        completions=[text(completion, "a completion") for completion in completions],
        labels=None if labels is None else [number(label, "a label") for label in labels],
        policies=None if policies is None else [text(policy, "a policy") for policy in policies],
        pairs=pairs,
        metadata=json.dumps(metadata, default=str, sort_keys=True) if metadata else None,
    )
    for name, values in (("labels", row["labels"]), ("policies", row["policies"])):
        if values is not None and len(values) != len(completions):
            raise DataFormatError(f"{len(values)} {name} for {len(completions)} completions")
    return row


def without_replies(row: Row) -> Row:
    """The row with its prompt alone."""
    return Row(**{**row, "completions": [], "labels": None, "policies": None, "pairs": []})


def pair(chosen: int, rejected: int, tie: bool = False) -> Pair:
    return Pair(chosen=chosen, rejected=rejected, tie=tie)


def all_pairs(num_chosen: int, num_rejected: int) -> list[Pair]:
    """Every chosen against every rejected, where completions = chosen + rejected."""
    return [pair(i, num_chosen + j) for i in range(num_chosen) for j in range(num_rejected)]


def number(value: Any, what: str) -> float:
    """Return `value` as a finite float; text is read as a number, as CSV needs."""
    if isinstance(value, str):
        try:
            value = _WRITTEN[value.lower()] if value.lower() in _WRITTEN else float(value)
        except ValueError:
            raise DataFormatError(f"{what} must be a number, got {value[:40]!r}") from None
    if not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataFormatError(f"{what} must be a finite number, got {kind_of(value)}")
    return float(value)
