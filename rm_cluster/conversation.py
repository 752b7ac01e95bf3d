"""Texts and conversations as users hand them in; what does not fit is a `DataFormatError`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message, Row

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}


def listed_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows as a list.

    Raises:
        DataFormatError: They are no such thing, but one row, a text or a list of something else.
    """
    if isinstance(rows, str | Mapping):
        raise _no_rows(rows)
    found = list(rows)
    for row in found:
        if not isinstance(row, Mapping):
            raise _no_rows(row)
    return found


def _no_rows(value: Any) -> DataFormatError:
    return DataFormatError(
        "rows must be a list of objects with `prompt` and `completions`, got " + kind_of(value)
    )


def readable(row: Row) -> Row:
    """The row with its prompt as a conversation and its completions as a list of texts.

    A prompt may be text, as one user turn, and both any sequence; without turns it is empty.

    Raises:
        DataFormatError: They are missing, something else, or no valid Unicode.
    """
    prompt = _listed(row.get("prompt"))
    return Row(
        **{
            **row,
            "prompt": [] if prompt == [] else messages(prompt, "prompt"),
            "completions": texts(row.get("completions"), "completions"),
        }
    )


def num_completions(row: Row) -> int:
    """K of a row as users hand it in; 0 where it has no sequence of completions."""
    completions = _listed(row.get("completions"))
    return len(completions) if isinstance(completions, list) else 0


def text(value: Any, what: str) -> str:
    """Return `value` if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise DataFormatError(f"{what} must be text, got {kind_of(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataFormatError(f"{what} is not valid Unicode") from None
    return value


def texts(value: Any, what: str) -> list[str]:
    """Return `value` if it is a list of texts."""
    value = _listed(value)
    if not isinstance(value, list):
        raise DataFormatError(f"{what} must be a list of texts, got {kind_of(value)}")
    return [text(item, what) for item in value]


def messages(value: Any, what: str) -> list[Message]:
    """Read a conversation: a list of messages, or text as one user turn.

    Takes `role` / `content` and ShareGPT's `from` / `value`; content may be text or a list of text
    parts. `tool_calls` are kept as JSON, after the content if there is any.
    """
    if isinstance(value, str):
        return [Message(role="user", content=text(value, what))]
    value = _listed(value)
    if not isinstance(value, list) or not value:
        raise DataFormatError(f"{what} must be text or a list of messages, got {kind_of(value)}")
    return [_message(item, what) for item in value]


def _message(item: Any, what: str) -> Message:
    if not isinstance(item, dict):
        raise DataFormatError(f"a message of {what} must be an object, got {kind_of(item)}")
    role, content = (
        item[name] if item.get(name) is not None else item.get(other)
        for name, other in (("role", "from"), ("content", "value"))
    )
    content, calls = _listed(content), _listed(item.get("tool_calls"))
    if not isinstance(role, str) or not role:
        raise DataFormatError(f"a message of {what} has no role")
    if isinstance(content, list):
        content = "".join(_part(part, what) for part in content)
    if calls and isinstance(content, str | None):
        content = "\n".join(filter(None, [content, json.dumps(calls, default=_plain)]))
    return Message(
        role=_SHAREGPT_ROLES.get(text(role, what), role),
        content=text(content, f"the content of a message of {what}"),
    )


def _part(part: Any, what: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        return text(part.get("text"), f"a part of {what}")
    raise DataFormatError(f"{what} has a part that is not text")


def _plain(value: Any) -> Any:
    """What numpy and Arrow hold, as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _listed(value: Any) -> Any:
    """A list, of any sequence that is not text."""
    if hasattr(value, "tolist"):  # an array, which may be of no dimension
        value = value.tolist()
    is_many = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    return list(value) if is_many else value


def kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list) and not value:
        return "an empty list"
    return type(value).__name__
