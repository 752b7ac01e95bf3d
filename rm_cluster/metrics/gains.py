"""What an ensemble gains over the best of its members, on the comparisons that it decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rm_cluster.metrics.estimate import Mean, Official, estimate
from rm_cluster.metrics.judged import Bools
from rm_cluster.metrics.table import BenchmarkRewards, p_value

GAIN_COLUMNS = (
    "ensemble", "benchmark", "domain", "metric", "chosen_on", "best_member", "gain", "stderr",
    "ci_low", "ci_high", "p_value", "n",
)  # fmt: skip


def ensemble_gains(
    benchmarks: Iterable[BenchmarkRewards], members: Mapping[str, Sequence[str]], seed: int = 0
) -> pd.DataFrame:
    """Compare each ensemble with its best member (`GAIN_COLUMNS`).

    Who is best must be found out from data too. `chosen_on` says from which: the `same` prompts,
    which flatters the member, because the luckiest of several is taken, so the gain is too low; or
    the `other half`: each half of the prompts (drawn by the seed) is judged against the member that
    is best on the other half, so the choice is independent of what it is judged on, and the gain is
    that over a member chosen on half as many prompts. Where the halves choose differently,
    `best_member` names both.

    The gain is the ensemble's value less the member's, for `accuracy` and `score`, in headlines and
    domains, with a paired bootstrap in which the choice stays as it is.

    Args:
        benchmarks: With the rewards of ensembles and members.
        members: By ensemble, the names of its members.
        seed: Of halves and draws.
    """
    records = [
        record
        for benchmark in benchmarks
        for ensemble, names in members.items()
        for record in _gains(benchmark, ensemble, names, seed)
    ]
    return pd.DataFrame(records, columns=list(GAIN_COLUMNS))


def _gains(
    benchmark: BenchmarkRewards, ensemble: str, members: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    scored = benchmark.scores[ensemble]["values"].is_valid().to_numpy()
    judged = benchmark.judged(ensemble)
    if not len(judged):
        return
    own = benchmark.terms(judged)
    theirs = {
        name: benchmark.terms(benchmark.judged(name, scored).without(judged.undecided))
        for name in members
    }
    domains = {*benchmark.headlines, *benchmark.rows["domain"].unique().to_pylist()}
    resampling = benchmark.resampling
    halves = np.random.default_rng(seed).permutation(len(resampling.stratum)) % 2
    first = halves[resampling.cluster[judged.position]] == 0
    rivals: dict[str, dict[tuple[str, str], tuple[str, list[Mean]]]] = {
        "same": {},
        "other half": {},
    }
    for key in own:
        if key[0] in domains and key[1] in ("accuracy", "score"):
            rivals["same"][key] = _best_on_same(theirs, key)
            if all(_value(own[key], half) > -np.inf for half in (first, ~first)):
                rivals["other half"][key] = _best_on_other_half(theirs, key, first)
    ours = estimate(own, judged.position, resampling, seed)
    for chosen_on, found in rivals.items():
        metrics: Official = {key: means for key, (_, means) in found.items()}
        for key, rival in estimate(metrics, judged.position, resampling, seed).items():
            gain = ours[key].minus(rival)
            low, high = gain.interval
            yield {
                "ensemble": ensemble,
                "benchmark": benchmark.name,
                "domain": key[0],
                "metric": key[1],
                "chosen_on": chosen_on,
                "best_member": found[key][0],
                "gain": gain.value,
                "stderr": gain.stderr,
                "ci_low": low,
                "ci_high": high,
                "p_value": p_value(gain),
                "n": gain.n,
            }


def _best_on_same(members: Mapping[str, Official], key: tuple[str, str]) -> tuple[str, list[Mean]]:
    best = max(members, key=lambda name: _value(members[name][key], None))
    return best, list(members[best][key])


def _best_on_other_half(
    members: Mapping[str, Official], key: tuple[str, str], first: Bools
) -> tuple[str, list[Mean]]:
    """For the first half of the prompts the member that is best on the second, and vice versa."""
    best = [
        max(members, key=lambda name: _value(members[name][key], half)) for half in (~first, first)
    ]
    on_first, on_second = (members[name][key] for name in best)
    spliced = [
        Mean(np.where(first, a.sums, b.sums), np.where(first, a.counts, b.counts), a.weight)
        for a, b in zip(on_first, on_second, strict=True)
    ]
    return " / ".join(dict.fromkeys(best)), spliced


def _value(means: Sequence[Mean], inside: Bools | None) -> float:
    """A metric on some prompts ([P]) or all; -inf where there is nothing to tell it from."""
    total = 0.0
    for mean in means:
        kept = slice(None) if inside is None else inside
        count = mean.counts[kept].sum()
        if not count:
            return -np.inf
        total += mean.weight * float(mean.sums[kept].sum() / count)
    return total
