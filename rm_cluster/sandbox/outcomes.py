"""What becomes of the reward models: the gold value of what they pick from a held-out pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rm_cluster.metrics.estimate import Mean, Resampling, estimate
from rm_cluster.sandbox.policies import Ask
from rm_cluster.sandbox.tasks import verify
from rm_cluster.types import Record, Row

OUTCOME = "best_of_16_gold"


def pool_record(record_id: str, ask: Ask, replies: Sequence[str]) -> Record:
    """Return a prompt with its completions and which of them are right (1.0) or wrong (0.0)."""
    return {
        "id": record_id,
        "domain": ask.task.family,
        "prompt": ask.task.prompt,
        "completions": list(replies),
        "labels": [float(verify(ask.task, reply)) for reply in replies],
        "policies": [ask.policy.name] * len(replies),
    }


def as_row(record: Record) -> Row:
    """Return a record of the pool as the row that reward models score."""
    return Row(
        id=record["id"],
        benchmark="pool",
        domain=record["domain"],
        slices=[],
        prompt=[{"role": "user", "content": record["prompt"]}],
        completions=record["completions"],
        labels=record["labels"],
        policies=record["policies"],
        pairs=[],
        metadata=None,
    )


def picked_gold(rewards: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> float:
    """Label of the completion with the highest reward; of several, the mean of their labels.

    >>> picked_gold(np.array([1.0, 2.0, 2.0]), np.array([0.0, 1.0, 0.0]))
    0.5
    """
    return float(labels[rewards == rewards.max()].mean())


def outcomes(
    pool: Sequence[Record], rewards: Mapping[str, Sequence[npt.NDArray[np.float64]]], seed: int
) -> list[dict[str, Any]]:
    """Return one line per reward model: the mean gold value of its picks, and its interval.

    Args:
        pool: P records.
        rewards: Per reward model, P arrays with one reward per completion.
        seed: Of the bootstrap, which draws prompts within families, for all reward models alike.
    """
    everyone = np.ones(len(pool), dtype=bool)
    labels = [np.array(record["labels"]) for record in pool]
    means = {
        (name, OUTCOME): [
            Mean.of(
                np.array([picked_gold(*both) for both in zip(arrays, labels, strict=True)]),
                everyone,
            )
        ]
        for name, arrays in rewards.items()
    }
    resampling = Resampling.of(
        [record["id"] for record in pool], [record["domain"] for record in pool]
    )
    lines = []
    for (name, outcome), found in estimate(means, np.arange(len(pool)), resampling, seed).items():
        low, high = found.interval
        lines.append(
            {
                "reward_model": name,
                "outcome": outcome,
                "value": found.value,
                "ci_low": low,
                "ci_high": high,
                "n": found.n,
            }
        )
    return lines
