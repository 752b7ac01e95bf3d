"""What the generate job is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from rm_cluster.config.base import Config
from rm_cluster.config.pretrained import GeneratorConfig
from rm_cluster.config.runs import BENCHMARK_TYPES, BenchmarkConfig, ScoringConfig, ServingConfig


class GenerateConfig(Config):
    """Candidates of a policy, several for each prompt."""

    policy: GeneratorConfig
    """The model that is sampled, and how; `n` is the number of candidates of each prompt."""
    prompts: BenchmarkConfig
    """A file of prompts or of preferences, whose replies are left out, or a known benchmark."""
    limit: PositiveInt | None = None
    """Prompts; a limited run is stamped PARTIAL."""
    verifier: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function` that takes a row and a completion and returns its gold value."""
    serving: ServingConfig = ServingConfig()
    scoring: ScoringConfig = ScoringConfig()
    """How prompts travel; a request holds a prompt's tokens once for each of its candidates."""
    output_dir: str = Field(default="results/generate", min_length=1)
    """Folder or fsspec URL that every node can reach."""
    seed: NonNegativeInt = 0
    """Of the intervals; that of the samples is `policy.seed`."""

    @field_validator("prompts", mode="before")
    @classmethod
    def _files_hold_prompts(cls, data: Any) -> Any:
        if isinstance(data, str) and data not in BENCHMARK_TYPES:
            data = {"path": data}
        if isinstance(data, Mapping) and "type" not in data:
            known = data.get("name") in BENCHMARK_TYPES
            return data if known else {**data, "type": "prompts"}
        return data
