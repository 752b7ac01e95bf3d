from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from rm_cluster.config import PairRule
from rm_cluster.errors import DataFormatError
from rm_cluster.pairing import id_draws, mean_word_overlap, num_words, pair_candidates

REWARDS = np.array([[1.0, 3.0, 2.0, np.nan], [0.0, 0.0, 5.0, 1.0]])


@pytest.mark.parametrize("rule", get_args(PairRule))
def test_the_chosen_is_never_worse_and_both_have_rewards(rule: PairRule) -> None:
    rng = np.random.default_rng(0)
    rewards = rng.integers(4, size=(300, 6)).astype(float)
    rewards[rng.random(rewards.shape) < 0.3] = np.nan
    rewards = rewards[(~np.isnan(rewards)).sum(1) >= 2]
    similarity = np.zeros_like(rewards)
    chosen, rejected = pair_candidates(rule, rewards, rng.random(len(rewards)), 0.0, similarity)
    rows = np.arange(len(rewards))
    assert (chosen != rejected).mean() > 0.8
    if rule != "mbr_bon_vs_worst":
        assert (rewards[rows, chosen] == np.nanmax(rewards, axis=1)).all()
    assert (rewards[rows, chosen] >= rewards[rows, rejected]).all()


def test_worst_is_the_first_of_the_lowest() -> None:
    chosen, rejected = pair_candidates("best_vs_worst", REWARDS, [0.0, 0.0])
    assert chosen.tolist() == [1, 2]
    assert rejected.tolist() == [0, 0]


@pytest.mark.parametrize("rule", ["best_vs_random", "best_vs_uniform_rank"])
def test_every_other_candidate_is_rejected_equally_often(rule: PairRule) -> None:
    draws = (np.arange(300) + 0.5) / 300
    rewards = np.tile(REWARDS[1], (300, 1))
    chosen, rejected = pair_candidates(rule, rewards, draws)
    assert set(chosen) == {2}
    assert np.bincount(rejected, minlength=4).tolist() == [100, 100, 0, 100]


def test_two_reward_models_reject_the_same_rank() -> None:
    rng = np.random.default_rng(1)
    draws = id_draws([f"row-{i}" for i in range(200)], 7, "rejected")
    ranks = []
    for _ in range(2):
        rewards = rng.normal(size=(200, 16))
        rejected = pair_candidates("best_vs_uniform_rank", rewards, draws).rejected_P
        ranks.append((rewards > rewards[np.arange(200), rejected][:, None]).sum(1))
    assert (ranks[0] == ranks[1]).all()
    assert set(ranks[0]) == set(range(1, 16))


def test_mbr_bon_moves_from_the_best_to_the_central_candidate() -> None:
    rewards, similarity = [[1.0, 0.9, 0.0]], [[0.1, 0.8, 0.5]]
    picks = [
        pair_candidates("mbr_bon_vs_worst", rewards, [0.0], beta, similarity).chosen_P[0]
        for beta in (0.0, 0.1, 0.2)  # 1 + 0.1 b < 0.9 + 0.8 b  <=>  b > 1/7
    ]
    assert picks == [0, 0, 1]


def test_a_pool_without_two_candidates_is_refused() -> None:
    with pytest.raises(DataFormatError, match="Pool 1 has fewer than two"):
        pair_candidates("best_vs_worst", [[1.0, 2.0], [1.0, np.nan]], [0.0, 0.0])


def test_draws_depend_on_seed_purpose_and_id_alone() -> None:
    draws = id_draws(["a", "b", "a"], 0, "split")
    assert draws[0] == draws[2] != draws[1]
    assert id_draws(["b"], 0, "split")[0] == draws[1]
    assert id_draws(["a"], 1, "split")[0] != draws[0]
    assert id_draws(["a"], 0, "rejected")[0] != draws[0]
    many = id_draws([str(i) for i in range(4000)], 0, "split")
    assert 0 <= many.min() < 0.01
    assert 0.99 < many.max() < 1
    assert abs(many.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)


def test_word_overlap_is_the_mean_f1_with_the_pool() -> None:
    # a b | a c: one word of two shared, F1 = 2 * 1 / (2 + 2); with itself 1
    assert mean_word_overlap(["A b", "a c"]).tolist() == [0.75, 0.75]
    assert mean_word_overlap(["a", "b", "a"]).tolist() == pytest.approx([2 / 3, 1 / 3, 2 / 3])
    assert mean_word_overlap(["", ""]).tolist() == [1.0, 1.0]


def test_words_are_counted_with_marks() -> None:
    assert num_words("Two words.") == 3
