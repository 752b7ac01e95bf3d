from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rm_cluster.downstream import correlate, match, quantile_aggregation
from rm_cluster.downstream.coefficients import critical_r, estimate
from rm_cluster.errors import ConfigError, DataFormatError

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


def metrics_of(values: dict[str, list[float]], benchmark: str = "b", metric: str = "accuracy"):
    """One domain per key, one reward model m0, m1, ... per value."""
    return pd.DataFrame(
        [
            (f"m{i}", benchmark, domain, metric, value)
            for domain, row in values.items()
            for i, value in enumerate(row)
        ],
        columns=["reward_model", "benchmark", "domain", "metric", "value"],
    )


def outcomes_of(values: list[float], outcome: str = "arena"):
    names = [f"m{i}" for i in range(len(values))]
    return pd.DataFrame({"reward_model": names, "outcome": outcome, "value": values})


@pytest.mark.parametrize("name", list(SCIPY))
@pytest.mark.parametrize("tied", [False, True])
def test_coefficients_are_scipys(name: str, tied: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 12))
    if tied:
        x, y = np.round(x * 4), np.round(y * 4)
    found = correlate(metrics_of({"d": list(x)}), outcomes_of(list(y)))
    assert found[name].item() == pytest.approx(SCIPY[name](x, y).statistic, abs=1e-12)


def test_p_value_counts_all_permutations_of_few_points() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    found = correlate(metrics_of({"d": x}), outcomes_of(y))
    # tau = (5 - 1) / 6; of 24 permutations, 1 + 3 have tau >= 2/3 and as many tau <= -2/3
    assert found["kendall"].item() == pytest.approx(4 / 6)
    assert found["kendall_p"].item() == pytest.approx(8 / 24)
    exact = [abs(stats.pearsonr(x, p).statistic) for p in itertools.permutations(y)]
    expected = np.mean(np.array(exact) >= abs(stats.pearsonr(x, y).statistic) - 1e-12)
    assert found["pearson_p"].item() == pytest.approx(expected)


def test_p_value_of_many_points_is_never_zero() -> None:
    x = [float(i) for i in range(12)]
    found = correlate(metrics_of({"d": x}), outcomes_of(x))
    assert found["spearman_p"].item() == pytest.approx(1e-4)


def test_p_values_are_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(3)
    p = estimate(rng.random((400, 9)), rng.random(9), seed=0).columns[:, 3::4]
    # 5 % of 400 is 20, four standard errors are 17; the rank coefficients cannot exceed it
    assert (abs((p <= 0.05).sum(axis=0) - 20) <= 17).all()


def test_interval_is_scipys_bca() -> None:
    rng = np.random.default_rng(1)
    x = rng.random(15)
    y = x + rng.random(15)
    expected = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False,
        n_resamples=4000, method="BCa", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    found = correlate(metrics_of({"d": list(x)}), outcomes_of(list(y)))
    # other draws: the limits carry the noise of 2,000
    assert found["pearson_low"].item() == pytest.approx(expected.low, abs=0.06)
    assert found["pearson_high"].item() == pytest.approx(expected.high, abs=0.03)


def test_interval_covers_the_truth_nearly_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(100):
        x = rng.standard_normal(9)
        y = 0.7 * x + np.sqrt(1 - 0.7**2) * rng.standard_normal(9)
        low, high = estimate(x[None], y, seed).columns[0, 1:3]
        covered += low <= 0.7 <= high
    # 93.7 % in 1,500 samples: 94 of 100, three standard errors of that count are 7
    assert 87 <= covered <= 100


def test_interval_does_not_depend_on_the_other_metrics() -> None:
    x, other, y = np.random.default_rng(0).random((3, 9)).tolist()
    alone = correlate(metrics_of({"d": x}), outcomes_of(y))
    beside = correlate(metrics_of({"e": other, "d": x}), outcomes_of(y))
    columns = [column for column in alone.columns if not column.endswith("_q")]
    pd.testing.assert_frame_equal(alone[columns], beside[columns].tail(1).reset_index(drop=True))


def test_reversing_the_outcome_reverses_the_sign() -> None:
    x, y = np.random.default_rng(0).random((2, 9))
    up, down = (correlate(metrics_of({"d": list(x)}), outcomes_of(list(s * y))) for s in (1, -1))
    for name in SCIPY:
        assert up[name].item() == pytest.approx(-down[name].item())
        assert up[f"{name}_p"].item() == pytest.approx(down[f"{name}_p"].item())


def test_a_metric_that_is_better_when_lower_is_flipped() -> None:
    x = [0.1, 0.2, 0.3, 0.4]
    found = correlate(metrics_of({"d": x}, metric="brier"), outcomes_of([4.0, 3.0, 2.0, 1.0]))
    assert found["flipped"].item()
    assert found["pearson"].item() == pytest.approx(1.0)


