"""Reward heads of causal models that are saved under other names than transformers gives them.

transformers looks for `score.weight`. TRL's `AutoModelForCausalLMWithValueHead` writes
`v_head.summary`, with a bias; others write `v_head`, `value_head` or `classifier`. Whatever the
name, it is one linear layer on the last hidden state of the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rm_cluster.config import PretrainedConfig
from rm_cluster.errors import ConfigError

NATIVE = "score"
HEADS = (
    "score", "classifier", "v_head.summary", "v_head", "value_head.summary", "value_head",
    "reward_head",
)  # fmt: skip
"""Where the head may be; the first that is there counts."""


def attach_head(model: Any, config: PretrainedConfig, missing: Sequence[str]) -> bool:
    """Give a causal model the head of its checkpoint, if transformers did not find it.

    Args:
        model: A sequence classifier of transformers, loaded.
        config: Where its checkpoint is.
        missing: Names of the weights that were not found.

    Returns:
        Whether nothing is missing any more; not so where more than such a head was.

    Raises:
        ConfigError: There is no head of a known name, or it does not fit.
    """
    if list(missing) != [f"{NATIVE}.weight"]:
        return False
    files = _tensors(config)
    name = next((head for head in HEADS if f"{head}.weight" in files), None)
    if name is None:
        raise ConfigError(
            f"{config.name} has no reward head: none of its tensors is called {', '.join(HEADS)} "
            "(.weight). A head must be one linear layer under one of these names."
        )
    weight = _read(files[f"{name}.weight"], f"{name}.weight").float()
    bias = files.get(f"{name}.bias")
    if weight.ndim != 2 or weight.shape[1] != model.score.in_features:
        raise ConfigError(
            f"{config.name}: {name}.weight has the shape {tuple(weight.shape)}; a head on its "
            f"hidden states is [outputs, {model.score.in_features}]."
        )
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(_read(bias, f"{name}.bias").float())
    model.score = head
    return True


def read_in_full(head: torch.nn.Module, prefix: str, config: PretrainedConfig) -> None:
    """Let the head of a model be float32, as precise as its checkpoint has it.

    Args:
        head: Loaded, maybe in fewer bits.
        prefix: What its tensors are called, up to the dot.
        config: Where its checkpoint is.
    """
    head.float()
    if config.extrapolate is not None:
        return  # its weights are in no file
    files = _tensors(config)
    with torch.no_grad():
        for name, weight in head.named_parameters(prefix):
            if name in files:
                weight.copy_(_read(files[name], name))


def _tensors(config: PretrainedConfig) -> dict[str, Path]:
    """By name, the file that holds each tensor of a checkpoint that is here."""
    found = {}
    for file in sorted(_folder(config).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found.update(dict.fromkeys(tensors.keys(), file))
    return found


def _folder(config: PretrainedConfig) -> Path:
    """The local folder, or the snapshot of the hub's that was just loaded from."""
    if Path(config.model).is_dir():
        return Path(config.model)
    from transformers.utils import cached_file

    return Path(str(cached_file(config.model, "config.json", revision=config.revision))).parent


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor
