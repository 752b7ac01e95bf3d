"""All that torch measures, under the names that `vllm_engine` has too."""

from rm_cluster.engines.classifier import ClassifierEngine
from rm_cluster.engines.embedding import EmbeddingEngine
from rm_cluster.engines.logprobs import LogprobEngine
from rm_cluster.engines.sampling import SamplingEngine

__all__ = ["ClassifierEngine", "EmbeddingEngine", "LogprobEngine", "SamplingEngine"]
