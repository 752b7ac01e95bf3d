from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_cluster.best_of_n import beta_path, beta_paths, bonus, mean_similarity, pick, select
from rm_cluster.errors import DataFormatError
from tests.candidate_pools import candidate_pools

GRID = np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 400)])


def gaps(rewards: np.ndarray, extra: np.ndarray, picks: np.ndarray, beta: float) -> np.ndarray:
    """[P] by how much a pick's score is below the best one, relative to the scores' size."""
    scores = np.where(np.isnan(rewards), -np.inf, rewards + beta * extra)
    best = scores.max(axis=1)
    return (best - scores[np.arange(len(picks)), picks]) / np.maximum(1, np.abs(best))


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("rule", ["bon", "rbon_kl", "rbon_wd", "rbon_l"])
def test_the_path_is_the_pick_on_a_dense_grid(rule: str, missing: float) -> None:
    for seed in range(5):
        pools = candidate_pools(seed, num=9, missing=missing)
        extra = bonus(rule, pools.rewards, **pools.inputs())
        along = beta_paths(pools.rewards, extra).picks(GRID)
        for column, beta in enumerate(GRID):
            found = along[:, column]
            assert (gaps(pools.rewards, extra, found, beta) <= 1e-12).all()
            picks = select(rule, pools.rewards, beta, **pools.inputs())
            # the grid hits no breakpoint, so even the positions agree, equal candidates included
            assert found.tolist() == picks.tolist()


