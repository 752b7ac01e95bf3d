"""What a run is asked to do: pydantic models, read from YAML, a dict or the command line.

Every default stands in this package and nowhere else. Names are those of transformers and Ray where
a value passes through to them.
"""

from rm_cluster.config.annotate import AnnotateConfig, PairRule
from rm_cluster.config.base import Config
from rm_cluster.config.customize import (
    CustomizeConfig,
    DomainConfig,
    ExemplarConfig,
    RouterConfig,
    TemplatesConfig,
)
from rm_cluster.config.derived import (
    EnsembleConfig,
    EnsembleRule,
    LogRatioConfig,
    PairSweepConfig,
)
from rm_cluster.config.generate import GenerateConfig
from rm_cluster.config.judges import EndpointConfig, JudgeConfig
from rm_cluster.config.listing import RewardModelConfig
from rm_cluster.config.parity import DoctorConfig
from rm_cluster.config.pretrained import (
    EmbeddingConfig,
    ExtrapolationConfig,
    GeneratorConfig,
    PretrainedConfig,
)
from rm_cluster.config.reward_models import (
    CausalConfig,
    ClassifierConfig,
    CustomScorerConfig,
    ImportedConfig,
    LengthConfig,
    LogprobConfig,
    Normalize,
    RendererConfig,
)
from rm_cluster.config.runs import (
    BENCHMARK_TYPES,
    KNOWN_BENCHMARKS,
    PUBLISHED,
    BenchmarkConfig,
    BenchmarkType,
    CorrelateConfig,
    EvaluateConfig,
    ScoringConfig,
    ServingConfig,
)
from rm_cluster.config.search import CallbackConfig, SearchConfig, SearchSpace

__all__ = [
    "BENCHMARK_TYPES",
    "KNOWN_BENCHMARKS",
    "PUBLISHED",
    "AnnotateConfig",
    "BenchmarkConfig",
    "BenchmarkType",
    "CallbackConfig",
    "CausalConfig",
    "ClassifierConfig",
    "Config",
    "CorrelateConfig",
    "CustomScorerConfig",
    "CustomizeConfig",
    "DoctorConfig",
    "DomainConfig",
    "EmbeddingConfig",
    "EndpointConfig",
    "EnsembleConfig",
    "EnsembleRule",
    "EvaluateConfig",
    "ExemplarConfig",
    "ExtrapolationConfig",
    "GenerateConfig",
    "GeneratorConfig",
    "ImportedConfig",
    "JudgeConfig",
    "LengthConfig",
    "LogRatioConfig",
    "LogprobConfig",
    "Normalize",
    "PairRule",
    "PairSweepConfig",
    "PretrainedConfig",
    "RendererConfig",
    "RewardModelConfig",
    "RouterConfig",
    "ScoringConfig",
    "SearchConfig",
    "SearchSpace",
    "ServingConfig",
    "TemplatesConfig",
]
