from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from rm_cluster.best_of_n import combine_members, select, zscore_pools
from rm_cluster.best_of_n.ensembles import EnsembleRule
from rm_cluster.errors import ConfigError, DataFormatError

# two candidates by three members: (1, 2, 6) has mean 3 and variance (4 + 1 + 9) / 3 = 14/3,
# (2, 2, 2) has mean 2 and variance 0
MEMBERS = np.array([[[1.0, 2.0]], [[2.0, 2.0]], [[6.0, 2.0]]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [3, 2]),
        ("worst_case", [1, 2]),
        ("uncertainty_weighted", [3 - 0.5 * 14 / 3, 2]),
        ("lower_confidence_bound", [3 - 0.5 * np.sqrt(14 / 3), 2]),
    ],
)
def test_worked_example(rule: EnsembleRule, expected: list[float]) -> None:
    np.testing.assert_allclose(combine_members(MEMBERS, rule, scale="given"), [expected])


def test_pessimism_avoids_what_members_disagree_on() -> None:
    assert select("bon", combine_members(MEMBERS, "mean", scale="given")) == [0]
    assert select("bon", combine_members(MEMBERS, "worst_case", scale="given")) == [1]


@pytest.mark.parametrize("rule", get_args(EnsembleRule))
def test_the_scale_of_a_member_does_not_matter_within_pools(rule: EnsembleRule) -> None:
    members = np.random.default_rng(0).normal(size=(3, 5, 6))
    scaled = members * np.array([1, 100, 0.01])[:, None, None] + 7
    found = combine_members(scaled, rule)
    np.testing.assert_allclose(found, combine_members(members, rule), atol=1e-9)


@pytest.mark.parametrize("rule", get_args(EnsembleRule))
def test_a_weight_of_zero_or_one_member_is_the_mean(rule: EnsembleRule) -> None:
    members = np.random.default_rng(1).normal(size=(1, 5, 6))
    np.testing.assert_allclose(combine_members(members, rule, scale="given"), members[0])
    if rule != "worst_case":
        found = combine_members(MEMBERS, rule, weight=0, scale="given")
        np.testing.assert_allclose(found, combine_members(MEMBERS, "mean", scale="given"))


def test_a_candidate_that_one_member_lacks_is_none() -> None:
    members = np.random.default_rng(2).normal(size=(3, 4, 5))
    members[1, 2, 3] = np.nan
    for rule in get_args(EnsembleRule):
        found = combine_members(members, rule)
        assert np.argwhere(np.isnan(found)).tolist() == [[2, 3]]
        alone = combine_members(np.delete(members, 3, axis=2)[:, 2:3], rule)
        np.testing.assert_allclose(found[2, [0, 1, 2, 4]], alone[0])


def test_zscores_have_no_mean_and_unit_deviation() -> None:
    rewards = np.random.default_rng(3).normal(3, 9, size=(4, 8))
    rewards[0, 2:] = np.nan
    rewards[1] = 0.1 + 0.2  # constant, though its mean may round
    scores = zscore_pools(rewards)
    np.testing.assert_allclose(np.nanmean(scores, axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scores, axis=1), [1, 0, 1, 1], atol=1e-12)
    assert (np.isnan(scores) == np.isnan(rewards)).all()


def test_malformed_ensembles_are_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'worst_case'"):
        combine_members(MEMBERS, "worst-case")
    with pytest.raises(ConfigError, match="Unknown scale 'z'"):
        combine_members(MEMBERS, "mean", scale="z")
    for weight in (-1, np.nan):
        with pytest.raises(ConfigError, match="weight must be"):
            combine_members(MEMBERS, "mean", weight=weight)
    with pytest.raises(DataFormatError, match=r"shape \(1, 2\)"):
        combine_members(MEMBERS[0], "mean")
    with pytest.raises(DataFormatError, match="has no candidate"):
        combine_members(np.full((2, 1, 3), np.nan), "mean")
    opposite = np.array([[[1.0, np.inf]], [[1.0, -np.inf]]])
    with pytest.raises(DataFormatError, match=r"rewards_MPN\[0\]\[0, 1\] is inf"):
        combine_members(opposite, "mean")
    with pytest.raises(DataFormatError, match="Pad shorter pools with nan"):
        combine_members([[[1.0, 2.0], [1.0]]], "mean")