def test_worked_example() -> None:
    # lines 3, 2 + beta, 2.5 * beta: 3 = 2 + beta at 1, 2 + beta = 2.5 beta at 4/3;
    # 1 + beta and 2 + beta / 2 are below these everywhere
    breakpoints, indices = beta_path([2.0, 3.0, 1.0, 0.0, 2.0], [1.0, 0.0, 1.0, 2.5, 0.5])
    np.testing.assert_allclose(breakpoints, [1, 4 / 3])
    assert indices.tolist() == [1, 0, 3]
    # the middle line only touches where the others cross: 2, 1 + beta, 2 * beta at beta = 1
    breakpoints, indices = beta_path([2.0, 1.0, 0.0], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(breakpoints, [1])
    assert indices.tolist() == [0, 2]


def test_at_beta_zero_the_first_of_equal_rewards_is_picked() -> None:
    # any beta > 0 prefers the second, and from 2 on the third
    breakpoints, indices = beta_path([5.0, 5.0, 3.0], [0.0, 1.0, 2.0])
    assert breakpoints.tolist() == [0.0, 2.0]
    assert indices.tolist() == [0, 1, 2]
    assert indices[np.searchsorted(breakpoints, [0.0, 1e-9, 1.9, 2.1])].tolist() == [0, 1, 1, 2]


def test_equal_candidates_give_the_first() -> None:
    breakpoints, indices = beta_path([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    assert (breakpoints.tolist(), indices.tolist()) == ([], [0])
    # both ends of the path written twice
    breakpoints, indices = beta_path([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0])
    assert (breakpoints.tolist(), indices.tolist()) == ([1.0], [0, 2])


def test_one_candidate_has_no_breakpoint() -> None:
    breakpoints, indices = beta_path([np.nan, -3.0], [np.nan, 9.0])
    assert (breakpoints.tolist(), indices.tolist()) == ([], [1])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=12
    )
)  # fmt: skip
def test_small_integers_meet_in_many_points(lines: list[tuple[int, int]]) -> None:
    rewards, extra = np.array(lines, dtype=float).T
    breakpoints, indices = beta_path(rewards, extra)
    assert len(indices) == len(breakpoints) + 1
    assert (np.diff(breakpoints) > 0).all()
    assert (breakpoints >= 0).all()
    # between breakpoints and beyond the last one, where nothing is equal but equal lines
    edges = np.concatenate([[0.0], breakpoints, [breakpoints[-1] + 2 if len(breakpoints) else 2]])
    for low, high, index in zip(edges, edges[1:], indices, strict=False):
        beta = (low + high) / 2
        assert index == pick(rewards[None], extra[None], beta)[0]
    assert indices[0] == rewards.argmax()
    # at a breakpoint both neighbors are best
    for k, beta in enumerate(breakpoints):
        best = (rewards + beta * extra).max()
        for index in indices[k : k + 2]:
            assert rewards[index] + beta * extra[index] == pytest.approx(best, abs=1e-12)


def test_along_the_path_the_bonus_rises_and_the_reward_falls() -> None:
    pools = candidate_pools(8, num_prompts=40, num=20)
    for prompt in range(40):
        extra = mean_similarity(pools.embeddings)[prompt]
        _, indices = beta_path(pools.rewards[prompt], extra)
        assert (np.diff(extra[indices]) >= 0).all()
        assert (np.diff(pools.rewards[prompt][indices]) <= 0).all()
        assert pools.rewards[prompt][indices[0]] == pools.rewards[prompt].max()
        assert extra[indices[-1]] == extra.max()


def test_every_candidate_may_be_on_the_path() -> None:
    # tangents of a concave curve at 1, 2, ..., n: each is the highest somewhere
    slope = np.arange(1.0, 301)
    order = np.random.default_rng(0).permutation(300)
    breakpoints, indices = beta_path(-(slope[order] ** 2) / 2, slope[order])
    # beta * s - s^2 / 2 is largest for the s nearest to beta: halves are the breakpoints
    np.testing.assert_allclose(breakpoints, np.arange(1.5, 300))
    assert slope[order][indices].tolist() == slope.tolist()


def test_many_prompts_are_as_each_alone() -> None:
    pools = candidate_pools(9, num_prompts=30, missing=0.3)
    extra = bonus("rbon_kl", pools.rewards, **pools.inputs())
    paths = beta_paths(pools.rewards, extra)
    assert np.isinf(paths.breakpoints_PM).any()
    for prompt in range(30):
        breakpoints, indices = beta_path(pools.rewards[prompt], extra[prompt])
        num = len(breakpoints)
        np.testing.assert_array_equal(paths.breakpoints_PM[prompt, :num], breakpoints)
        assert np.isinf(paths.breakpoints_PM[prompt, num:]).all()
        np.testing.assert_array_equal(paths.indices_PK[prompt, : num + 1], indices)
        assert (paths.indices_PK[prompt, num:] == indices[-1]).all()


def test_one_prompt_after_the_other_takes_a_millisecond_each() -> None:
    rewards, extra = np.random.default_rng(0).normal(size=(2, 200, 128))
    began = time.process_time()
    for prompt in range(200):
        beta_path(rewards[prompt], extra[prompt])
    assert time.process_time() - began < 0.5


def test_means_along_the_path_are_those_of_the_picks() -> None:
    pools = candidate_pools(10, num_prompts=25)
    extra = bonus("rbon_l", pools.rewards, **pools.inputs())
    paths = beta_paths(pools.rewards, extra)
    breakpoints, means = paths.mean_of(pools.gold)
    assert len(means) == len(breakpoints) + 1
    assert (np.diff(breakpoints) > 0).all()
    for beta in GRID:
        picks = select("rbon_l", pools.rewards, beta, **pools.inputs())
        expected = pools.gold[np.arange(25), picks].mean()
        assert means[np.searchsorted(breakpoints, beta)] == pytest.approx(expected, abs=1e-12)


def test_malformed_pools_are_told() -> None:
    with pytest.raises(DataFormatError, match=r"bonus_PN\[0, 1\] is nan"):
        beta_path([1.0, 2.0], [0.5, np.nan])
    with pytest.raises(DataFormatError, match=r"shapes \(2,\) and \(1,\)"):
        beta_path([1.0, 2.0], [0.5])
    with pytest.raises(DataFormatError, match="For many prompts use beta_paths"):
        beta_path([[1.0, 2.0]], [[0.5, 0.5]])
    with pytest.raises(DataFormatError, match="no candidate"):
        beta_path([np.nan], [0.5])
