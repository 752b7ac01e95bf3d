"""What is judged, how it runs, and what each job is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rm_cluster.config.base import Config, with_default_name
from rm_cluster.config.derived import PairSweepConfig
from rm_cluster.config.listing import RewardModelConfig, check_members

BenchmarkType = Literal["ppe", "preferences", "prompts", "rewardbench", "rewardbench2", "rm-bench"]
BENCHMARK_TYPES: tuple[str, ...] = get_args(BenchmarkType)
_OWN_FILES = ("preferences", "prompts")
KNOWN_BENCHMARKS = ", ".join(name for name in BENCHMARK_TYPES if name not in _OWN_FILES)


class BenchmarkConfig(Config):
    """What is judged: a known benchmark, or preferences in the user's own files."""

    name: str = Field(min_length=1)
    type: BenchmarkType
    """Who reads it; from `name` where that is a known benchmark, else `preferences`."""
    path: str | None = Field(default=None, min_length=1)
    """File, folder, fsspec URL or data set on the hub; the benchmark's own on the hub if None."""
    split: str | None = None
    """Of a data set on the hub, whose own it is or train where None, or files of a folder."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data} if data in BENCHMARK_TYPES else {"path": data}
        data = with_default_name(data, "path")
        if isinstance(data, Mapping) and "type" not in data:
            name = data.get("name")
            data = {**data, "type": name if name in BENCHMARK_TYPES else "preferences"}
        return data

    @model_validator(mode="after")
    def _has_a_source(self) -> BenchmarkConfig:
        if self.type in _OWN_FILES and self.path is None:
            raise ValueError(f"{self.type} need a path; known benchmarks: {KNOWN_BENCHMARKS}")
        return self


class ServingConfig(Config):
    """How many replicas of a reward model run, on what, and how they scale."""

    min_replicas: NonNegativeInt = 0
    max_replicas: PositiveInt | None = None
    """One per GPU that the cluster has or can get, or one per node without GPUs, where None."""
    num_gpus: NonNegativeFloat | None = None
    """GPUs per replica; if None, 1 where the cluster can have any and the scorer uses them."""
    num_cpus: PositiveFloat | None = None
    """CPUs that a replica reserves; if None, 1 beside a GPU, else 0.4 or what is there for each."""
    max_ongoing_requests: PositiveInt = 2
    """Requests at one replica: being scored, or waiting there to keep it busy."""
    autoscaling: dict[str, Any] = Field(default_factory=dict)
    """Further fields of Ray Serve's AutoscalingConfig, passed through, such as upscale_delay_s."""

    @model_validator(mode="after")
    def _ordered(self) -> ServingConfig:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas <= max_replicas must hold, got {self.min_replicas} and "
                f"{self.max_replicas}"
            )
        return self


class ScoringConfig(Config):
    """How prompts travel to the replicas, and what happens to those that cannot be scored."""

    tokens_per_request: PositiveInt = 16384
    """Token budget of one request, in which what texts of a prompt group begin with alike counts
    once; a larger prompt group travels alone."""
    truncation: Literal["error", "left_prompt"] = "error"
    """A text over max_length is an error of its row, or loses the left of its prompt."""
    max_failed_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """A run fails, after saving everything, when a larger share of prompts failed."""


def unique_names(*fields: str) -> Any:
    """A validator that the names in lists of named things differ."""

    def check(items: list[Any]) -> list[Any]:
        names = [item.name for item in items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ, got {', '.join(map(repr, twice))} more than once")
        return items

    return field_validator(*fields)(check)


class EvaluateConfig(Config):
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

    _unique_names = unique_names("reward_models", "benchmarks")

    @field_validator("benchmarks")
    @classmethod
    def _have_completions(cls, benchmarks: list[BenchmarkConfig]) -> list[BenchmarkConfig]:
        for benchmark in benchmarks:
            if benchmark.type == "prompts":
                raise ValueError(
                    "prompts have no completions to judge; jobs/generate.py makes some"
                )
        return benchmarks

    @field_validator("reward_models")
    @classmethod
    def _members_are_there(cls, models: list[RewardModelConfig]) -> list[RewardModelConfig]:
        check_members(models)
        return models

    @model_validator(mode="after")
    def _swept_benchmarks_are_there(self) -> EvaluateConfig:
        names = [benchmark.name for benchmark in self.benchmarks]
        for model in self.reward_models:
            swept = model.benchmarks or [] if isinstance(model, PairSweepConfig) else []
            for name in swept:
                if name not in names:
                    raise ValueError(
                        f"{model.name} sweeps {name!r}, which is none of the benchmarks; they are "
                        f"{', '.join(names)}"
                    )
        return self


PUBLISHED = "published"
"""Stands for the tables of the papers in the place of a path."""


class CorrelateConfig(Config):
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
