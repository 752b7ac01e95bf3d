from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from rm_cluster.config import EnsembleRule
from rm_cluster.errors import DataFormatError
from rm_cluster.rewards import Scale, combine, log_ratio, logprob_reward

RNG = np.random.default_rng(0)
STRONG, WEAK = RNG.normal(-20, 5, (2, 30))
TOKENS = RNG.integers(1, 9, 30)


def test_worked_rewards_of_one_model() -> None:
    # -6 nats over 3 tokens: -2 a token; beta 2.5 scales both
    assert logprob_reward([-6.0], [3], "sum", 2.5) == [-15.0]
    assert logprob_reward([-6.0], [3], "mean", 2.5) == [-5.0]


def test_the_mean_over_no_tokens_is_nan_and_the_sum_is_zero() -> None:
    assert logprob_reward([0.0], [0]) == [0.0]
    assert np.isnan(logprob_reward([0.0], [0], "mean")).all()


def test_worked_density_ratio() -> None:
    # -6 - (-10) = 4 nats, over the strong model's 2 tokens
    assert log_ratio([-6.0], [-10.0], [2]) == [4.0]
    assert log_ratio([-6.0], [-10.0], [2], "mean", 0.5) == [1.0]


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_a_model_over_itself_is_exactly_zero(normalize: str) -> None:
    assert not log_ratio(STRONG, STRONG, TOKENS, normalize, 0.3).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_swapping_strong_and_weak_mirrors_the_reward(normalize: str) -> None:
    forth = log_ratio(STRONG, WEAK, TOKENS, normalize)  # type: ignore[arg-type]
    back = log_ratio(WEAK, STRONG, TOKENS, normalize)  # type: ignore[arg-type]
    np.testing.assert_array_equal(forth, -back)


def test_worked_ensembles() -> None:
    # (1, 2, 4): mean 7/3, variance (16 + 1 + 25) / 9 / 3 = 14/9
    members = [[1.0], [2.0], [4.0]]
    assert combine(members, "worst_case") == [1.0]
    assert combine(members, "mean") == pytest.approx(7 / 3)
    assert combine(members, "uncertainty_weighted", 0.5) == pytest.approx(1.5556, abs=1e-4)
    assert combine(members, "lower_confidence_bound", 0.5) == pytest.approx(
        7 / 3 - 0.5 * (14 / 9) ** 0.5
    )


@pytest.mark.parametrize("rule", get_args(EnsembleRule))
def test_ensembles_equal_a_loop_over_completions(rule: EnsembleRule) -> None:
    members = RNG.normal(size=(4, 25))
    for column, found in zip(members.T, combine(members, rule, 0.7), strict=True):
        mean = sum(column) / 4
        variance = sum((value - mean) ** 2 for value in column) / 4
        expected = {
            "mean": mean,
            "worst_case": min(column),
            "uncertainty_weighted": mean - 0.7 * variance,
            "lower_confidence_bound": mean - 0.7 * variance**0.5,
        }[rule]
        assert found == pytest.approx(expected)


def test_what_one_member_lacks_the_ensemble_lacks() -> None:
    members = [[1.0, np.nan], [2.0, 3.0]]
    for rule in get_args(EnsembleRule):
        np.testing.assert_array_equal(np.isnan(combine(members, rule)), [False, True])


def test_scale_leaves_out_what_has_no_reward() -> None:
    # 1 and 3: mean 2, deviation 1
    scale = Scale.of([1.0, np.nan, 3.0])
    assert scale == (2.0, 1.0, 2)
    np.testing.assert_array_equal(scale.z([3.0, np.nan, 2.0]), [1.0, np.nan, 0.0])


@pytest.mark.parametrize("rewards", [[], [np.nan], [0.1 + 0.2, 0.3], [5.0, 5.0, 5.0], [0.0, 0.0]])
def test_rewards_that_do_not_differ_have_no_scale(rewards: list[float]) -> None:
    with pytest.raises(DataFormatError, match="do not differ"):
        Scale.of(rewards)
