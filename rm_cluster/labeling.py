"""Preferences in TRL's columns, from rows and their rewards: pairs, filters, the held-out split.

What becomes no pair is counted under the first reason that holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rm_cluster.config import AnnotateConfig
from rm_cluster.metrics.judged import Floats
from rm_cluster.pairing import id_draws, num_words, pair_candidates
from rm_cluster.types import Message, Record, Row

Similarity = Callable[[Sequence[str]], Floats]
"""[N] texts -> [N] mean similarity of each to all of them."""

DROPPED = {
    "failed": "no completion has a reward",
    "single": "fewer than two completions have a reward",
    "tied": "chosen and rejected have equal rewards",
    "equal_texts": "chosen and rejected are the same text",
    "multi_turn": "not a single user turn, which format: standard cannot hold",
    "min_margin": "the margin is below min_margin",
    "max_words": "a completion is longer than max_words",
    "max_length_ratio": "the lengths differ by more than max_length_ratio",
}
"""Why a prompt has no pair."""


class Labeled(NamedTuple):
    """What became of some prompts."""

    train: list[Record]
    held_out: list[Record]
    dropped: Counter[str]
    """Prompts by the keys of `DROPPED`."""
    num_lost: int
    """Completions without a reward in prompts that have some."""


def label(
    config: AnnotateConfig,
    rows: Sequence[Row],
    rewards: Sequence[Floats | None],
    similarity: Similarity,
) -> Labeled:
    """Make a preference of each row, as far as its rewards and the filters allow.

    Args:
        config: Which rule, which filters, which split.
        rows: P prompts with their completions.
        rewards: [P] arrays of a reward per completion, nan where one failed; None where all did.
        similarity: Used by `mbr_bon_vs_worst` only.
    """
    dropped: Counter[str] = Counter()
    usable: list[tuple[Row, Floats]] = []
    for row, values in zip(rows, rewards, strict=True):
        num_scored = 0 if values is None else int((~np.isnan(values)).sum())
        if values is None or num_scored < 2:
            dropped["single" if num_scored else "failed"] += 1
        else:
            usable.append((row, values))
    train: list[Record] = []
    held_out: list[Record] = []
    # by prompt, of which there may be several rows: none must be on both sides
    prompts = [json.dumps(row["prompt"]) for row, _ in usable]
    split = id_draws(prompts, config.seed, "split")
    for record, draw in zip(_records(config, usable, similarity), split, strict=True):
        reason = _reason(config, record)
        if reason is not None:
            dropped[reason] += 1
        else:
            side = held_out if draw < config.held_out_fraction else train
            side.append(_written(config, record))
    num_lost = sum(int(np.isnan(values).sum()) for _, values in usable)
    return Labeled(train, held_out, dropped, num_lost)


def schema(config: AnnotateConfig) -> pa.Schema:
    """The columns of `preferences.parquet`."""
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    text = turns if config.format == "conversational" else pa.string()
    return pa.schema(
        [
            ("prompt", text),
            ("chosen", text),
            ("rejected", text),
            ("chosen_reward", pa.float64()),
            ("rejected_reward", pa.float64()),
            ("margin", pa.float64()),
            ("domain", pa.string()),
            ("id", pa.string()),
        ]
    )


def _records(
    config: AnnotateConfig, usable: Sequence[tuple[Row, Floats]], similarity: Similarity
) -> list[Record]:
    """A pair of each row, before any filter."""
    if not usable:
        return []
    width = max(len(values) for _, values in usable)
    rewards, close = np.full((2, len(usable), width), np.nan)
    for i, (row, values) in enumerate(usable):
        rewards[i, : len(values)] = values
        if config.pair_rule == "mbr_bon_vs_worst":
            scored = np.flatnonzero(~np.isnan(values))
            close[i, scored] = similarity([row["completions"][k] for k in scored])
    draws = id_draws([row["id"] for row, _ in usable], config.seed, "rejected")
    pairs = pair_candidates(config.pair_rule, rewards, draws, config.beta, close)
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completions"][chosen],
            "rejected": row["completions"][rejected],
            "chosen_reward": float(values[chosen]),
            "rejected_reward": float(values[rejected]),
            "margin": float(values[chosen] - values[rejected]),
            "domain": row["domain"],
            "id": row["id"],
        }
        for (row, values), chosen, rejected in zip(usable, *pairs, strict=True)
    ]


def _reason(config: AnnotateConfig, record: Record) -> str | None:
    """Why a pair is left out, if it is."""
    words = sorted(num_words(record[side]) for side in ("chosen", "rejected"))
    ratio = config.max_length_ratio
    turns = record["prompt"]
    reasons = {
        "tied": not record["margin"] > 0,
        "equal_texts": record["chosen"] == record["rejected"],
        "multi_turn": config.format == "standard" and [m["role"] for m in turns] != ["user"],
        "min_margin": record["margin"] < config.min_margin,
        "max_words": config.max_words is not None and words[1] > config.max_words,
        "max_length_ratio": ratio is not None and words[1] > ratio * words[0],
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _written(config: AnnotateConfig, record: Record) -> Record:
    """The record in the format that was asked for."""
    if config.format == "standard":
        return {**record, "prompt": record["prompt"][0]["content"]}
    replies = {
        side: [Message(role="assistant", content=record[side])] for side in ("chosen", "rejected")
    }
    return {**record, **replies}
