"""Base-model choice, on worked cases and on the published tables."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from rm_cluster import published
from rm_cluster.downstream import compare_base_models, coverage_at_k, stage_deltas
from rm_cluster.downstream.base_models import feature_correlations, gains, leaderboard
from rm_cluster.downstream.selection import GRID, _coefficients, _folds, select
from rm_cluster.errors import ConfigError, DataFormatError

SMALL = pd.DataFrame(
    {
        "base_model": ["a", "b", "c", "d", "e"],
        "family": ["x", "x", "y", "y", "z"],
        "method": "regression",
        "size_group": ["<3B", "<3B", "<3B", ">=6B", ">=6B"],
        "outcome": [60.0, 75.0, 75.0, 80.0, np.nan],
        "reference": [True, False, False, True, False],
        "params": [1.0, 2.0, 2.5, 8.0, 9.0],
    }
)


@pytest.fixture(scope="module")
def forty() -> pd.DataFrame:
    table = published.base_models()
    return table[table["method"] == "regression"].reset_index(drop=True)


def test_coverage_counts_the_shared_best() -> None:
    predictor, outcome = [9, 8, 1, 7, 0], [5, 1, 4, 3, 2]
    # best two: {0, 1} and {0, 2}; best three: {0, 1, 3} and {0, 2, 3}
    assert coverage_at_k(predictor, outcome, 2) == 1 / 2
    assert coverage_at_k(predictor, outcome, 3) == 2 / 3
    assert coverage_at_k(predictor, outcome, 5) == 1


def test_coverage_breaks_ties_by_table_order() -> None:
    assert coverage_at_k([1, 1, 1], [3, 2, 1], 1) == 1
    assert coverage_at_k([1, 1, 1], [1, 2, 3], 1) == 0


def test_equal_rankings_cover_all_and_random_ones_k_of_n() -> None:
    rng = np.random.default_rng(0)
    outcome = rng.random(40)
    assert all(coverage_at_k(outcome, outcome, k) == 1 for k in range(1, 41))
    random = [coverage_at_k(rng.random(40), outcome, 8) for _ in range(2000)]
    # one draw has a standard deviation of 0.128: four standard errors are 0.011
    assert np.mean(random) == pytest.approx(8 / 40, abs=0.012)


@pytest.mark.parametrize("k", [0, 4])
def test_coverage_needs_a_k_within_the_table(k: int) -> None:
    with pytest.raises(ConfigError, match=f"got k={k}"):
        coverage_at_k([1, 2, 3], [1, 2, 3], k)


@pytest.mark.parametrize(
    ("k", "covered"), [(5, 0.40), (6, 0.50), (7, 4 / 7), (8, 5 / 8), (9, 6 / 9), (10, 0.70)]
)
def test_params_cover_what_the_tables_say(forty: pd.DataFrame, k: int, covered: float) -> None:
    assert coverage_at_k(forty["params"], forty["outcome"], k) == pytest.approx(covered)


@pytest.mark.parametrize(
    ("method", "feature", "pearson", "spearman"),
    [
        ("regression", "params", 0.768, 0.798),
        ("regression", "pretrain_tokens", 0.235, 0.398),
        ("bradley_terry", "params", 0.287, 0.284),
        ("bradley_terry", "pretrain_tokens", 0.044, 0.011),
    ],
)
def test_features_correlate_as_the_tables_say(
    method: str, feature: str, pearson: float, spearman: float
) -> None:
    table = published.base_models()
    found = feature_correlations(table[table["method"] == method], [feature]).iloc[0]
    assert found["n"] == 40
    assert found["pearson"] == pytest.approx(pearson, abs=0.001)
    assert found["spearman"] == pytest.approx(spearman, abs=0.001)
    assert found["critical_r"] == pytest.approx(0.3120, abs=1e-4)


def test_gains_are_points_and_relative_percent() -> None:
    found = gains(SMALL.dropna()).set_index("size_group")
    # 75 over 60, and the reference itself
    assert found.loc["<3B", ["gain_points", "gain_relative_percent"]].tolist() == [15.0, 25.0]
    assert found.loc["<3B", "best_base_model"] == "b"  # the first of two equals
    assert found.loc[">=6B", "gain_points"] == 0.0


def test_gains_over_llama_are_those_of_the_tables() -> None:
    found = gains(published.base_models()).set_index(["method", "reference"])["gain_points"]
    references = ["Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct", "Llama-3.1-8B-Instruct"]
    expected = {"regression": [10.8, 3.1, 4.9], "bradley_terry": [14.3, 13.6, 7.4]}
    for method, points in expected.items():
        assert found[method][references].tolist() == pytest.approx(points, abs=1e-9)


def test_leaderboard_ranks_within_size_groups() -> None:
    found = leaderboard(SMALL)
    assert found["base_model"].tolist() == ["b", "c", "a", "d", "e"]
    assert found["rank"].tolist()[:4] == [1, 1, 3, 1]
    assert pd.isna(found["rank"].iloc[4])  # without an outcome: last, unranked, not in n
    assert found["n"].tolist() == [3, 3, 3, 1, 1]


def test_stage_deltas_are_those_of_table_1() -> None:
    stages = published.post_training()
    scores = ["chat", "chat_hard", "safety", "reasoning", "score"]
    found = stage_deltas(stages, scores)
    assert len(found) == 25
    printed = stages.set_index("base_model")
    for row in found.itertuples():
        expected = printed.at[row.base_model, f"{row.score}_delta_pct"]
        assert row.delta_relative_percent == pytest.approx(expected, abs=0.05)
    sft = found[(found["stage"] == "SFT") & (found["score"] == "score")]
    assert sft["delta_points"].item() == pytest.approx(84.2 - 72.9)


def test_stage_deltas_need_one_base() -> None:
    with pytest.raises(DataFormatError, match="got 0"):
        stage_deltas(published.post_training().iloc[1:], ["score"])


def test_the_grid_is_the_papers() -> None:
    assert len(GRID) == 3 * 5 * 4
    assert len(set(GRID)) == 60


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_coefficients_minimize_the_elastic_net(l1_ratio: float) -> None:
    from sklearn.linear_model import ElasticNet, Ridge

    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 6))
    x = np.asfortranarray(x - x.mean(0))
    y = x[:, 0] - x[:, 1] + rng.standard_normal(30)
    y = y - y.mean()
    found, failed = _coefficients(x, y, l1_ratio)
    alpha = 0.1  # the first of the grid
    if l1_ratio == 0:  # Ridge minimizes |y - Xw|^2 + n alpha |w|^2, the same times 2n
        expected = Ridge(alpha=30 * alpha, fit_intercept=False).fit(x, y).coef_
    else:
        model = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-8)
        expected = model.fit(x, y).coef_
    assert failed == 0
    assert np.allclose(found[:, 0], expected, atol=0.02)


def test_the_features_of_the_truth_are_used_in_every_fold() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 3))
    y = 2 * x[:, 1] + 0.1 * rng.standard_normal(30)
    fits = select(x, y, np.zeros(30, dtype=np.int64), ["a", "b", "c"], seed=0)
    for name in ("best_feature", "elastic_net"):
        assert fits[name, "in_sample"].used["b"] == 1
        assert fits[name, "10_fold"].used["b"] == 10
    assert fits["best_feature", "10_fold"].used == {"b": 10}
    assert fits["best_feature", "10_fold"].chosen == "10 x b"


def test_folds_hold_each_base_model_once_and_alike_many() -> None:
    counts = np.bincount(_folds(43, seed=0))
    assert sorted(counts) == [4] * 7 + [5] * 3


def test_a_prediction_out_of_sample_does_not_see_what_it_predicts() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 2)), rng.standard_normal(24)
    families = np.arange(24) // 8
    before = select(x, y, families, ["a", "b"], seed=0)
    held_out = families == 1
    after = select(x, np.where(held_out, y + 50, y), families, ["a", "b"], seed=0)
    for name in ("best_feature", "elastic_net"):
        pair = [fits[name, "leave_family_out"].predicted[held_out] for fits in (before, after)]
        assert np.allclose(*pair)
        pair = [fits[name, "in_sample"].predicted[held_out] for fits in (before, after)]
        assert not np.allclose(*pair)


def test_selection_in_sample_flatters_where_there_is_nothing_to_learn() -> None:
    rng = np.random.default_rng(4)
    table = SMALL.iloc[[0] * 20].assign(
        base_model=[f"m{i}" for i in range(20)],
        family=[f"f{i % 5}" for i in range(20)],
        outcome=rng.random(20),
        reference=False,
        **{f"bench{i}": rng.random(20) for i in range(2)},
    )
    found = compare_base_models(table.drop(columns="params")).selection
    mae = found.set_index(["predictor", "validation"])["mae"]
    for validation in ("10_fold", "leave_family_out"):
        assert mae["elastic_net", validation] > mae["elastic_net", "in_sample"]
    assert (found["n_features"] == 2).all()
    assert (found["random"] == 7.5 / 20).all()


def test_methods_are_never_pooled() -> None:
    found = compare_base_models(pd.concat([SMALL, SMALL.assign(method="bradley_terry")]))
    for table in found:
        if len(table):
            assert set(table["method"]) == {"regression", "bradley_terry"}
    assert (found.correlations["n"] == 4).all()
    # five models: nothing to cover beyond k = 4, nothing to cross-validate
    assert len(found.coverage) == 0
    assert len(found.selection) == 0


def test_features_that_cannot_be_used_are_counted(forty: pd.DataFrame) -> None:
    table = forty.iloc[:20].assign(gappy=[np.nan] + [1.0] * 18 + [2.0], constant=1.0)
    found = compare_base_models(table[table.columns.drop("pretrain_tokens")]).selection
    assert (found["n_features"] == 1).all()
    assert (found["n_dropped"] == 2).all()


def test_nothing_is_warned_of_but_counted() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = select(x, y, np.zeros(20, dtype=np.int64), ["a", "b"], seed=0)
    assert {validation for _, validation in fits} == {"in_sample", "10_fold"}  # one family
    assert all(fit.num_not_converged >= 0 for fit in fits.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcome": "n/a"}, "outcome='n/a' in row 1"),
        ({"params": "7B"}, "params='7B' in row 1"),
        ({"base_model": "a"}, "base_model='a', method='regression'"),
        ({"family": None}, "no family in row 1"),
        ({"reference": "maybe"}, "true or false"),
    ],
)
def test_a_wrong_table_is_told(change: dict[str, object], said: str) -> None:
    with pytest.raises(DataFormatError) as error:
        compare_base_models(SMALL.assign(**change))
    assert said in str(error.value)


def test_a_missing_column_is_told() -> None:
    with pytest.raises(DataFormatError, match="lacks 'family'"):
        compare_base_models(SMALL.drop(columns="family"))


def test_a_family_beside_which_there_is_too_little_is_not_left_out(forty: pd.DataFrame) -> None:
    table = forty.head(22)[["base_model", "method", "size_group", "outcome"]]
    rng = np.random.default_rng(0)
    table = table.assign(family=["big"] * 21 + ["a"], feature=rng.normal(size=22))
    found = compare_base_models(table).selection
    assert set(found["validation"]) == {"in_sample", "10_fold"}


def test_a_table_without_an_outcome_is_told() -> None:
    for table in (SMALL.assign(outcome=np.nan), SMALL.head(0)):
        with pytest.raises(DataFormatError, match="no outcome in any row"):
            compare_base_models(table)
