"""Best-of-K curves of all reward models, wherever a benchmark has gold labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from rm_cluster.metrics.correctness import Samples
from rm_cluster.metrics.estimate import Mean, estimate
from rm_cluster.metrics.table import BenchmarkRewards

CURVE_COLUMNS = (
    "reward_model", "benchmark", "domain", "k", "value", "ci_low", "ci_high", "oracle", "n",
)  # fmt: skip
MIN_COMPLETIONS = 3


def best_of_k_curves(benchmarks: Iterable[BenchmarkRewards], seed: int = 0) -> pd.DataFrame:
    """Return the curves of every domain whose prompts have labels (`CURVE_COLUMNS`).

    `value` is the expected label of the pick of highest reward among k random completions of a
    prompt, `oracle` that of the best pick possible on the same n prompts.
    """
    records = [
        record
        for benchmark in benchmarks
        for reward_model in benchmark.scores
        for record in _curves(benchmark, reward_model, seed)
    ]
    return pd.DataFrame(records, columns=list(CURVE_COLUMNS))


def _curves(benchmark: BenchmarkRewards, reward_model: str, seed: int) -> Iterator[dict[str, Any]]:
    judged = benchmark.judged(reward_model)
    resampling = benchmark.resampling
    for domain in np.unique(judged.domain):
        samples = Samples.of(judged, judged.domain == domain)
        if samples is None or samples.curve.shape[1] < MIN_COMPLETIONS:
            continue
        members = np.ones(len(samples.position), dtype=bool)
        means = {
            (str(domain), str(k)): [Mean.of(values, members)]
            for k, values in enumerate(samples.curve.T, start=1)
        }
        position = judged.position[samples.position]
        for (_, k), found in estimate(means, position, resampling, seed).items():
            low, high = found.interval
            yield {
                "reward_model": reward_model,
                "benchmark": benchmark.name,
                "domain": str(domain),
                "k": int(k),
                "value": found.value,
                "ci_low": low,
                "ci_high": high,
                "oracle": float(samples.oracle[:, int(k) - 1].mean()),
                "n": found.n,
            }
