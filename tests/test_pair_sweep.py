from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.config import LogRatioConfig
from rm_cluster.derived import log_ratio_table
from rm_cluster.metrics.pair_sweep import PAIR_COLUMNS, Swept, sweep_pairs
from rm_cluster.metrics.table import BenchmarkRewards, measure

PAIR = pa.struct([("chosen", pa.int32()), ("rejected", pa.int32()), ("tie", pa.bool_())])


def rows(num: int, seed: int, sizes: tuple[int, ...] = (2, 3, 5)) -> pa.Table:
    """Prompts of two domains; the first completion against each other one, some of them ties."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice(sizes, num)
    pairs = [
        [{"chosen": 0, "rejected": j, "tie": bool(rng.random() < 0.1)} for j in range(1, k)]
        for k in lengths
    ]
    return pa.table(
        {
            "id": [str(i) for i in range(num)],
            "domain": ["math" if i % 3 else "chat" for i in range(num)],
            "slices": pa.array([["long"] * (i % 2) for i in range(num)], pa.list_(pa.string())),
            "labels": pa.nulls(num, pa.list_(pa.float64())),
            "num_completions": pa.array(lengths, pa.int32()),
            "pairs": pa.array(pairs, pa.list_(PAIR)),
        }
    )  # fmt: skip


def sums(
    table: pa.Table, seed: int, lost: float = 0.0, digits: int = 1, fewest: int = 1
) -> pa.Table:
    """Sums of log-probs, so rounded that there are ties, and some prompts lost."""
    rng = np.random.default_rng(seed)
    failed = rng.random(len(table)) < lost
    sizes = table["num_completions"].to_pylist()
    values = [
        None if f else rng.normal(-9, 1, k).round(digits).tolist()
        for k, f in zip(sizes, failed, strict=True)
    ]
    tokens = [v and rng.integers(fewest, 9, len(v)).tolist() for v in values]
    return pa.table(
        {
            "values": pa.array(values, pa.list_(pa.float64())),
            "num_tokens": pa.array(tokens, pa.list_(pa.int32())),
            "truncated": pa.array([v and [False] * len(v) for v in values], pa.list_(pa.bool_())),
            "error": pa.array(["lost" if f else None for f in failed]),
        }
    )


def benchmark(
    num: int = 60, models: int = 3, lost: float = 0.0, fewest: int = 1
) -> BenchmarkRewards:
    table = rows(num, 0)
    scores = {f"m{i}": sums(table, i, lost, fewest=fewest) for i in range(models)}
    return BenchmarkRewards("b", table, scores)


def one_by_one(found: BenchmarkRewards, normalize: Any) -> pd.DataFrame:
    """The same pairs as reward models of their own."""
    scores = {}
    for strong, weak in itertools.product(found.scores, repeat=2):
        config = LogRatioConfig(strong=strong, weak=weak, normalize=normalize)
        scores[config.name] = log_ratio_table(config, found.scores[strong], found.scores[weak])
    return measure([found._replace(scores=scores)], seed=3)


@pytest.mark.parametrize("normalize", ["sum", "mean"])
@pytest.mark.parametrize(("lost", "fewest"), [(0.0, 1), (0.2, 1), (0.1, 0)])
def test_equal_to_density_ratios_evaluated_one_by_one(
    normalize: Any, lost: float, fewest: int
) -> None:
    found = benchmark(lost=lost, fewest=fewest)
    swept = sweep_pairs(found, normalize, seed=3).pairs
    expected = one_by_one(found, normalize)
    expected = expected[expected["domain"] != "long"]
    swept = swept.assign(reward_model=swept["strong"] + "-over-" + swept["weak"])
    both = swept.merge(expected, on=["reward_model", "domain"], suffixes=("", "_expected"))
    assert len(both) == len(swept) == len(expected) == 3 * 9
    columns = ["stderr", "ci_low", "ci_high", "n", "n_tied", "n_failed", "n_truncated"]
    np.testing.assert_allclose(both["accuracy"], both["value"], atol=1e-6)
    np.testing.assert_allclose(both[columns], both[[f"{c}_expected" for c in columns]], atol=1e-6)


def test_ppe_keeps_its_own_rule_of_a_mean_over_benchmarks() -> None:
    ppe = BENCHMARKS["ppe"]
    table = rows(90, 1)
    sets = np.array(["MATH", "GPQA", "IFEval"])
    domains = sets[np.minimum(np.arange(90) % 7, 2)]
    table = table.set_column(1, "domain", pa.array(domains))
    found = BenchmarkRewards(
        "ppe", table, {f"m{i}": sums(table, i) for i in range(2)},
        official=ppe.official, groups=ppe.groups, headlines=ppe.headlines,
    )  # fmt: skip
    pairs = sweep_pairs(found, "sum", 0).pairs.query("strong == 'm0' and weak == 'm1'")
    values = pairs.set_index("domain")["accuracy"]
    assert values["mean"] == pytest.approx(values[sets].mean())
    assert pairs.set_index("domain")["n"]["mean"] == pairs.set_index("domain")["n"][sets].sum()


def test_a_model_over_itself_ties_everywhere() -> None:
    pairs = sweep_pairs(benchmark(), "sum", 0).pairs
    own = pairs[pairs["strong"] == pairs["weak"]]
    assert (own["accuracy"] == 0.5).all()
    assert (own["n_tied"] == own["n"]).all()
    assert (own[["ci_low", "ci_high"]] == 0.5).all(axis=None)


def test_swapping_mirrors_accuracy() -> None:
    pairs = sweep_pairs(benchmark(), "sum", 0).pairs
    matrix = pairs.query("domain == 'overall'").pivot(index="strong", columns="weak")
    np.testing.assert_allclose(matrix["accuracy"], 1 - matrix["accuracy"].T, rtol=0, atol=1e-15)
    np.testing.assert_allclose(matrix["ci_low"], 1 - matrix["ci_high"].T)


def test_own_accuracy_is_that_of_a_log_prob_reward_model() -> None:
    found = benchmark(lost=0.1)
    metrics = measure([found])
    overall = metrics.query("domain == 'overall' and metric == 'accuracy'")
    assert sweep_pairs(found, "sum", 0).own_accuracy == pytest.approx(
        dict(zip(overall["reward_model"], overall["value"], strict=True))
    )


def test_a_model_that_failed_everywhere_has_no_accuracy() -> None:
    found = benchmark(models=2, lost=1.0)
    swept = sweep_pairs(found, "sum", 0)
    assert swept.pairs["accuracy"].isna().all()
    assert (swept.pairs["n"] == 0).all()
    assert (swept.pairs.query("domain == 'overall'")["n_failed"] == 60).all()
    assert np.isnan(list(swept.own_accuracy.values())).all()


def test_nothing_to_compare_is_an_empty_table() -> None:
    table = rows(4, 0, sizes=(1,))
    found = BenchmarkRewards("b", table, {name: sums(table, 0) for name in "ab"})
    swept = sweep_pairs(found, "sum", 0)
    assert isinstance(swept, Swept)
    assert swept.pairs.columns.tolist() == list(PAIR_COLUMNS)
    assert not len(swept.pairs)


def test_441_pairs_of_20_000_comparisons_take_seconds() -> None:
    table = rows(20_000, 0, sizes=(2,))
    found = BenchmarkRewards("b", table, {f"m{i}": sums(table, i, digits=9) for i in range(21)})
    started = time.monotonic()
    assert len(sweep_pairs(found, "sum", 0).pairs) == 3 * 441
    assert time.monotonic() - started < 60  # 3 on an idle machine of two cores
