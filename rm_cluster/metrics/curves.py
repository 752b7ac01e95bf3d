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
    means: dict[tuple[str, str], list[Mean]] = {}
    oracle: dict[tuple[str, str], float] = {}
    for domain in np.unique(judged.domain):
        samples = Samples.of(judged, judged.domain == domain)
        if samples is None or samples.curve.shape[1] < MIN_COMPLETIONS:
            continue
        members = np.isin(np.arange(len(judged)), samples.position)
        for k in range(samples.curve.shape[1]):
            values = np.zeros(len(judged))
            values[samples.position] = samples.curve[:, k]
            means[str(domain), str(k + 1)] = [Mean.of(values, members)]
            oracle[str(domain), str(k + 1)] = float(samples.oracle[:, k].mean())
    for key, found in estimate(means, judged.position, benchmark.resampling, seed).items():
        name, num = key
        low, high = found.interval
        yield {
            "reward_model": reward_model,
            "benchmark": benchmark.name,
            "domain": name,
            "k": int(num),
            "value": found.value,
            "ci_low": low,
            "ci_high": high,
            "oracle": oracle[key],
            "n": found.n,
        }
