from __future__ import annotations

import itertools

import numpy as np
import pytest

from rm_cluster.best_of_n import (
    expected_best_of_all_n,
    expected_best_of_n,
    kl_of_best_of_n,
    resampled_best_of_n,
    select,
)
from rm_cluster.errors import ConfigError, DataFormatError
from tests.candidate_pools import candidate_pools


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_expectation_is_the_mean_over_all_subsets(missing: float) -> None:
    pools = candidate_pools(0, num=6, missing=missing)
    for n in range(1, 7):
        found = expected_best_of_n(pools.rewards, pools.gold, n)
        for prompt, proxy in enumerate(pools.rewards):
            here = np.flatnonzero(~np.isnan(proxy))
            picks = []
            for subset in itertools.combinations(here, n):
                best = max(proxy[i] for i in subset)
                picks.append(np.mean([pools.gold[prompt, i] for i in subset if proxy[i] == best]))
            if picks:
                assert found[prompt] == pytest.approx(np.mean(picks))
            else:
                assert np.isnan(found[prompt])


def test_ties_share_as_the_first_does_over_all_orders() -> None:
    proxy, gold = np.array([1.0, 3.0, 3.0, 3.0, 2.0]), np.array([0.0, 1.0, 5.0, 2.0, 9.0])
    for n in range(1, 6):
        firsts = [
            gold[list(order)][select("bon", proxy[list(order)][None])[0]]
            for order in itertools.permutations(range(5), n)
        ]
        assert expected_best_of_n([proxy], [gold], n)[0] == pytest.approx(np.mean(firsts))


def test_weights_of_best_of_two_among_five() -> None:
    # C(i-1, 1) / C(5, 2) for rank i = 1..5
    found = expected_best_of_n(np.tile(np.arange(5.0), (5, 1)), np.eye(5), 2)
    np.testing.assert_allclose(found, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-15)


def test_all_n_at_once_begin_with_the_mean_and_end_with_the_pick() -> None:
    pools = candidate_pools(1)
    curve = expected_best_of_all_n(pools.rewards, pools.gold)
    np.testing.assert_allclose(curve[:, 0], pools.gold.mean(axis=1))
    for n in range(1, 8):
        found = expected_best_of_n(pools.rewards, pools.gold, n)
        np.testing.assert_array_equal(found, curve[:, n - 1])
    proxy = expected_best_of_all_n(pools.rewards, pools.rewards)
    assert (np.diff(proxy, axis=1) >= -1e-12).all()
    np.testing.assert_allclose(proxy[:, -1], pools.rewards.max(axis=1))


def test_it_is_unbiased_for_fresh_draws() -> None:
    # of pools of 8 from a policy whose gold falls where the proxy is high, best of 3
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(20_000, 8))
    gold = proxy - 0.4 * proxy**2
    fresh = rng.normal(size=(60_000, 3)).max(axis=1)
    expected, direct = expected_best_of_n(proxy, gold, 3), fresh - 0.4 * fresh**2
    error = np.hypot(expected.std() / np.sqrt(len(expected)), direct.std() / np.sqrt(len(direct)))
    assert abs(expected.mean() - direct.mean()) < 4 * error


@pytest.mark.parametrize("rule", ["mbr", "rbon_wd"])
def test_resampling_agrees_with_all_subsets(rule: str) -> None:
    pools = candidate_pools(2, num=6, missing=0.2)
    for n in (1, 3, 5):
        found = resampled_best_of_n(
            rule, pools.rewards, pools.gold, n, pools.similarity, beta=0.8, num_draws=4000
        )
        for prompt in range(len(pools.rewards)):
            here = np.flatnonzero(~np.isnan(pools.rewards[prompt]))
            picks = []
            for subset in itertools.combinations(here, n):
                rewards = pools.rewards[prompt, subset][None]
                similarity = pools.similarity[prompt][np.ix_(subset, subset)][None]
                index = select(rule, rewards, 0.8, similarity_PNN=similarity)[0]
                picks.append(pools.gold[prompt, subset[index]])
            if not picks:
                assert np.isnan(found.value_P[prompt])
                continue
            error = np.std(picks) / np.sqrt(4000)
            assert abs(found.value_P[prompt] - np.mean(picks)) <= 4.5 * error + 1e-12
            if 1 < n < len(here):
                assert found.stderr_P[prompt] == pytest.approx(error, rel=0.15, abs=1e-12)


