"""The tables of an evaluation: metrics of each reward model, and paired comparisons of each two."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from rm_cluster.columns import any_of, lengths, owners
from rm_cluster.metrics.estimate import (
    Estimate,
    Joint,
    Official,
    Resampling,
    estimate,
    estimate_joint,
)
from rm_cluster.metrics.judged import Bools, Judged
from rm_cluster.metrics.pairwise import OVERALL, accuracy, groups, num_tied
from rm_cluster.metrics.verdicts import order_effects

METRIC_COLUMNS = (
    "reward_model", "benchmark", "domain", "metric", "value", "stderr", "ci_low", "ci_high",
    "n", "n_failed", "n_tied", "n_truncated",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "reward_model", "other", "benchmark", "domain", "metric", "difference", "stderr", "ci_low",
    "ci_high", "p_value", "n",
)  # fmt: skip
_VALUES = ("value", "stderr", "ci_low", "ci_high")

LOWER_IS_BETTER = frozenset({"brier", "inconsistent", "loss"})
"""Metrics that are errors; every other one is better when it is higher."""

JointMetrics = Callable[[Judged, Mapping[str, Bools], int], Sequence[Joint]]


class BenchmarkRewards(NamedTuple):
    """One benchmark with the rewards of all reward models.

    Attributes:
        name: Of the benchmark.
        rows: P rows: `id`, `domain`, `slices`, `labels`, `pairs`.
        scores: By reward model, P rows aligned with `rows`: `values` (null where the prompt
            failed) and `truncated`.
        official: The benchmark's own metrics, if it has any.
        cluster: id -> what is resampled as one; the prompt itself if None.
        joint: Its own metrics that are no sums of means, given the groups and a seed.
        groups: Rows -> membership of every reporting group.
        headlines: The groups that tell most, best known first.
    """

    name: str
    rows: pa.Table
    scores: Mapping[str, pa.Table]
    official: Callable[[Judged], Official] | None = None
    cluster: Callable[[str], str] | None = None
    joint: JointMetrics | None = None
    groups: Callable[[pa.Table], dict[str, Bools]] = groups
    headlines: tuple[str, ...] = (OVERALL,)

    def judged(self, reward_model: str, keep: Bools | None = None) -> Judged:
        """The prompts that a reward model scored, and that `keep` ([P]) holds."""
        return Judged.of(self.rows, self.scores[reward_model], keep)

    @property
    def resampling(self) -> Resampling:
        """How the prompts are drawn: clusters within domains."""
        clusters = self.rows["id"]
        if self.cluster:
            clusters = pa.array(map(self.cluster, clusters.to_pylist()), pa.string())
        return Resampling.of(clusters, self.rows["domain"])

    def terms(self, judged: Judged) -> Official:
        """Accuracy and the official metrics, as far as they are sums of means."""
        members = self.groups(judged.rows)
        metrics = accuracy(judged, members) | order_effects(judged, members)
        return metrics | (self.official(judged) if self.official else {})

    def means(self, judged: Judged, seed: int) -> dict[tuple[str, str], Estimate]:
        """Estimates of `terms`."""
        if not len(judged):
            return {}
        return estimate(self.terms(judged), judged.position, self.resampling, seed)

    def joints(self, judged: Judged, seed: int) -> dict[tuple[str, str], Estimate]:
        """The other official metrics."""
        if not len(judged) or self.joint is None:
            return {}
        found = self.joint(judged, self.groups(judged.rows), seed)
        return estimate_joint(found, judged.position, self.resampling, seed)


def measure(benchmarks: Iterable[BenchmarkRewards], seed: int = 0) -> pd.DataFrame:
    """Return the metrics of all reward models on all benchmarks (`METRIC_COLUMNS`).

    `n` counts comparisons for `accuracy` (and for rankings of policies) and prompts for other
    official metrics, `n_failed` prompts of the group with a failure, `n_truncated` its prompts,
    `n_tied` its comparisons with equal rewards. Where every prompt of a group failed, the value is
    nan and n is 0, of accuracy and of any score that another reward model has.
    """
    records: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        each = (_metric_records(benchmark, name, seed) for name in benchmark.scores)
        records += _with_lost_scores([record for its in each for record in its])
    return pd.DataFrame(records, columns=list(METRIC_COLUMNS))


def compare(benchmarks: Iterable[BenchmarkRewards], seed: int = 0) -> pd.DataFrame:
    """Compare each two reward models on the comparisons that both decided (`COMPARISON_COLUMNS`).

    `difference` is the first minus the other, for `accuracy` and `score`, overall and per domain,
    with a paired bootstrap: both are drawn alike. `p_value` is two-sided, for no difference. There
    is no row where they decided nothing together.
    """
    records = [record for benchmark in benchmarks for record in _comparisons(benchmark, seed)]
    return pd.DataFrame(records, columns=list(COMPARISON_COLUMNS))


def _metric_records(
    benchmark: BenchmarkRewards, reward_model: str, seed: int
) -> Iterable[dict[str, Any]]:
    judged = benchmark.judged(reward_model)
    found = benchmark.means(judged, seed) | benchmark.joints(judged, seed)
    scores, members = benchmark.scores[reward_model], benchmark.groups(benchmark.rows)
    failed = scores["values"].is_null().to_numpy().copy()
    failed[judged.position] |= judged.incomplete
    truncated = any_of(scores["truncated"])
    tied = np.zeros(len(benchmark.rows))
    tied[judged.position] = num_tied(judged)
    compared = lengths(benchmark.rows["pairs"]) > 0
    nothing = Estimate(float("nan"), np.empty(0), 0)
    lost = [
        (name, "accuracy")
        for name, inside in members.items()
        if (name, "accuracy") not in found and (failed & compared & inside).any()
    ]
    for (domain, metric), value in (found | dict.fromkeys(lost, nothing)).items():
        low, high = value.interval
        yield {
            "reward_model": reward_model,
            "benchmark": benchmark.name,
            "domain": domain,
            "metric": metric,
            "value": value.value,
            "stderr": value.stderr,
            "ci_low": low,
            "ci_high": high,
            "n": value.n,
            "n_failed": int(failed[members[domain]].sum()),
            "n_tied": int(tied[members[domain]].sum()),
            "n_truncated": int(truncated[members[domain]].sum()),
        }


def _with_lost_scores(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add nan where another reward model has a `score`: whoever failed must not leave the board."""
    scored = {(one["domain"], one["reward_model"]) for one in records if one["metric"] == "score"}
    domains = {domain for domain, _ in scored}
    nothing = {"metric": "score", **dict.fromkeys(_VALUES, float("nan")), "n": 0}
    return records + [
        one | nothing
        for one in records
        if one["metric"] == "accuracy"
        and one["domain"] in domains
        and (one["domain"], one["reward_model"]) not in scored
    ]


