"""The doctor: runs every condition beside the reference, and tells by how much each is off."""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.config import BenchmarkConfig, DoctorConfig, LogprobConfig, ScoringConfig
from rm_cluster.engines import vllm_arguments
from rm_cluster.engines.packing import is_packed
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.parity.conditions import (
    BATCH_SIZE,
    AnyModel,
    Condition,
    Pad,
    compute,
    conditions,
)
from rm_cluster.parity.result import DoctorResult
from rm_cluster.parsing import parse_config
from rm_cluster.scorers import Classifier, Logprob
from rm_cluster.scorers.pretrained import Pretrained
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds
from rm_cluster.store import Folder
from rm_cluster.types import Row
from rm_cluster.versions import versions

logger = logging.getLogger(__name__)

TOLERANCE = {"classifier": 1e-5, "logprob": 1e-4}
"""Absolute, of a reward and of a sum of log-probs, to which comes `RELATIVE` of the value."""
RELATIVE = 1e-6
"""Some units in the last place of a float32, which large values cannot be held to."""

Values = npt.NDArray[np.float64]


class Encoded(NamedTuple):
    """The rows that a model can score, as token ids."""

    groups: list[list[TokenIds]]
    pairs: npt.NDArray[np.int64]
    """[P, 2] the texts, counted through, of each comparison that is no tie: chosen, rejected."""
    num_failed: int
    """Rows without tokens, mostly because they are too long."""


class Case(NamedTuple):
    """One model, and what it came to under the conditions so far."""

    model: AnyModel
    encoded: Encoded
    texts: list[TokenIds]
    eos: int | None
    expected: Values
    """[n] by the reference."""
    found: dict[Condition, tuple[Values | str, float] | None]
    """Values, or why there are none, and seconds; None where that is to come."""


def doctor(config: DoctorConfig | Mapping[str, Any] | str | Path) -> DoctorResult:
    """Compute models in many ways on the same rows, and save and return by how much they differ.

    The reference is plain transformers in float32, one text at a time. Runs in this process,
    without Ray. vLLM's disagreement is told and decides nothing.

    Args:
        config: A `DoctorConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration or a model cannot be used.
        DataFormatError: A benchmark cannot be read, or a model can score none of the rows.
    """
    run = parse_config(DoctorConfig, config)
    started = time.monotonic()
    _announce(run)
    rows = [row for benchmark in run.benchmarks for row in _rows(benchmark, run.num_rows)]
    scorers: dict[str, Classifier | Logprob] = {
        model.name: _scorer(model) for model in run.reward_models
    }
    encoded = [
        _encode(model, scorers[model.name].encode(rows), rows) for model in run.reward_models
    ]
    cases = [
        _examine(model, scorers[model.name].pretrained, its)
        for model, its in zip(run.reward_models, encoded, strict=True)
    ]
    lines = [line for case in cases for line in _finish(case)]
    result = DoctorResult(
        pd.DataFrame(lines),
        run,
        {
            "seconds": round(time.monotonic() - started, 3),
            "versions": versions(),
            "n_rows": len(rows),
            "contracts": {name: scorer.contract for name, scorer in scorers.items()},
        },
    )
    result.save(run.output_dir)
    return result


def _rows(benchmark: BenchmarkConfig, num_rows: int) -> list[Row]:
    rows = (row for row in read_rows(benchmark) if not isinstance(row, RejectedRow))
    found = list(itertools.islice(rows, num_rows))
    if not found:
        raise DataFormatError(f"Benchmark {benchmark.name!r} has no rows to compute.")
    return found


def _scorer(model: AnyModel) -> Classifier | Logprob:
    """What turns rows into tokens; its weights are not read."""
    truncation = ScoringConfig().truncation
    if isinstance(model, LogprobConfig):
        return Logprob(truncation=truncation, **model.model_dump())
    return Classifier(truncation=truncation, **model.model_dump())


def _examine(model: AnyModel, pretrained: Pretrained, encoded: Encoded) -> Case:
    """The reference of one model, and every condition but vLLM's."""
    from rm_cluster.parity.reference import Reference

    texts = [text for group in encoded.groups for text in group]
    hf, tokenizer = pretrained.hf, pretrained.tokenizer
    eos, own = tokenizer.eos_token_id, hf.get_text_config().pad_token_id
    own = tokenizer.pad_token_id or 0 if own is None else own
    reference = Reference(model, "float32")
    expected = reference.one_at_a_time(texts)
    pads: list[Pad] = ["own"]
    if reference.is_decoder and eos not in (None, own):
        pads.append("eos")
    packed = is_packed(model.model_copy(update={"attn_implementation": None}), hf)
    found: dict[Condition, tuple[Values | str, float] | None] = dict.fromkeys(
        conditions(
            dtype=pretrained.dtype,
            packed=packed,
            pads=pads,
            attention=model.attn_implementation,
        )
    )
    for condition in found:
        if condition.engine == "transformers" and condition.dtype == "float32":
            began = time.monotonic()
            values = reference.padded(texts, BATCH_SIZE, own if condition.pad == "own" else eos)
            found[condition] = values, time.monotonic() - began
    del reference
    case = Case(model, encoded, texts, eos, expected, found)
    for condition, done in found.items():
        if done is None and condition.engine != "vllm":
            found[condition] = _run(case, condition)
    return case


