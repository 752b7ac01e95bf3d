"""What a run is asked to do: pydantic models, read from YAML, a dict or the command line.

Every default stands in this package and nowhere else. Names are those of transformers and Ray where
a value passes through to them.
"""

from rm_cluster.config.annotate import AnnotateConfig, PairRule
from rm_cluster.config.base import Config
from rm_cluster.config.reward_models import (
    ClassifierConfig,
    CustomScorerConfig,
    EmbeddingConfig,
    EndpointConfig,
    GeneratorConfig,
    ImportedConfig,
    JudgeConfig,
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
    "AnnotateConfig",
    "BenchmarkConfig",
    "BenchmarkType",
    "ClassifierConfig",
    "Config",
    "CorrelateConfig",
    "CustomScorerConfig",
    "EmbeddingConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "GeneratorConfig",
    "ImportedConfig",
    "JudgeConfig",
    "LengthConfig",
    "LogprobConfig",
    "PairRule",
    "PretrainedConfig",
    "RewardModelConfig",
    "ScoringConfig",
    "ServingConfig",
]
