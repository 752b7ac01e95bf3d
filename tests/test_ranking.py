from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rm_cluster.metrics.ranking import RANKING_METRICS, rank_policies, redrawn_rankings
from rm_cluster.metrics.strengths import FIRST, SECOND, TIE, bradley_terry, resample, tally

NUM_POLICIES = 20
NUM_PAIRS = 190


def arena(seed: int, noise: float, num_battles: int = 6000, num_policies: int = NUM_POLICIES):
    """Tallies by people, with ties, and by a model that decides at random every so often."""
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=num_policies)
    first = rng.integers(num_policies, size=num_battles)
    second = (first + rng.integers(1, num_policies, size=num_battles)) % num_policies
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    side = np.where(rng.random(num_battles) < chance, FIRST, SECOND)
    human = np.where(rng.random(num_battles) < 0.3, TIE, side)
    coin = rng.integers(2, size=num_battles)
    model = np.where(rng.random(num_battles) < noise, coin, side)
    model = np.where(rng.random(num_battles) < 0.05, TIE, model)
    return (
        tally(first, second, human, num_policies),
        tally(first, second, model, num_policies),
        (first, second, human, model),
    )


def reversed_tally(tallies: np.ndarray) -> np.ndarray:
    return tallies[:, [SECOND, FIRST, TIE]]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_multiples_of_what_they_count(seed: int) -> None:
    human, model, _ = arena(seed, noise=0.5)
    found = rank_policies(human, model, seed=seed)
    separated = found["separability"] * NUM_PAIRS
    assert separated == pytest.approx(round(separated))
    net = found["kendall"] * NUM_PAIRS
    assert net == pytest.approx(round(net))
    assert round(net) % 2 == 0
    # 1 - rho = 6 sum(d^2) / (n (n^2 - 1)) and sum(d^2) is even: (1 - rho) * 1330 = sum(d^2)
    assert (1 - found["spearman"]) * 1330 == pytest.approx(round((1 - found["spearman"]) * 1330))


def test_a_reward_model_that_votes_as_people_do_is_perfect() -> None:
    human, _, _ = arena(0, 0)
    found = rank_policies(human, human)
    assert found["kendall"] == found["spearman"] == 1
    assert found["rowwise_pearson"] == pytest.approx(1)
    assert found["confidence_agreement"] == 1
    assert found["brier"] < 0.03


def test_a_reward_model_that_votes_against_people_is_the_reverse() -> None:
    human, _, _ = arena(0, 0)
    straight = rank_policies(human, human)
    found = rank_policies(human, reversed_tally(human))
    assert found["kendall"] == found["spearman"] == -1
    assert found["rowwise_pearson"] == pytest.approx(-1)
    assert found["confidence_agreement"] < -0.9
    # it separates as many, up to the noise of its own bootstrap rounds
    assert found["separability"] == pytest.approx(straight["separability"], abs=0.05)
    assert found["brier"] > 0.9


def test_a_reward_model_that_ties_everything_says_nothing() -> None:
    human, model, _ = arena(0, 0)
    ties = np.zeros_like(model)
    ties[:, TIE] = model.sum(axis=1)
    found = rank_policies(human, ties)
    assert found["separability"] == found["confidence_agreement"] == 0
    assert np.isnan([found["kendall"], found["spearman"], found["rowwise_pearson"]]).all()
    # every policy outranks every other half of the time: (1/2)^2
    assert found["brier"] == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_policies", [4, 9])
def test_correlations_agree_with_scipy_on_battles(seed: int, num_policies: int) -> None:
    human, model, battles = arena(seed, 0.4, num_battles=150, num_policies=num_policies)
    first, second, by_people, by_model = battles
    rates = np.full((2, num_policies, num_policies), np.nan)
    for side, outcomes in enumerate((by_people, by_model)):
        for i in range(num_policies):
            for j in range(num_policies):
                worth = [
                    {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}[o] if a == i else
                    {FIRST: 0.0, SECOND: 1.0, TIE: 0.5}[o]
                    for a, b, o in zip(first, second, outcomes, strict=True)
                    if {a, b} == {i, j} and i != j
                ]  # fmt: skip
                if worth:
                    rates[side, i, j] = np.mean(worth)
    rows = []
    for i in range(num_policies):
        met = ~np.isnan(rates[0, i])
        if met.sum() > 1 and np.ptp(rates[0, i, met]) > 0 and np.ptp(rates[1, i, met]) > 0:
            rows.append(scipy.stats.pearsonr(rates[0, i, met], rates[1, i, met]).statistic)
    found = rank_policies(human, model)
    strengths = bradley_terry(human), bradley_terry(model)
    assert found["rowwise_pearson"] == pytest.approx(np.mean(rows))
    assert found["kendall"] == pytest.approx(scipy.stats.kendalltau(*strengths).statistic)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(*strengths).statistic)