def _comparisons(benchmark: BenchmarkRewards, seed: int) -> Iterable[dict[str, Any]]:
    domains = {*benchmark.headlines, *benchmark.rows["domain"].unique().to_pylist()}
    valid = {
        name: table["values"].is_valid().to_numpy() for name, table in benchmark.scores.items()
    }
    row = owners(benchmark.rows["pairs"])
    decided = {name: _decided(benchmark, name, valid[name][row]) for name in benchmark.scores}
    known: dict[tuple[str, bytes, bytes], dict[tuple[str, str], Estimate]] = {}

    def on_shared(name: str, shared: Bools, both: Bools) -> dict[tuple[str, str], Estimate]:
        key = (name, shared.tobytes(), both.tobytes())
        if key not in known:
            judged = benchmark.judged(name, shared).without(~both[shared[row]])
            known[key] = benchmark.means(judged, seed)
        return known[key]

    for first, other in itertools.combinations(benchmark.scores, 2):
        shared, both = valid[first] & valid[other], decided[first] & decided[other]
        estimates = on_shared(first, shared, both), on_shared(other, shared, both)
        for domain, metric in [key for key in estimates[0] if key in estimates[1]]:
            if domain in domains and metric in ("accuracy", "score"):
                a, b = (found[domain, metric] for found in estimates)
                if np.isnan(a.value) or np.isnan(b.value):
                    continue
                difference = a.minus(b)
                low, high = difference.interval
                yield {
                    "reward_model": first,
                    "other": other,
                    "benchmark": benchmark.name,
                    "domain": domain,
                    "metric": metric,
                    "difference": difference.value,
                    "stderr": difference.stderr,
                    "ci_low": low,
                    "ci_high": high,
                    "p_value": p_value(difference),
                    "n": difference.n,
                }


def _decided(benchmark: BenchmarkRewards, reward_model: str, scored: Bools) -> Bools:
    """Whether each comparison of the benchmark was, given those of scored prompts (both [R])."""
    decided = np.zeros(len(scored), dtype=bool)
    decided[scored] = ~benchmark.judged(reward_model).undecided
    return decided


def p_value(difference: Estimate) -> float:
    """Twice the smaller share of draws on one side of zero, the observed one counted in."""
    draws = difference.draws[~np.isnan(difference.draws)]
    if not draws.size:
        return float("nan")
    below, above = (draws <= 0).sum(), (draws >= 0).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + draws.size)))
