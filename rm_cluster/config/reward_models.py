"""Reward models, as a configuration names them. Names are those of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from rm_cluster.config.base import Config, with_default_name


class PretrainedConfig(Config):
    """What all pretrained models of Hugging Face have in common here."""

    model: str = Field(min_length=1)
    """Local folder or hub id; weights in safetensors."""
    name: str = ""
    """How reports call it; the last part of `model` where not given."""
    revision: str = "main"
    tokenizer: str | None = None
    """Local folder or hub id of the tokenizer; `model` where not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: PositiveInt | None = None
    """Tokens; the model's own limit where None."""
    engine: Literal["torch"] = "torch"
    attn_implementation: str | None = None
    """One of transformers', for padded batches; our own, with shared prefixes, where None."""
    trust_remote_code: bool = False
    tokens_per_batch: PositiveInt | None = None
    """Tokens in one forward pass, padding included; 2048 on a CPU and 8192 on a GPU where None."""

    @model_validator(mode="before")
    @classmethod
    def _name_after_model(cls, data: Any) -> Any:
        return with_default_name(data, "model")


class ClassifierConfig(PretrainedConfig):
    """A Hugging Face sequence classifier with one label, whose logit is the reward."""

    type: Literal["classifier"] = "classifier"
    template: str | None = None
    """`plain`, `concat`, a .jinja file or Jinja text; the tokenizer's own chat template if None."""


class LogprobConfig(PretrainedConfig):
    """A causal language model; the reward is the log-probability of the completion, in nats."""

    type: Literal["logprob"] = "logprob"
    template: str | None = None
    """As for a classifier."""
    include_eos: bool = True
    """Whether the token that ends the turn counts as the last of the completion."""


class GeneratorConfig(PretrainedConfig):
    """A causal language model, and how completions are sampled from it."""

    template: str | None = None
    """As for a classifier."""
    n: PositiveInt = 1
    """Samples of each prompt."""
    max_new_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: NonNegativeInt = 0


class EmbeddingConfig(PretrainedConfig):
    """An encoder whose mean-pooled states are embeddings."""

    truncate: bool = False
    """Whether a text over max_length loses its end; it is an error if not."""


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
            if name not in ("model", "name") and getattr(self, name) != field.default
        ]
        if self.endpoint is not None and local:
            raise ValueError(f"{local[0]} is for models that run here, not behind an endpoint")
        return self


class LengthConfig(Config):
    """Counts the completion's tokens: the verbosity baseline, and a dry run without weights."""

    type: Literal["length"] = "length"
    name: str = Field(default="length", min_length=1)
    tokenizer: str | None = None
    """Local folder or hub id; words and punctuation marks are counted where None."""
    revision: str = "main"


class ImportedConfig(Config):
    """Scores that were computed elsewhere: nothing is run."""

    type: Literal["imported"] = "imported"
    path: str = Field(min_length=1)
    """File, folder, zip or fsspec URL; in a folder, the files that bear `name`, if any do."""
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        return with_default_name(data, "path")


class CustomScorerConfig(Config):
    """A scorer of the user's own: `type: package.module:Class`, built as `Class(**options)`."""

    type: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


def _scorer_type(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "custom" if isinstance(kind, str) and ":" in kind else str(kind)


RewardModelConfig = Annotated[
    Annotated[ClassifierConfig, Tag("classifier")]
    | Annotated[LogprobConfig, Tag("logprob")]
    | Annotated[JudgeConfig, Tag("judge")]
    | Annotated[LengthConfig, Tag("length")]
    | Annotated[ImportedConfig, Tag("imported")]
    | Annotated[CustomScorerConfig, Tag("custom")],
    Discriminator(_scorer_type),
]
