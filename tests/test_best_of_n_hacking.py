from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rm_cluster.best_of_n import (
    expected_best_of_all_n,
    over_optimization_point,
    over_prompts,
    select,
    select_probabilities,
    spearman_per_pool,
    taken,
    win_chances,
    wins,
)
from rm_cluster.errors import DataFormatError
from tests.candidate_pools import candidate_pools


def hacked_pools(num_prompts: int, num: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Gold rises with the proxy up to 0.6 and falls beyond."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(num_prompts, num))
    return proxy, -np.abs(proxy - 0.6) + 0.3 * rng.normal(size=proxy.shape)


def test_ties_are_half_a_win() -> None:
    found = wins(np.array([2.0, 1.0, 1.0, np.nan]), np.array([1.0, 1.0, 3.0, 0.0]))
    np.testing.assert_array_equal(found, [1, 0.5, 0, np.nan])
    assert over_prompts(found).n == 3
    assert over_prompts(found).value == pytest.approx(0.5)


def test_a_rule_against_itself_wins_half() -> None:
    pools = candidate_pools(0)
    picked = taken(pools.gold, select("bon", pools.rewards))
    assert over_prompts(wins(picked, picked)).value == 0.5


def test_swapping_mirrors_win_rates() -> None:
    pools = candidate_pools(1)
    first = select_probabilities("soft_bon", pools.rewards, 0.5)
    second = select_probabilities("inference_time_pessimism", pools.rewards, 0.5)
    won = (first * win_chances(pools.gold, second)).sum(axis=1)
    lost = (second * win_chances(pools.gold, first)).sum(axis=1)
    np.testing.assert_allclose(won + lost, 1, rtol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_win_chances_are_those_of_plain_loops(missing: float) -> None:
    pools = candidate_pools(2, missing=missing)
    gold = np.where(np.isnan(pools.rewards), np.nan, pools.gold)
    law = select_probabilities("soft_bon", pools.rewards, 1.0)
    uniform, drawn = win_chances(gold), win_chances(gold, law)
    for prompt, row in enumerate(gold):
        here = np.flatnonzero(~np.isnan(row))
        for i in range(len(row)):
            if i not in here:
                assert uniform[prompt, i] == drawn[prompt, i] == 0
                continue
            outcome = {j: 1.0 * (row[i] > row[j]) + 0.5 * (row[i] == row[j]) for j in here}
            assert uniform[prompt, i] == pytest.approx(np.mean(list(outcome.values())))
            expected = sum(law[prompt, j] * outcome[j] for j in here)
            assert drawn[prompt, i] == pytest.approx(expected)


def test_win_chances_against_best_of_n_are_wins_over_its_pick() -> None:
    pools = candidate_pools(3)
    law = select_probabilities("bon", pools.rewards)
    picks = select("rbon_kl", pools.rewards, 0.3, pools.logprobs)
    of_bon = taken(pools.gold, select("bon", pools.rewards))
    found = taken(win_chances(pools.gold, law), picks)
    np.testing.assert_allclose(found, wins(taken(pools.gold, picks), of_bon))


def test_the_best_by_gold_beats_the_reference_but_for_itself() -> None:
    # 4 candidates, no ties: beats 3 and ties with itself, 3.5 / 4
    assert win_chances([[1.0, 4.0, 2.0, 3.0]]).tolist() == [[0.125, 0.875, 0.375, 0.625]]


def test_over_optimization_is_where_gold_turns_down() -> None:
    proxy, gold = hacked_pools(400)
    found = over_optimization_point(proxy, gold)
    curve = expected_best_of_all_n(proxy, gold).mean(axis=0)
    assert found.n == curve.argmax() + 1
    assert found.interval[0] <= found.n <= found.interval[1] < 16
    assert found.turned_fraction == 1
    assert found.last_n == 16
    assert found.gold.value == pytest.approx(curve.max())
    assert found.drop.value == pytest.approx(curve.max() - curve[-1])
    assert 0 < found.drop.interval[0] < found.drop.value < found.drop.interval[1]


def test_a_faithful_proxy_never_turns() -> None:
    proxy, _ = hacked_pools(50)
    found = over_optimization_point(proxy, proxy)
    assert (found.n, found.interval, found.turned_fraction) == (16, (16, 16), 0)
    assert found.drop.value == 0


def test_a_flat_curve_is_largest_at_its_first_n() -> None:
    proxy, _ = hacked_pools(20)
    assert over_optimization_point(proxy, np.full(proxy.shape, 0.1)).n == 1


def test_fewer_prompts_have_a_wider_interval() -> None:
    many = over_optimization_point(*hacked_pools(400)).gold
    few = over_optimization_point(*hacked_pools(25)).gold
    assert few.stderr > 2 * many.stderr


def test_over_optimization_stays_within_the_smallest_pool() -> None:
    proxy, gold = hacked_pools(30)
    proxy[4, 5:] = np.nan
    assert over_optimization_point(proxy, gold).last_n == 5


def test_an_interval_needs_two_prompts() -> None:
    with pytest.raises(DataFormatError, match="two prompts at least, got 1"):
        over_optimization_point([[1.0, 2.0]], [[1.0, 2.0]])


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_spearman_is_that_of_scipy_within_each_pool(missing: float) -> None:
    pools = candidate_pools(4, missing=missing)
    found = spearman_per_pool(pools.rewards, pools.gold)
    for prompt, proxy in enumerate(pools.rewards):
        here = ~np.isnan(proxy)
        gold = pools.gold[prompt, here]
        if len(set(proxy[here])) < 2 or len(set(gold)) < 2:
            assert np.isnan(found[prompt])
        else:
            expected = spearmanr(proxy[here], gold).statistic
            assert found[prompt] == pytest.approx(expected)
    # the pool of equal rewards is left out of the mean, and counted out
    assert np.isnan(found[1])
    assert over_prompts(found).n == np.sum(~np.isnan(found)) < len(found)
