"""In which ways a model is computed, and the one function that computes it in one of them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.config import ClassifierConfig, LogprobConfig, ScoringConfig
from rm_cluster.engines import vllm_api
from rm_cluster.scorers import Classifier, Logprob, build_scorer
from rm_cluster.scorers.scorer import TokenIds

BATCH_SIZE = 8
"""Of plain padded batches; RewardBench's own."""

AnyModel = ClassifierConfig | LogprobConfig
Pad = Literal["own", "eos"]


class Condition(NamedTuple):
    """One way to compute a model."""

    engine: Literal["transformers", "torch", "vllm"]
    how: str
    dtype: str
    pad: Pad = "own"
    alone: bool = False
    """Each text by itself."""
    attention: str | None = None
    """Of transformers' own, in padded batches, for our engine."""


def conditions(
    *, dtype: str, packed: bool, pads: Sequence[Pad], attention: str | None
) -> list[Condition]:
    """Every way to compute a model, but for the reference.

    Args:
        dtype: The model's own.
        packed: Whether our engine lets its texts share rows.
        pads: Which pad tokens it can have; `eos` only where a text is read off its last token.
        attention: Which of transformers' own the user has chosen, if any.
    """
    many = "many, packed" if packed else "many, padded"
    found = [Condition("transformers", f"batches of {BATCH_SIZE}", "float32", pad) for pad in pads]
    found.append(Condition("torch", "one at a time", "float32", alone=True))
    found += [Condition("torch", many, "float32", pad) for pad in pads]
    if packed:
        found += [
            Condition("torch", "many, padded", "float32", pad, attention="eager") for pad in pads
        ]
    if attention is not None:
        chosen = f"many, {attention}"
        found += [Condition("torch", chosen, "float32", pad, attention=attention) for pad in pads]
    found.append(Condition("vllm", "one at a time", "float32", alone=True))
    found += [Condition("vllm", "many", "float32", pad) for pad in pads]
    if dtype != "float32":
        many = many if attention is None else f"many, {attention}"
        found += [
            Condition("transformers", "one at a time", dtype, alone=True),
            Condition("torch", many, dtype, attention=attention),
            Condition("vllm", "many", dtype),
        ]
    return found


def compute(
    config: AnyModel, condition: Condition, groups: Sequence[Sequence[TokenIds]], eos: int | None
) -> npt.NDArray[np.float64]:
    """Return the values of all texts of all groups under our engine or vLLM.

    Raises:
        ConfigError: The engine cannot run the model.
    """
    with _pad_token(config, condition.pad, eos) as there:
        # options of one engine are no options of another
        args = config.engine_args if condition.engine == config.engine == "vllm" else {}
        changes: dict[str, Any] = {
            **there,
            "engine": condition.engine,
            "engine_args": args,
            "dtype": condition.dtype,
            "attn_implementation": condition.attention,
        }
        scorer = build_scorer(config.model_copy(update=changes), ScoringConfig())
        assert isinstance(scorer, Classifier | Logprob)
        scorer.load()
        texts = [text for group in groups for text in group]
        calls = [[[text]] for text in texts] if condition.alone else [groups]
        values = [value for call in calls for value in scorer.score_encoded(call)]
    vllm_api.free()
    return np.concatenate(values)


@contextlib.contextmanager
def _pad_token(config: AnyModel, pad: Pad, eos: int | None) -> Iterator[dict[str, Any]]:
    """Yield which fields of the config to change for a model with that pad token."""
    if pad == "own":
        yield {}
        return
    from transformers.utils import cached_file

    folder = Path(str(cached_file(config.model, "config.json", revision=config.revision))).parent
    with tempfile.TemporaryDirectory() as other:
        for file in folder.iterdir():
            if file.name != "config.json":
                (Path(other) / file.name).symlink_to(file.resolve())
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings["pad_token_id"] = eos
        (Path(other) / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        yield {"model": other, "tokenizer": config.tokenizer or config.model}
