from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rm_cluster.metrics.gaps import GAP_COLUMNS, correlate_gaps


def pairs(accuracy: np.ndarray) -> pd.DataFrame:
    n = len(accuracy)
    return pd.DataFrame(
        [
            {"benchmark": "b", "domain": "overall", "strong": f"m{i}", "weak": f"m{j}",
             "accuracy": accuracy[i, j]}
            for i, j in itertools.product(range(n), repeat=2)
        ]
    )  # fmt: skip


def mirrored(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, dict[str, float]]:
    """Values of models, and accuracies that grow with the gap, by so much noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n)
    half = 0.1 * (values[:, None] - values) + noise * rng.normal(size=(n, n))
    return 0.5 + (half - half.T) / 2, {f"m{i}": float(v) for i, v in enumerate(values)}


def rows(accuracy: np.ndarray, values: dict[str, float]) -> pd.DataFrame:
    found = correlate_gaps(pairs(accuracy), values, seed=1)
    assert found.columns.tolist() == list(GAP_COLUMNS)
    return found.set_index("over")


def test_worked_example_of_three_models() -> None:
    # values 0, 1, 3; gaps of the better over the worse: 1 (b over a), 3 (c over a), 2 (c over b),
    # with accuracies 0.6, 0.9, 0.6: r = cov(1, 3, 2; 0.6, 0.9, 0.6) = 0.15 / (1 * 0.1732)
    accuracy = np.array([[0.5, 0.4, 0.1], [0.6, 0.5, 0.4], [0.9, 0.6, 0.5]])
    found = rows(accuracy, {"m0": 0.0, "m1": 1.0, "m2": 3.0})
    assert found.loc["positive_gap", "pearson"] == pytest.approx(0.15 / 0.03**0.5)
    assert found.loc["positive_gap", ["n_models", "n_pairs"]].tolist() == [3, 3]
    assert found.loc["ordered", "n_pairs"] == 6
    assert found[["pearson_low", "pearson_high"]].isna().all(axis=None)  # only three models


def test_values_are_those_of_scipy() -> None:
    accuracy, values = mirrored(8, noise=0.05)
    value = np.array(list(values.values()))
    gap = value[:, None] - value
    found = rows(accuracy, values)
    for over, chosen in (("ordered", ~np.eye(8, dtype=bool)), ("positive_gap", gap > 0)):
        x, y = gap[chosen], accuracy[chosen]
        assert found.loc[over, "pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert found.loc[over, "spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)


def test_draws_of_models_equal_tables_in_which_models_repeat() -> None:
    from rm_cluster.metrics.gaps import _weighted

    rng = np.random.default_rng(0)
    gap, quality = rng.integers(0, 5, (2, 12)).astype(float)
    weights = rng.integers(0, 3, (20, 12))
    for name, expected in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        found = _weighted(name, gap, quality, weights.astype(float))
        for row, value in zip(weights, found, strict=True):
            repeated = np.repeat(gap, row), np.repeat(quality, row)
            assert value == pytest.approx(expected(*repeated).statistic)


def test_a_gap_that_decides_everything_is_one_and_one_that_says_nothing_is_not() -> None:
    exact = rows(*mirrored(8, noise=0.0))
    assert exact["pearson"].tolist() == pytest.approx([1.0, 1.0])
    assert (exact["pearson_p"] <= 0.001).all()
    accuracy, values = mirrored(8, noise=0.05, seed=3)
    shuffled = dict(zip(values, np.random.default_rng(5).normal(size=8), strict=True))
    found = rows(accuracy, shuffled)
    assert (found["pearson_p"] > 0.05).all()
    assert (found["pearson_low"] < found["pearson"]).all()
    assert (found["pearson"] < found["pearson_high"]).all()


def test_intervals_heed_that_pairs_share_models(monkeypatch: pytest.MonkeyPatch) -> None:
    # no gap at all: accuracy is only a matter of which models are in the pair. As if pairs were
    # independent, a 95 % interval would leave zero out in far more than 5 % of such tables
    monkeypatch.setattr("rm_cluster.metrics.gaps.NUM_DRAWS", 400)
    monkeypatch.setattr("rm_cluster.metrics.gaps.NUM_PERMUTATIONS", 9)
    missed = naive = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        skill, values = rng.normal(size=(2, 10))
        accuracy = 0.5 + 0.05 * (skill[:, None] - skill)
        found = rows(accuracy, {f"m{i}": v for i, v in enumerate(values)}).loc["ordered"]
        missed += not found["pearson_low"] <= 0 <= found["pearson_high"]
        naive += abs(found["pearson"]) > 1.96 / np.sqrt(90)
    assert naive > 20
    assert missed < 15


def test_the_p_value_is_uniform_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_cluster.metrics.gaps.NUM_DRAWS", 9)
    monkeypatch.setattr("rm_cluster.metrics.gaps.NUM_PERMUTATIONS", 199)
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        skill, values = rng.normal(size=(2, 7))
        accuracy = 0.5 + 0.05 * (skill[:, None] - skill)
        named = {f"m{i}": v for i, v in enumerate(values)}
        p.append(rows(accuracy, named).loc["ordered", "pearson_p"])
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.1) < 0.25


def test_models_without_a_value_are_left_out() -> None:
    accuracy, values = mirrored(8, noise=0.05)
    fewer = {**values, "m3": float("nan")}
    found = rows(accuracy, fewer)
    assert found["n_models"].tolist() == [7, 7]
    kept = [i for i in range(8) if i != 3]
    alone = correlate_gaps(
        pairs(accuracy[np.ix_(kept, kept)]),
        {f"m{i}": values[f"m{k}"] for i, k in enumerate(kept)},
        seed=1,
    )
    assert found["pearson"].tolist() == pytest.approx(alone["pearson"].tolist())


def test_models_that_are_equally_good_have_no_gap_to_correlate() -> None:
    accuracy, values = mirrored(6, noise=0.05)
    found = rows(accuracy, dict.fromkeys(values, 1.0))
    assert found[["pearson", "spearman", "pearson_p"]].isna().all(axis=None)
    assert found["n_pairs"].tolist() == [30, 0]


def test_two_models_are_too_few() -> None:
    found = rows(*mirrored(2, noise=0.1))
    assert found[["pearson", "pearson_p"]].isna().all(axis=None)


def test_a_model_that_failed_in_a_domain_is_left_out_there() -> None:
    accuracy, values = mirrored(8, noise=0.05)
    accuracy[3], accuracy[:, 3] = np.nan, np.nan
    found, expected = rows(accuracy, values), rows(accuracy, {**values, "m3": float("nan")})
    assert found["n_models"].tolist() == [7, 7]
    pd.testing.assert_frame_equal(found, expected)
    # and so is one that lost another's comparisons alone
    accuracy[5, 6] = np.nan
    assert rows(accuracy, values)["n_models"].tolist() == [6, 6]


@pytest.mark.parametrize("scale", [1e-6, 1e9])
def test_the_unit_of_the_values_does_not_matter(scale: float) -> None:
    accuracy, values = mirrored(8, noise=0.05)
    scaled = {name: scale * value for name, value in values.items()}
    pd.testing.assert_frame_equal(rows(accuracy, scaled), rows(accuracy, values), rtol=1e-9)


def test_values_that_differ_by_rounding_alone_are_equal() -> None:
    accuracy, values = mirrored(8, noise=0.05)
    found = rows(accuracy, {name: (0.3, 0.1 + 0.2)[i % 2] for i, name in enumerate(values)})
    assert found.loc["ordered", ["pearson", "pearson_p"]].isna().all()
