from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rm_cluster.metrics.picks import best_of_k, curve_loss, oracle_best_of_k, roc_auc


def pools(seed: int, num_prompts: int = 25, num: int = 7, num_values: int = 4):
    """Rewards with ties and failures, and labels."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(num_values, size=(num_prompts, num)).astype(float)
    rewards[rng.random(rewards.shape) < 0.1] = np.nan
    return rewards, (rng.random(rewards.shape) < 0.4).astype(float)


def expected_pick(rewards: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Every subset of k completions, one after the other; ties share, failures come last."""
    rewards = np.where(np.isnan(rewards), -np.inf, rewards)
    picks = []
    for subset in itertools.combinations(range(len(rewards)), k):
        best = max(rewards[i] for i in subset)
        picks.append(np.mean([labels[i] for i in subset if rewards[i] == best]))
    return float(np.mean(picks))


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_the_mean_over_all_subsets(seed: int) -> None:
    rewards, labels = pools(seed)
    curve = best_of_k(rewards, labels)
    for prompt, k in itertools.product(range(len(rewards)), range(1, 8)):
        expected = expected_pick(rewards[prompt], labels[prompt], k)
        assert curve[prompt, k - 1] == pytest.approx(expected)


def test_rank_r_of_32_is_picked_with_probability_of_the_paper() -> None:
    # scores ascending without ties: the item of rank r is picked with C(r-1, K-1) / C(32, K)
    rewards, labels = np.arange(32.0)[None], np.zeros((1, 32))
    labels[0, 30] = 1  # rank 31
    curve = best_of_k(rewards, labels)[0]
    # K = 2: C(30, 1) / C(32, 2) = 30 / 496; K = 31: C(30, 30) / 32; K = 32: none
    assert curve[1] == pytest.approx(30 / 496)
    assert curve[30] == pytest.approx(1 / 32)
    assert curve[31] == pytest.approx(0)


def test_best_of_one_does_not_depend_on_the_rewards() -> None:
    rewards, labels = pools(0)
    np.testing.assert_allclose(best_of_k(rewards, labels)[:, 0], labels.mean(axis=1))
    np.testing.assert_allclose(best_of_k(-rewards, labels)[:, 0], labels.mean(axis=1))


def test_perfect_and_reversed_rewards_are_the_extremes() -> None:
    labels = np.array([[1.0, 0, 0, 1], [0, 0, 0, 1]])
    oracle = oracle_best_of_k(labels)
    # one right of four: 1 - C(3, K) / C(4, K) = K / 4
    np.testing.assert_allclose(oracle[1], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(best_of_k(labels * 3 - 7, labels), oracle)
    # reversed, the right one is picked only where there is nothing else
    np.testing.assert_allclose(best_of_k(-labels, labels)[1], [0.25, 0, 0, 0], atol=1e-12)
    assert roc_auc(labels, labels) == 1
    assert roc_auc(-labels, labels) == 0


def test_loss_is_the_gap_to_the_oracle() -> None:
    oracle, curve = np.array([0.5, 0.75, 1.0]), np.array([0.5, 0.5, 0.5])
    assert curve_loss(curve, oracle) == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert curve_loss(curve, oracle, "squared") == pytest.approx((0 + 0.0625 + 0.25) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    rewards, labels = pools(seed)
    scored = ~np.isnan(rewards)
    assert roc_auc(rewards, labels) == pytest.approx(roc_auc_score(labels[scored], rewards[scored]))
    weights = np.random.default_rng(seed).integers(0, 3, size=(6, len(rewards))).astype(float)
    for drawn, found in zip(weights, roc_auc(rewards, labels, weights), strict=True):
        again = np.repeat(np.arange(len(rewards)), drawn.astype(int))
        kept = scored[again]
        expected = roc_auc_score(labels[again][kept], rewards[again][kept])
        assert found == pytest.approx(expected)


def test_auc_within_prompts_is_the_mean_over_those_with_both_kinds() -> None:
    rewards = np.array([[1.0, 2, 3], [9, 8, 7], [1, 1, 2]])
    labels = np.array([[0.0, 0, 1], [1, 1, 1], [1, 0, 0]])
    # first: 1; second has no wrong one; third: the right one ties with one and loses to the other
    assert roc_auc(rewards, labels, pooling="prompt") == pytest.approx((1 + 0.25) / 2)
    weights = np.array([[3.0, 5, 1]])
    found = roc_auc(rewards, labels, weights, pooling="prompt")
    assert found[0] == pytest.approx((3 * 1 + 0.25) / 4)


def test_auc_of_one_kind_does_not_exist() -> None:
    assert np.isnan(roc_auc(np.ones((1, 3)), np.ones((1, 3))))


def test_prompts_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards, labels = pools(3)
    whole = best_of_k(rewards, labels)
    monkeypatch.setattr("rm_cluster.metrics.picks._CHUNK_ELEMENTS", 150)
    assert np.array_equal(best_of_k(rewards, labels), whole)