def test_the_whole_pool_is_one_subset() -> None:
    pools = candidate_pools(3)
    found = resampled_best_of_n("rbon_wd", pools.rewards, pools.gold, 7, pools.similarity, 0.5)
    picks = select("rbon_wd", pools.rewards, 0.5, similarity_PNN=pools.similarity)
    np.testing.assert_allclose(found.value_P, pools.gold[np.arange(12), picks])
    assert (found.stderr_P == 0).all()


def test_resampling_at_beta_zero_is_the_closed_form() -> None:
    rng = np.random.default_rng(4)
    rewards, gold = rng.normal(size=(2, 10, 8))
    similarity = np.tile(np.eye(8), (10, 1, 1))
    found = resampled_best_of_n("rbon_wd", rewards, gold, 3, similarity, num_draws=2000)
    exact = expected_best_of_n(rewards, gold, 3)
    assert (np.abs(found.value_P - exact) < 4.5 * found.stderr_P).all()


def test_kl_of_best_of_n() -> None:
    found = kl_of_best_of_n([1, 2, 4, 16, 32, 128])
    np.testing.assert_allclose(found, [0, 0.1931, 0.6363, 1.8351, 2.4970, 3.8598], atol=5e-5)
    found = kl_of_best_of_n([4, 16, 128], [0.25, 0.1, 0.01])
    np.testing.assert_allclose(found, [0.6159, 1.7561, 3.8127], atol=5e-5)


@pytest.mark.parametrize(("n", "eps"), [(2, 0.5), (7, 0.03), (40, 0.2), (3, 0.999)])
def test_kl_with_an_atom_is_that_of_a_fine_grid(n: int, eps: float) -> None:
    # outcomes: the best with mass eps, below it 200,000 of equal mass
    edges = np.append(np.linspace(0, 1 - eps, 200_001), 1.0)
    best_of_n, policy = np.diff(edges**n), np.diff(edges)
    kl = (best_of_n * np.log(np.maximum(best_of_n, 1e-300) / policy)).sum()
    assert kl_of_best_of_n(n, eps) == pytest.approx(kl, abs=1e-4)


def test_kl_at_the_ends_of_the_mass() -> None:
    assert kl_of_best_of_n(5, 0.0) == kl_of_best_of_n(5)
    assert kl_of_best_of_n(5, 1e-300) == pytest.approx(float(kl_of_best_of_n(5)))
    assert kl_of_best_of_n(5, 1.0) == 0
    assert kl_of_best_of_n(1, 0.3) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("n", [0, 8, 2.5, True, "3"])
def test_n_must_lie_in_the_pool(n: object) -> None:
    pools = candidate_pools(0)
    with pytest.raises(ConfigError, match="whole number from 1 to 7"):
        expected_best_of_n(pools.rewards, pools.gold, n)
    with pytest.raises(ConfigError, match="whole number from 1 to 7"):
        resampled_best_of_n("mbr", pools.rewards, pools.gold, n, pools.similarity)


def test_malformed_inputs_are_told() -> None:
    pools = candidate_pools(0)
    with pytest.raises(DataFormatError, match=r"gold_PN\[0, 0\] is nan"):
        expected_best_of_n([[1.0]], [[np.nan]], 1)
    with pytest.raises(DataFormatError, match="proxy_PN has the shape"):
        expected_best_of_n([1.0], [1.0], 1)
    with pytest.raises(ConfigError, match="Unknown pool rule 'rbon_kl'"):
        resampled_best_of_n("rbon_kl", pools.rewards, pools.gold, 2, pools.similarity)
    with pytest.raises(ConfigError, match="num_draws must be at least 2"):
        resampled_best_of_n("mbr", pools.rewards, pools.gold, 2, pools.similarity, num_draws=1)
    with pytest.raises(ConfigError, match="n must be at least 1"):
        kl_of_best_of_n(0)
    with pytest.raises(ConfigError, match="best_mass is a probability"):
        kl_of_best_of_n(2, 1.5)