def test_separation_agreement_and_brier_follow_their_definitions() -> None:
    human, model, _ = arena(1, 0.5)
    found = rank_policies(human, model, num_rounds=100, seed=5)
    rounds = [bradley_terry(resample(t, 100, np.random.default_rng(5))) for t in (human, model)]
    low, high = (np.quantile(rounds, q, axis=1) for q in (0.025, 0.975))
    strengths = bradley_terry(human)
    num_separated, net, confident, errors = 0, 0, 0, []
    for i in range(NUM_POLICIES):
        for j in range(i + 1, NUM_POLICIES):
            sign = [
                1 if low[s, i] > high[s, j] else -1 if low[s, j] > high[s, i] else 0 for s in (0, 1)
            ]
            num_separated += sign[1] != 0
            confident += sign[0] != 0
            net += sign[0] * sign[1]
            above = (rounds[1][:, i] > rounds[1][:, j]).mean()
            errors.append((above - (strengths[i] > strengths[j])) ** 2)
    assert found["separability"] == num_separated / NUM_PAIRS
    assert found["confidence_agreement"] == pytest.approx(net / confident)
    assert found["brier"] == pytest.approx(np.mean(errors))


def test_human_ties_count_half_or_not_at_all() -> None:
    human, model, _ = arena(2, 0.5)
    without = human.copy()
    without[:, TIE] = 0
    assert rank_policies(human, model, human_ties="exclude") == rank_policies(without, model)
    assert rank_policies(human, model) != rank_policies(without, model)


def test_redrawn_metrics_vary_as_those_of_fresh_battles() -> None:
    rng = np.random.default_rng(0)
    strengths = np.linspace(-1.5, 1.5, NUM_POLICIES)

    def battles() -> tuple[np.ndarray, np.ndarray]:
        first = rng.integers(NUM_POLICIES, size=6000)
        second = (first + rng.integers(1, NUM_POLICIES, size=6000)) % NUM_POLICIES
        chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
        human = np.where(rng.random(6000) < chance, FIRST, SECOND)
        model = np.where(rng.random(6000) < 0.5, rng.integers(2, size=6000), human)
        return (
            tally(first, second, human, NUM_POLICIES),
            tally(first, second, model, NUM_POLICIES),
        )

    fresh = [rank_policies(*battles()) for _ in range(60)]
    human, model = battles()
    redrawn = redrawn_rankings(resample(human, 200, rng), resample(model, 200, rng))
    for metric in RANKING_METRICS:
        spread = np.std([found[metric] for found in fresh])
        # within a factor of two: what is resampled are noisier battles, and 60 are few
        assert 0.5 * spread < np.nanstd(redrawn[metric]) < 2 * spread + 0.005, metric


def test_nothing_is_known_between_policies_that_no_battles_link() -> None:
    # 0 beats 1, 2 beats 3, and 4 meets nobody: pairs are (0, 1), (0, 2) ... (3, 4)
    battles = np.zeros((10, 3))
    battles[0], battles[7] = [90, 10, 0], [80, 20, 0]
    found = rank_policies(battles, battles)
    assert found["separability"] == 2 / 10
    assert found["confidence_agreement"] == 1
    assert found["brier"] == 0, "where people have no order, neither has the reward model"
    redrawn = redrawn_rankings(battles[None], battles[None])
    assert redrawn["separability"].tolist() == [2 / 10]
    # a chain of battles links its ends
    battles[4] = [50, 50, 0]
    assert rank_policies(battles, battles)["separability"] > 2 / 10
