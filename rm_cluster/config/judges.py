"""Language models as judges, here or behind an endpoint."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rm_cluster.config.base import Config
from rm_cluster.config.pretrained import PretrainedConfig


class EndpointConfig(Config):
    """An OpenAI-compatible server, and how it is asked."""

    base_url: str
    """Up to where `/chat/completions` follows, such as http://host:8000/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    timeout_s: PositiveFloat = 60.0
    """Of one try."""
    max_retries: NonNegativeInt = 6
    """Of what may pass: 429, 5xx, time-outs, lost connections, answers that are none."""
    requests_per_minute: PositiveFloat | None = None
    max_concurrency: PositiveInt = 8
    """Requests in flight at a time."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request; null takes one of ours out, such as temperature: null."""

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if re.fullmatch(r"https?://[^\s@?#]+", url) is None:
            raise ValueError("it must begin with http:// or https://, without user or query")
        return url

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) is None:
            raise ValueError(
                "it must be the NAME of an environment variable in capitals, such as OPENAI_API_KEY"
            )
        return name


class JudgeConfig(PretrainedConfig):
    """A language model that is asked which reply is better, or how good one is."""

    type: Literal["judge"] = "judge"
    method: Literal["logits", "verdict", "yes", "rating"] = "logits"
    """Two replies in both orders, by the logits of A and B or a verdict in words; or one reply, by
    the probability of Yes over No or a rating in words."""
    compare: Literal["pairs", "round_robin"] = "pairs"
    """By logits or verdict: what the benchmark compares, or each two completions of a prompt."""
    judge_prompt: str | None = None
    """A .jinja file or Jinja text instead of our own; see `JudgePrompt`."""
    template: str | None = None
    """As for a classifier."""
    max_new_tokens: PositiveInt = 512
    """Of a verdict or rating in words."""
    endpoint: EndpointConfig | None = None
    """Where `model` is served; it runs on our own replicas where None."""
    seed: NonNegativeInt = 0
    """Of the codes that fence the texts to be judged."""

    @property
    def is_pairwise(self) -> bool:
        """Whether it sees two completions at a time."""
        return self.method in ("logits", "verdict")

    @property
    def only_compares(self) -> bool:
        """Whether it has margins of a benchmark's pairs, and no rewards."""
        return self.is_pairwise and self.compare == "pairs"

    @model_validator(mode="after")
    def _consistent(self) -> JudgeConfig:
        if self.compare == "round_robin" and not self.is_pairwise:
            raise ValueError(
                f"compare: round_robin is for the methods logits and verdict; {self.method} judges "
                "one reply by itself"
            )
        local = [
            name
            for name, field in PretrainedConfig.model_fields.items()
            if name not in ("model", "name")
            and getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        if self.endpoint is not None and local:
            raise ValueError(f"{local[0]} is for models that run here, not behind an endpoint")
        return self
