"""What runs on a replica: each scorer turns rows into token ids, and token ids into rewards.

Embeddings and sampled completions, which are no rewards, are measured in the calling process.
"""

from __future__ import annotations

import importlib

from rm_cluster.config import (
    ClassifierConfig,
    CustomScorerConfig,
    GeneratorConfig,
    JudgeConfig,
    LengthConfig,
    LogprobConfig,
    RouterConfig,
    ScoringConfig,
)
from rm_cluster.errors import ConfigError
from rm_cluster.scorers.classifier import Classifier
from rm_cluster.scorers.embedding import Embedding
from rm_cluster.scorers.ensemble import Ensemble
from rm_cluster.scorers.generator import Generator
from rm_cluster.scorers.judge import Judge
from rm_cluster.scorers.length import Length
from rm_cluster.scorers.log_ratio import LogRatio
from rm_cluster.scorers.logprob import Logprob
from rm_cluster.scorers.router import Router
from rm_cluster.scorers.scorer import Scorer

__all__ = [
    "AnyModelConfig",
    "AnyScorerConfig",
    "Classifier",
    "Embedding",
    "Ensemble",
    "Generator",
    "Judge",
    "Length",
    "LogRatio",
    "Logprob",
    "Router",
    "Scorer",
    "build_model",
    "build_scorer",
]

AnyScorerConfig = (
    ClassifierConfig
    | LogprobConfig
    | JudgeConfig
    | RouterConfig
    | LengthConfig
    | CustomScorerConfig
)
AnyModelConfig = AnyScorerConfig | GeneratorConfig


def build_model(config: AnyModelConfig, scoring: ScoringConfig) -> Scorer | Generator:
    """Build what a replica runs, without its weights.

    Raises:
        ConfigError: It cannot be built, and why.
    """
    if isinstance(config, GeneratorConfig) and not isinstance(config, RouterConfig):
        return Generator(**config.model_dump())
    return build_scorer(config, scoring)


def build_scorer(config: AnyScorerConfig, scoring: ScoringConfig) -> Scorer:
    """Build the scorer that a config describes, without its weights.

    Raises:
        ConfigError: It cannot be built, and why.
    """
    match config:
        case ClassifierConfig():
            return Classifier(truncation=scoring.truncation, **config.model_dump())
        case LogprobConfig():
            return Logprob(truncation=scoring.truncation, **config.model_dump())
        case JudgeConfig():
            return Judge(truncation=scoring.truncation, **config.model_dump())
        case RouterConfig():
            return Router(**config.model_dump())
        case LengthConfig():
            return Length(**config.model_dump())
        case CustomScorerConfig():
            return _custom(config)


def _custom(config: CustomScorerConfig) -> Scorer:
    module, _, name = config.type.partition(":")
    try:
        scorer: Scorer = getattr(importlib.import_module(module), name)(**config.options)
    except Exception as error:  # it is the user's code
        raise ConfigError(f"Cannot build {config.name!r} from {config.type!r}: {error}") from None
    return scorer
