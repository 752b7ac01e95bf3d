"""Building a valid row from what a source holds; what does not fit is a `DataFormatError`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message, Pair, Record, Row

_WRITTEN = {"true": 1.0, "false": 0.0}
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}


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


def text(value: Any, what: str) -> str:
    """Return `value` if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise DataFormatError(f"{what} must be text, got {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataFormatError(f"{what} is not valid Unicode") from None
    return value


def texts(value: Any, what: str) -> list[str]:
    """Return `value` if it is a list of texts."""
    if not isinstance(value, list):
        raise DataFormatError(f"{what} must be a list of texts, got {_kind(value)}")
    return [text(item, what) for item in value]


def number(value: Any, what: str) -> float:
    """Return `value` as a finite float; text is read as a number, as CSV needs."""
    if isinstance(value, str):
        try:
            value = _WRITTEN[value.lower()] if value.lower() in _WRITTEN else float(value)
        except ValueError:
            raise DataFormatError(f"{what} must be a number, got {value[:40]!r}") from None
    if not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataFormatError(f"{what} must be a finite number, got {_kind(value)}")
    return float(value)


def messages(value: Any, what: str) -> list[Message]:
    """Read a conversation: a list of messages, or text as one user turn.

    Takes `role` / `content` and ShareGPT's `from` / `value`; content may be text, a list of text
    parts, or missing beside `tool_calls`, which are kept as JSON.
    """
    if isinstance(value, str):
        return [Message(role="user", content=text(value, what))]
    if not isinstance(value, list) or not value:
        raise DataFormatError(f"{what} must be text or a list of messages, got {_kind(value)}")
    return [_message(item, what) for item in value]


def _message(item: Any, what: str) -> Message:
    if not isinstance(item, dict):
        raise DataFormatError(f"a message of {what} must be an object, got {_kind(item)}")
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value"))
    if not isinstance(role, str) or not role:
        raise DataFormatError(f"a message of {what} has no role")
    if content is None and item.get("tool_calls"):
        content = json.dumps(item["tool_calls"], default=str)
    elif isinstance(content, list):
        content = "".join(_part(part, what) for part in content)
    return Message(
        role=_SHAREGPT_ROLES.get(text(role, what), role),
        content=text(content, f"the content of a message of {what}"),
    )


def _part(part: Any, what: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        return text(part.get("text"), f"a part of {what}")
    raise DataFormatError(f"{what} has a part that is not text")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list) and not value:
        return "an empty list"
    return type(value).__name__
