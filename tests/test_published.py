"""The published tables against their own arithmetic, and the correlations recomputed from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rm_cluster import published
from rm_cluster.downstream import correlate
from rm_cluster.metrics.table import METRIC_COLUMNS


@pytest.fixture(scope="module")
def human() -> pd.DataFrame:
    return published.read("ppe_human")


@pytest.fixture(scope="module")
def recomputed() -> pd.DataFrame:
    table = correlate(published.ppe_metrics(), published.arena_scores())
    return table.set_index(["metric", "domain"])


@pytest.mark.parametrize(
    ("column", "denominator"),
    [
        ("separability_pct", 190),  # pairs of 20 policies
        ("confidence_agreement_pct", 132),  # pairs that humans tell apart
        ("kendall_pct", 190),
    ],
)
def test_percentages_are_counts(human: pd.DataFrame, column: str, denominator: int) -> None:
    assert len(human) == 29
    counts = human[column] / 100 * denominator
    # two decimals of a percentage are 0.005 % of the denominator
    assert np.abs(counts - counts.round()).max() <= 0.00005 * denominator + 1e-9


def test_kendall_counts_are_even(human: pd.DataFrame) -> None:
    # concordant minus discordant of 190 pairs without ties: 190 - 2 * discordant
    assert ((human["kendall_pct"] / 100 * 190).round() % 2 == 0).all()


def test_spearman_is_a_sum_of_squared_rank_differences(human: pd.DataFrame) -> None:
    # 1 - 6 d / (20 * 399) = 1 - d / 1330, where d is even
    squared = (1 - human["spearman_pct"] / 100) * 1330
    assert np.abs(squared - squared.round()).max() <= 0.00005 * 1330 + 1e-9
    assert (squared.round() % 2 == 0).all()


def test_correctness_means_are_means_of_the_cells() -> None:
    table = published.read("ppe_correctness")
    cells = table[["MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval"]]
    gap = (cells.mean(axis=1) - table["mean"]).abs()
    two_decimals = table["metric"] == "accuracy"
    # a mean of cells rounded to 0.01, itself rounded: at most 0.005 + 0.005
    assert gap[two_decimals].max() <= 0.0081
    assert gap[~two_decimals].max() <= 0.0006


@pytest.mark.parametrize(
    ("metric", "by_domain"),
    [
        ("accuracy", {"overall": 0.706}),
        ("rowwise_pearson", {"overall": 0.331}),
        ("separability", {"overall": 0.398}),
        ("confidence_agreement", {"overall": 0.119}),
        ("kendall", {"overall": 0.057}),
        ("spearman", {"overall": -0.051}),
        ("brier", {"overall": 0.065}),  # -0.065 before the flip
        (
            "accuracy",
            dict(zip(["MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval", "mean"],
                     [0.488, 0.751, 0.145, 0.408, 0.158, 0.602], strict=True)),
        ),
        (
            "roc_auc",
            dict(zip(["MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval", "mean"],
                     [0.492, 0.517, 0.454, 0.431, 0.223, 0.632], strict=True)),
        ),
        (
            "max_score",
            dict(zip(["MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval", "mean"],
                     [0.336, 0.604, 0.138, 0.425, 0.066, 0.593], strict=True)),
        ),
    ],
)  # fmt: skip
def test_pearson_with_arena_from_the_rounded_tables(
    recomputed: pd.DataFrame, metric: str, by_domain: dict[str, float]
) -> None:
    for domain, expected in by_domain.items():
        row = recomputed.loc[(metric, domain)]
        assert row["n"] == 9
        assert row["pearson"] == pytest.approx(expected, abs=0.001), domain


def test_recomputed_is_near_the_figure(recomputed: pd.DataFrame) -> None:
    printed = published.ppe_correlations().query("arena_target == 'raw'")
    printed = printed[printed["dataset"] != "rewardbench"].set_index(["metric", "domain"])
    both = recomputed.join(printed["pearson"].rename("printed"), how="inner")
    assert len(both) == 25  # 7 human overall, 3 x 6 correctness
    difference = (both["pearson"] - both["printed"]).abs()
    # the figure was made from unrounded and slightly different numbers
    assert (difference > 0.051).sum() <= 1
    assert difference.max() <= 0.07


def test_shapes_are_our_own() -> None:
    metrics = published.ppe_metrics()
    assert tuple(metrics.columns) == METRIC_COLUMNS
    assert metrics["value"].between(-1, 1).all()
    assert metrics[["stderr", "n"]].isna().all(axis=None)
    athene = metrics[
        (metrics["reward_model"] == "Athene-RM-70B") & (metrics["domain"] == "overall")
    ]
    assert athene.set_index("metric")["value"]["accuracy"] == 0.6656
    assert not metrics.duplicated(["reward_model", "benchmark", "domain", "metric"]).any()


def test_reward_models_have_one_spelling() -> None:
    human = published.read("ppe_human").query("kind == 'reward_model'")["model"]
    assert len(human) == 14
    for name in ("ppe_correctness", "ppe_arena"):
        table = published.read(name)
        models = table[table["kind"].isin(["reward_model", "dpo"])]["model"]
        assert set(models) <= set(human)


def test_arena_scores_are_of_the_nine_dpo_policies() -> None:
    scores = published.arena_scores()
    assert len(scores) == 9
    assert (scores["ci_low"] < scores["value"]).all()
    assert (scores["value"] < scores["ci_high"]).all()
    # two baselines bracket them: four of nine are at or below the untuned 3.1-8B at 1178
    assert (scores["value"] <= 1178).sum() == 4


def test_base_model_scores_are_means_of_four_categories() -> None:
    table = published.rewardbench_by_category()
    assert len(table) == 80
    gap = table[["chat", "chat_hard", "safety", "reasoning"]].mean(axis=1) - table["score"]
    assert gap.abs().max() <= 0.06


def test_base_models_are_forty_under_two_methods() -> None:
    table = published.base_models()
    assert table.groupby("method").size().to_dict() == {"bradley_terry": 40, "regression": 40}
    sizes = table[table["method"] == "regression"]["size_group"].value_counts()
    assert sizes.to_dict() == {">=6B": 21, "<3B": 12, "3-6B": 7}
    assert table.groupby("method")["reference"].sum().eq(4).all()
