"""What the parity check is asked to do."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, PositiveInt, Tag

from rm_cluster.config.base import Config
from rm_cluster.config.listing import scorer_type
from rm_cluster.config.reward_models import ClassifierConfig, LogprobConfig
from rm_cluster.config.runs import BenchmarkConfig, unique_names


class DoctorConfig(Config):
    """Which models are to be computed in how many ways, and on which rows."""

    reward_models: list[
        Annotated[
            Annotated[ClassifierConfig, Tag("classifier")]
            | Annotated[LogprobConfig, Tag("logprob")],
            Discriminator(scorer_type),
        ]
    ] = Field(min_length=1)
    benchmarks: list[BenchmarkConfig] = Field(min_length=1)
    num_rows: PositiveInt = 64
    """Of each benchmark, from its beginning."""
    output_dir: str = Field(default="results/doctor", min_length=1)
    """Folder or fsspec URL."""

    _unique_names = unique_names("reward_models", "benchmarks")
