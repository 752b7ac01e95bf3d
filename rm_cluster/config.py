"""What a run is asked to do: pydantic models, read from YAML, a dict or the command line.

Every default stands here and nowhere else. Names are those of transformers and Ray where a value
passes through to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
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


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_yaml(self) -> str:
        """The whole config with its defaults, to be read again."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


class PretrainedConfig(_Config):
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
        return _with_default_name(data, "model")


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


class LengthConfig(_Config):
    """Counts the completion's tokens: the verbosity baseline, and a dry run without weights."""

    type: Literal["length"] = "length"
    name: str = Field(default="length", min_length=1)
    tokenizer: str | None = None
    """Local folder or hub id; words and punctuation marks are counted where None."""
    revision: str = "main"


class ImportedConfig(_Config):
    """Scores that were computed elsewhere: nothing is run."""

    type: Literal["imported"] = "imported"
    path: str = Field(min_length=1)
    """File, folder, zip or fsspec URL; in a folder, the files that bear `name`, if any do."""
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        return _with_default_name(data, "path")


class CustomScorerConfig(_Config):
    """A scorer of the user's own: `type: package.module:Class`, built as `Class(**options)`."""

    type: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    name: str = Field(min_length=1)
    options: dict[str, Any] = {}


def _scorer_type(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "custom" if isinstance(kind, str) and ":" in kind else str(kind)


RewardModelConfig = Annotated[
    Annotated[ClassifierConfig, Tag("classifier")]
    | Annotated[LogprobConfig, Tag("logprob")]
    | Annotated[LengthConfig, Tag("length")]
    | Annotated[ImportedConfig, Tag("imported")]
    | Annotated[CustomScorerConfig, Tag("custom")],
    Discriminator(_scorer_type),
]

BenchmarkType = Literal["ppe", "preferences", "rewardbench", "rewardbench2", "rm-bench"]
BENCHMARK_TYPES: tuple[str, ...] = get_args(BenchmarkType)


class BenchmarkConfig(_Config):
    """What is judged: a known benchmark, or preferences in the user's own files."""

    name: str = Field(min_length=1)
    type: BenchmarkType
    """Who reads it; from `name` where that is a known benchmark, else `preferences`."""
    path: str | None = Field(default=None, min_length=1)
    """File, folder, fsspec URL or data set on the hub; the benchmark's own on the hub if None."""
    split: str | None = None
    """Split of a data set on the hub; the benchmark's own, or train, where None."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data} if data in BENCHMARK_TYPES else {"path": data}
        data = _with_default_name(data, "path")
        if isinstance(data, Mapping) and "type" not in data:
            name = data.get("name")
            data = {**data, "type": name if name in BENCHMARK_TYPES else "preferences"}
        return data

    @model_validator(mode="after")
    def _has_a_source(self) -> BenchmarkConfig:
        if self.type == "preferences" and self.path is None:
            raise ValueError(f"preferences need a path; known benchmarks: {_names()}")
        return self


class ServingConfig(_Config):
    """How many replicas of a reward model run, on what, and how they scale."""

    min_replicas: NonNegativeInt = 0
    max_replicas: PositiveInt | None = None
    """One per GPU that the cluster has or can get, or one per node without GPUs, where None."""
    num_gpus: NonNegativeFloat | None = None
    """GPUs per replica; if None, 1 where the cluster can have any and the scorer uses them."""
    num_cpus: PositiveFloat | None = None
    """CPUs that a replica reserves; if None, 1 beside a GPU, else 0.4 or what is there for each."""
    max_ongoing_requests: PositiveInt = 2
    """Requests at one replica: one being scored, the rest waiting there to keep it busy."""
    autoscaling: dict[str, Any] = {}
    """Further fields of Ray Serve's AutoscalingConfig, passed through, such as upscale_delay_s."""

    @model_validator(mode="after")
    def _ordered(self) -> ServingConfig:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas <= max_replicas must hold, got {self.min_replicas} and "
                f"{self.max_replicas}"
            )
        return self


class ScoringConfig(_Config):
    """How prompts travel to the replicas, and what happens to those that cannot be scored."""

    tokens_per_request: PositiveInt = 16384
    """Token budget of one request; a larger prompt group travels alone."""
    truncation: Literal["error", "left_prompt"] = "error"
    """A text over max_length is an error of its row, or loses the left of its prompt."""
    max_failed_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """A run fails, after saving everything, when a larger share of prompts failed."""


class EvaluateConfig(_Config):
    """A whole evaluation: reward models, benchmarks and how to run them."""

    reward_models: list[RewardModelConfig] = Field(min_length=1)
    benchmarks: list[BenchmarkConfig] = Field(min_length=1)
    limit: PositiveInt | None = None
    """Prompts per benchmark; a limited run is stamped PARTIAL."""
    serving: ServingConfig = ServingConfig()
    scoring: ScoringConfig = ScoringConfig()
    downstream: str | None = Field(default=None, min_length=1)
    """Table of outcomes (reward_model, outcome, value) to correlate the metrics with."""
    output_dir: str = Field(default="results/evaluate", min_length=1)
    """Folder or fsspec URL that every node can reach."""
    seed: NonNegativeInt = 0

    @field_validator("reward_models", "benchmarks")
    @classmethod
    def _unique_names(cls, items: list[Any]) -> list[Any]:
        names = [item.name for item in items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ, got {', '.join(map(repr, twice))} more than once")
        return items


PUBLISHED = "published"
"""Stands for the tables of the papers in the place of a path."""


class CorrelateConfig(_Config):
    """Which metrics to correlate with which outcomes."""

    metrics: list[str] = Field(min_length=1)
    """Tables of metrics or folders of results, put together; `published` are PPE's."""
    downstream: str = Field(min_length=1)
    """Table of outcomes (reward_model, outcome, value); `published` are Chatbot Arena scores."""
    base_models: str | None = Field(default=None, min_length=1)
    """Table of base models to choose among, if any; `published` are 40 with RewardBench scores."""
    output_dir: str = Field(default="results/correlate", min_length=1)
    """Folder or fsspec URL."""
    seed: NonNegativeInt = 0


def _with_default_name(data: Any, source: str) -> Any:
    if isinstance(data, Mapping) and not data.get("name") and isinstance(data.get(source), str):
        last = data[source].rstrip("/").rsplit("/", 1)[-1]
        return {**data, "name": last if source == "model" else last.split(".")[0] or last}
    return data


def _names() -> str:
    return ", ".join(name for name in BENCHMARK_TYPES if name != "preferences")