def test_q_is_benjamini_hochberg_within_an_outcome() -> None:
    rows = dict(zip("abcde", np.random.default_rng(0).random((5, 9)).tolist(), strict=True))
    y = np.random.default_rng(1).random((2, 9)).tolist()
    downstream = pd.concat([outcomes_of(y[0], "arena"), outcomes_of(y[1], "gold")])
    found = correlate(metrics_of(rows), downstream)
    assert found["outcome"].tolist() == ["arena"] * 5 + ["gold"] * 5
    for _, table in found.groupby("outcome"):
        expected = stats.false_discovery_control(table["kendall_p"])
        assert np.allclose(table["kendall_q"], expected)


def test_n_counts_reward_models_with_both_sides() -> None:
    x = [0.1, 0.5, np.nan, 0.4, np.inf, 0.3]
    y = [1.0, 2.0, 3.0, np.nan, 4.0, 1.5, 9.0]
    found = correlate(metrics_of({"d": x}), outcomes_of(y))
    assert found["n"].item() == 3  # m0, m1, m5
    assert found["spearman"].item() == pytest.approx(1.0)


def test_two_reward_models_have_no_coefficient_but_a_row() -> None:
    found = correlate(metrics_of({"d": [0.1, 0.2]}), outcomes_of([1.0, 2.0]))
    assert found["n"].item() == 2
    assert found[["pearson", "pearson_low", "pearson_p", "pearson_q"]].isna().all(axis=None)


def test_four_reward_models_have_a_coefficient_and_no_interval() -> None:
    found = correlate(metrics_of({"d": [0.1, 0.2, 0.4, 0.3]}), outcomes_of([1.0, 2.0, 3.0, 4.0]))
    assert found["spearman"].item() == pytest.approx(0.8)
    assert found[["spearman_p", "spearman_q"]].notna().all(axis=None)
    assert found[["spearman_low", "spearman_high"]].isna().all(axis=None)


def test_a_perfect_coefficient_has_no_width() -> None:
    found = correlate(metrics_of({"d": [1.0, 2.0, 3.0, 4.0, 5.0]}), outcomes_of([1, 2, 3, 4, 5]))
    assert found[["kendall_low", "kendall"]].iloc[0].tolist() == pytest.approx([1.0, 1.0])
    assert found["kendall_p"].item() == pytest.approx(2 / 120)


def test_a_constant_metric_has_no_coefficient() -> None:
    x = {"same": [0.1] * 5, "varies": [0.1, 0.3, 0.2, 0.5, 0.4]}
    found = correlate(metrics_of(x), outcomes_of([1.0, 2.0, 3.0, 4.0, 5.0])).set_index("domain")
    assert found.loc["same", ["pearson", "kendall_low", "spearman_p"]].isna().all()
    assert found.loc["same", "n_undefined_draws"] == 2000
    # the same point five times: 5 of 5^5 draws, 3 of 2,000; and q is over one defined p-value
    assert found.loc["varies", "n_undefined_draws"] < 15
    assert found.loc["varies", "pearson_q"] == found.loc["varies", "pearson_p"]


def test_rewriting_the_order_of_the_tables_changes_no_value() -> None:
    x, y = np.random.default_rng(0).random((2, 9))
    metrics, downstream = metrics_of({"d": list(x)}), outcomes_of(list(y))
    found = correlate(metrics, downstream)
    again = correlate(metrics.sample(frac=1, random_state=0), downstream[::-1])
    pd.testing.assert_frame_equal(found, again)


