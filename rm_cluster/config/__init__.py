"""What a run is asked to do: pydantic models, read from YAML, a dict or the command line.

Every default stands in this package and nowhere else. Names are those of transformers and Ray where
a value passes through to them.
"""

from rm_cluster.config.base import Config
from rm_cluster.config.derived import (
    EnsembleConfig,
    EnsembleRule,
    LogRatioConfig,
    PairSweepConfig,
)
from rm_cluster.config.listing import RewardModelConfig
from rm_cluster.config.reward_models import (
    CausalConfig,
    ClassifierConfig,
    CustomScorerConfig,
    EmbeddingConfig,
    ExtrapolationConfig,
    GeneratorConfig,
    ImportedConfig,
    LengthConfig,
    LogprobConfig,
    Normalize,
    PretrainedConfig,
    RendererConfig,
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
    "CausalConfig",
    "ClassifierConfig",
    "Config",
    "CorrelateConfig",
    "CustomScorerConfig",
    "EmbeddingConfig",
    "EnsembleConfig",
    "EnsembleRule",
    "EvaluateConfig",
    "ExtrapolationConfig",
    "GeneratorConfig",
    "ImportedConfig",
    "LengthConfig",
    "LogRatioConfig",
    "LogprobConfig",
    "Normalize",
    "PairSweepConfig",
    "PretrainedConfig",
    "RendererConfig",
    "RewardModelConfig",
    "ScoringConfig",
    "ServingConfig",
]