def _finish(case: Case) -> list[dict[str, Any]]:
    """The lines of one model, after what vLLM makes of it.

    That comes last: a model that vLLM knows through transformers alone cannot be built by
    transformers any more in the same process.
    """
    return [
        _compare(case, condition, *(done or _run(case, condition)))
        for condition, done in case.found.items()
    ]


def _encode(model: AnyModel, groups: Sequence[EncodedGroup], rows: Sequence[Row]) -> Encoded:
    kept = [(group, row) for group, row in zip(groups, rows, strict=True) if group.error is None]
    if not kept:
        raise DataFormatError(f"{model.name} can score none of the rows: {groups[0].error}")
    pairs, start = [], 0
    for group, row in kept:
        pairs += [
            (start + pair["chosen"], start + pair["rejected"])
            for pair in row["pairs"]
            if not pair["tie"]
        ]
        start += len(group.token_ids)
    return Encoded(
        [group.token_ids for group, _ in kept],
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        len(rows) - len(kept),
    )


def _run(case: Case, condition: Condition) -> tuple[Values | str, float]:
    """The values under a condition, or why there are none; and the seconds, start-up included."""
    from rm_cluster.parity.reference import Reference

    model = case.model
    began = time.monotonic()
    logger.info("%s: %s, %s, %s", model.name, condition.engine, condition.how, condition.dtype)
    if condition.engine == "vllm" and vllm_arguments.version() is None:
        return "not installed", 0.0
    try:
        if condition.engine == "transformers":
            values = Reference(model, condition.dtype).one_at_a_time(case.texts)
        else:
            values = compute(model, condition, case.encoded.groups, case.eos)
    except Exception as error:  # whatever vLLM raises is a line of the table, and ends nothing
        if condition.engine != "vllm":
            raise
        return " ".join(str(error).split())[:300], time.monotonic() - began
    finally:
        _free()
    return values, time.monotonic() - began


def _compare(
    case: Case, condition: Condition, values: Values | str, seconds: float
) -> dict[str, Any]:
    """One line of the table."""
    expected, encoded = case.expected, case.encoded
    tolerance = TOLERANCE[case.model.type]
    line: dict[str, Any] = {
        "reward_model": case.model.name,
        "engine": condition.engine,
        "condition": condition.how,
        "pad_token": condition.pad,
        "dtype": condition.dtype,
        "n": 0,
        "n_failed": encoded.num_failed,
        "max_difference": np.nan,
        "median_difference": np.nan,
        "n_beyond": 0,
        "n_pairs": 0,
        "n_flipped": 0,
        "tolerance": tolerance,
        "within": None,
        "seconds": round(seconds, 3),
        "note": "",
    }
    if isinstance(values, str):
        return line | {"note": values}
    difference = np.abs(values - expected)
    # written so that nan is beyond
    num_beyond = int((~(difference <= tolerance + RELATIVE * np.abs(expected))).sum())
    chosen, rejected = encoded.pairs.T
    flipped = np.sign(values[chosen] - values[rejected]) != np.sign(
        expected[chosen] - expected[rejected]
    )
    return line | {
        "n": len(values),
        "max_difference": _largest(difference),
        "median_difference": float(np.median(difference)),
        "n_beyond": num_beyond,
        "n_pairs": len(flipped),
        "n_flipped": int(flipped.sum()),
        # what another dtype costs is told, and nobody can hold it to float32
        "within": num_beyond == 0 if condition.dtype == "float32" else None,
    }


def _largest(difference: Values) -> float:
    """Of the differences that are numbers; the others are beyond the tolerance, and counted."""
    known = difference[~np.isnan(difference)]
    return float(known.max()) if known.size else np.nan


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _announce(run: DoctorConfig) -> None:
    """Write the resolved config first, so that an output folder that cannot be used is told now."""
    folder = Folder(run.output_dir)
    try:
        folder.remove("run.json")
        folder.write_text("config.yaml", run.to_yaml())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"Cannot write to output_dir {run.output_dir!r}: {error}") from None
