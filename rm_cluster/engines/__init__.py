"""How a forward pass runs: on torch or on vLLM, in modules that have the same classes.

`torch_engine` and `vllm_engine` both have a `ClassifierEngine`, a `LogprobEngine`, an
`EmbeddingEngine` and a `SamplingEngine`, with the same arguments and methods.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from rm_cluster.config import PretrainedConfig


def engine_module(config: PretrainedConfig) -> ModuleType:
    """Import the module that runs a model."""
    return importlib.import_module(f"rm_cluster.engines.{config.engine}_engine")
