"""Texts and conversations as users hand them in; what does not fit is a `DataFormatError`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message, Row

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}


def readable(row: Row) -> Row:
    """The row with its prompt as a conversation and its completions as a list of texts.

    A prompt may be text, as one user turn, and both any sequence; without turns it is empty.

    Raises:
        DataFormatError: They are something else, or no valid Unicode.
    """
    prompt = _listed(row["prompt"])
    return Row(
        **{
            **row,
            "prompt": [] if prompt == [] else messages(prompt, "prompt"),
            "completions": texts(row["completions"], "completions"),
        }
    )


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

    Takes `role` / `content` and ShareGPT's `from` / `value`; content may be text, a list of text
    parts, or missing beside `tool_calls`, which are kept as JSON.
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


def _listed(value: Any) -> Any:
    """A list, of any sequence that is not text."""
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
