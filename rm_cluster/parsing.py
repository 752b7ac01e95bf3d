"""From YAML, a dict or the command line to a config; what is wrong with it in a line or two."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rm_cluster.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def parse_config(
    kind: type[ConfigT],
    source: ConfigT | Mapping[str, Any] | str | Path,
    overrides: Iterable[str] = (),
) -> ConfigT:
    """Build a config from an object, a dict or a YAML file, with `key.sub=value` on top.

    Raises:
        ConfigError: In one or two lines, whatever is wrong with it.
    """
    if isinstance(source, kind):
        data: Any = source.model_dump()
    elif isinstance(source, Mapping):
        data = dict(source)
    else:
        data = _read_yaml(Path(str(source)))
    for override in overrides:
        data = _override(data, override)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind)) from None


def check_overrides(kind: type[BaseModel], overrides: Iterable[str]) -> None:
    """Tell what is wrong with `key.sub=value` whatever it is put on top of.

    Raises:
        ConfigError: It is no such thing, or `kind` has no such key.
    """
    for override in overrides:
        key = next(iter(_override({}, override)))
        if key not in kind.model_fields:
            raise ConfigError(_unknown(key, kind))


def _read_yaml(path: Path) -> Any:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {str(path)!r}: {error.strerror}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML: {detail[:300]}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got {type(data).__name__}.")
    return data


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once; PyYAML takes the last of several, in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # as written: what `<<` merges into it later may stand there already
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in known:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key.value!r} stands there a second time")
            known.add((key.tag, str(key.value)))
        return node


def _override(data: Any, text: str) -> Any:
    """Return `data` with one `key.sub=value` applied; digits index lists."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip("."):
        raise ConfigError(f"Cannot use {text!r}: write key.sub=value, such as seed=1.")
    try:
        leaf = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"The value of {key!r} is not YAML; put it in quotes.") from None
    return _replaced(data, key.split("."), leaf, key)


def _replaced(data: Any, keys: list[str], leaf: Any, key: str) -> Any:
    if not keys:
        return leaf
    head, *rest = keys
    if isinstance(data, list):
        if not head.isdecimal() or int(head) >= len(data):
            raise ConfigError(
                f"Cannot apply {key!r}: {head!r} must be a position from 0 to {len(data) - 1}."
            )
        index = int(head)
        return [*data[:index], _replaced(data[index], rest, leaf, key), *data[index + 1 :]]
    if data is not None and not isinstance(data, Mapping):
        at = key.removesuffix("." + ".".join(keys))
        shown = _shown(data, at.rpartition(".")[2])
        raise ConfigError(
            f"Cannot apply {key!r}: {at} is {shown} and has no parts. Write all of it: "
            f"'{at}={{{head}: ..., ...}}'."
        )
    branch = dict(data or {})
    branch[head] = _replaced(branch.get(head), rest, leaf, key)
    return branch


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first of pydantic's complaints in one line, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = [part for part in first["loc"] if part not in ("member", "member_name")]
    if len(path) >= 3 and path[0] == "reward_models":
        del path[2]  # the type, which is told by the value
    where = ".".join(map(str, path)) or "the configuration"
    shown = _shown(first["input"], str(path[-1]) if path else "")
    if first["type"] == "extra_forbidden":
        message = _unknown(where, kind)
    elif first["type"] == "union_tag_invalid":
        tags = (
            first["ctx"]["expected_tags"].replace("'", "").replace("custom", "package.module:Class")
        )
        *others, last = tags.split(", ")
        message = f"{where} must have a type: {', '.join(others)} or {last}, got {shown}."
    elif first["type"] == "missing":
        message = f"{where} is missing."
    else:
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":  # ours may begin with a name
            reason = f"{reason[0].lower()}{reason[1:]}"
        got = f" (got {shown})" if path else ""  # of all of it nothing can be told in a line
        message = f"{where} is wrong: {reason}{got}.{_number_hint(first['input'])}"
    more = f" ({len(problems) - 1} more problems.)" if len(problems) > 1 else ""
    return " ".join((message + more).split())


def _number_hint(value: Any) -> str:
    """For text that YAML does not read as a number, and everybody else does."""
    written = re.fullmatch(r"([-+]?\d+)([eE][-+]?\d+)", value) if isinstance(value, str) else None
    return f" YAML reads that as text; write {written[1]}.0{written[2]}." if written else ""


def _shown(value: Any, where: str) -> str:
    """A wrong value, but for what may be a secret; of a mapping the keys."""
    if where in ("api_key_env", "base_url", "endpoint"):
        return "what is not shown, because a key may be in it"
    if isinstance(value, Mapping):
        told = {key: value[key] if key in ("type", "name") else ... for key in value}
        text = repr(told).replace("Ellipsis", "...")
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _all_keys(kind: Any) -> set[str]:
    """The fields of a config and of all configs inside it."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        inner = (field.annotation for field in kind.model_fields.values())
        return set(kind.model_fields).union(*map(_all_keys, inner))
    return set().union(*map(_all_keys, get_args(kind)))


def _unknown(where: str, kind: type[BaseModel]) -> str:
    """That there is no such key, and which may be meant."""
    last = where.rpartition(".")[2]
    return f"Unknown key {where!r}.{_did_you_mean(last, sorted(_all_keys(kind)))}"


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    if word in known:
        return " There is such a key, but not in this place."
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