def test_unmatched_names_are_listed_on_both_sides() -> None:
    downstream = outcomes_of([1.0, 2.0, 3.0]).replace({"m2": "M2"})
    found = match(metrics_of({"d": [0.1, 0.2, 0.3]}), downstream)
    assert found == (["m0", "m1"], ["m2"], ["M2"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, d: (m.drop(columns="metric"), d), "metrics table lacks 'metric'"),
        (lambda m, d: (m, d.drop(columns="outcome")), "downstream table lacks 'outcome'"),
        (lambda m, d: (pd.concat([m, m[:1]]), d), "benchmark='b', domain='d'"),
        (lambda m, d: (m, pd.concat([d, d[:1]])), "reward_model='m0', outcome='arena'"),
        (lambda m, d: (m, d.astype({"value": str}).replace("2.0", "n/a")), "value='n/a' in row 2"),
        (lambda m, d: (m, d.assign(outcome=[None, "a", "a"])), "row 1"),
        (lambda m, d: (m, d[:0]), "downstream table has no rows"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(change, said: str) -> None:
    metrics, downstream = metrics_of({"d": [0.1, 0.2, 0.3]}), outcomes_of([1.0, 2.0, 3.0])
    with pytest.raises(DataFormatError) as error:
        correlate(*change(metrics, downstream))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_metrics_give_no_rows() -> None:
    metrics, downstream = metrics_of({"d": [0.1, 0.2, 0.3]}), outcomes_of([1.0, 2.0, 3.0])
    empty = correlate(metrics[:0], downstream)
    assert len(empty) == 0
    assert empty.columns.tolist() == correlate(metrics, downstream).columns.tolist()


def test_quantile_is_over_z_scores_of_the_domains() -> None:
    x = {"hard": [1.0, 2.0, 3.0, 6.0], "easy": [0.8, 0.2, 0.6, 0.4]}
    y = [1.0, 4.0, 2.0, 3.0]
    found = quantile_aggregation(
        metrics_of(x), outcomes_of(y), domains=("hard", "easy"), quantiles=(0.0, 0.5, 1.0)
    )
    z = stats.zscore(np.array([x["hard"], x["easy"]]), axis=1)
    for q, aggregated in zip((0.0, 0.5, 1.0), (z.min(0), z.mean(0), z.max(0)), strict=True):
        row = found[found["quantile"] == q]
        assert row["pearson"].item() == pytest.approx(stats.pearsonr(aggregated, y).statistic)
        assert (row["n"].item(), row["num_domains"].item()) == (4, 2)


@pytest.mark.parametrize("constant", [0.5, 0.11, 0.3])
def test_a_domain_in_which_all_are_equal_has_a_z_score_of_zero(constant: float) -> None:
    x = {"varies": [0.61, 0.55, 0.72, 0.40, 0.66], "not": [constant] * 5}
    y = [1.0, 2.0, 5.0, 3.0, 4.0]
    found = quantile_aggregation(metrics_of(x), outcomes_of(y), ("varies", "not"), (0.0, 1.0))
    z = stats.zscore(x["varies"])
    for value, ends in zip(found["pearson"], (np.minimum(z, 0), np.maximum(z, 0)), strict=True):
        assert value == pytest.approx(stats.pearsonr(ends, y).statistic)


@pytest.mark.parametrize("scale", [1e-200, 1e160])
def test_values_of_any_size_have_a_coefficient(scale: float) -> None:
    x, y = [0.61, 0.55, 0.72, 0.40, 0.66], [1.0, 2.0, 5.0, 3.0, 4.0]
    scaled = [scale * value for value in x]
    found = correlate(metrics_of({"d": scaled}), outcomes_of(y))
    expected = correlate(metrics_of({"d": x}), outcomes_of(y))
    for name in SCIPY:
        assert found[name].item() == pytest.approx(expected[name].item())
    almost = [0.3, 0.3, 0.1 + 0.2, 0.3, 0.3]
    assert np.isnan(correlate(metrics_of({"d": almost}), outcomes_of(y))["pearson"].item())


def test_quantile_of_a_lower_is_better_metric_starts_at_its_worst_domain() -> None:
    loss = {"hard": [0.9, 0.1, 0.2, 0.3], "easy": [0.1, 0.2, 0.3, 0.4]}
    found = quantile_aggregation(
        metrics_of(loss, metric="loss"), outcomes_of([1.0, 4.0, 3.0, 2.0]), ("hard", "easy"), (0.0,)
    )
    worst = (-stats.zscore(np.array([loss["hard"], loss["easy"]]), axis=1)).min(axis=0)
    expected = stats.pearsonr(worst, [1.0, 4.0, 3.0, 2.0]).statistic
    assert found["pearson"].item() == pytest.approx(expected)
    assert found["flipped"].item()


def test_quantile_counts_reward_models_that_have_every_domain() -> None:
    x = {"hard": [1.0, 2.0, 3.0, 6.0], "easy": [0.8, np.nan, 0.6, 0.4]}
    found = quantile_aggregation(metrics_of(x), outcomes_of([1.0, 4.0, 2.0, 3.0]), ("hard", "easy"))
    assert (found["n"] == 3).all()


def test_a_metric_without_all_domains_has_no_quantiles() -> None:
    found = quantile_aggregation(
        metrics_of({"hard": [1.0, 2.0, 3.0]}), outcomes_of([1.0, 2.0, 3.0])
    )
    assert len(found) == 0


def test_a_quantile_is_a_fraction() -> None:
    metrics, downstream = metrics_of({"hard": [1.0, 2.0, 3.0]}), outcomes_of([1.0, 2.0, 3.0])
    with pytest.raises(ConfigError, match="quantiles from 0 to 1"):
        quantile_aggregation(metrics, downstream, ("hard",), (50.0,))


def test_critical_r_follows_from_t() -> None:
    # the paper quotes 0.316 for n = 40, which is the value of n = 39
    assert critical_r(40) == pytest.approx(0.3120, abs=1e-4)
    assert critical_r(39) == pytest.approx(0.3160, abs=1e-4)
    with pytest.raises(ConfigError, match="n=2"):
        critical_r(2)
