"""What every part of a configuration has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_yaml(self) -> str:
        """The whole config with its defaults, to be read again."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def with_default_name(data: Any, source: str) -> Any:
    if isinstance(data, Mapping) and not data.get("name") and isinstance(data.get(source), str):
        last = data[source].rstrip("/").rsplit("/", 1)[-1]
        return {**data, "name": last if source == "model" else last.split(".")[0] or last}
    return data
