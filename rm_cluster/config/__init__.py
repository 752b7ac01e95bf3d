"""What a run is asked to do: pydantic models, read from YAML, a dict or the command line.

Every default stands in this package and nowhere else. Names are those of transformers and Ray where
a value passes through to them.
"""

from rm_cluster.config.base import Config
from rm_cluster.config.generate import GenerateConfig
from rm_cluster.config.reward_models import (
    ClassifierConfig,
    CustomScorerConfig,
    EmbeddingConfig,
    GeneratorConfig,
    ImportedConfig,
    LengthConfig,
    LogprobConfig,
    PretrainedConfig,
    RewardModelConfig,
)
from rm_cluster.config.runs import (
    BENCHMARK_TYPES,
    PUBLISHED,
    BenchmarkConfig,
    BenchmarkType,
    CorrelateConfig,
    EvaluateConfig,
    ScoringConfig,
    ServingConfig,
)

__all__ = [
    "BENCHMARK_TYPES",
    "PUBLISHED",
    "BenchmarkConfig",
    "BenchmarkType",
    "ClassifierConfig",
    "Config",
    "CorrelateConfig",
    "CustomScorerConfig",
    "EmbeddingConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "GeneratorConfig",
    "ImportedConfig",
    "LengthConfig",
    "LogprobConfig",
    "PretrainedConfig",
    "RewardModelConfig",
    "ScoringConfig",
    "ServingConfig",
]
