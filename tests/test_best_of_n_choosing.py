from __future__ import annotations

import math

import numpy as np
import pytest

from rm_cluster.best_of_n import (
    best_beta,
    choose_and_judge,
    choose_beta,
    combine_members,
    development_prompts,
    judge_beta,
    pick,
    taken,
)
from rm_cluster.errors import ConfigError, DataFormatError

GRID = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 3000)])


def world(num_prompts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A proxy and a bonus that see gold through independent noise: beta = 1 is about best."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=(num_prompts, 12))
    rewards, bonus = gold + rng.normal(size=(2, num_prompts, 12))
    return rewards, bonus, gold


def mean_at(rewards: np.ndarray, bonus: np.ndarray, values: np.ndarray, beta: float) -> float:
    return float(taken(values, pick(rewards, bonus, beta)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_no_beta_of_a_dense_grid_is_better(seed: int) -> None:
    rewards, bonus, gold = world(40, seed)
    choice = choose_beta(rewards, bonus, gold)
    on_grid = [mean_at(rewards, bonus, gold, beta) for beta in GRID]
    assert choice.criterion >= max(on_grid) - 1e-12
    assert mean_at(rewards, bonus, gold, choice.beta) == pytest.approx(choice.criterion)
    assert choice.low < choice.beta <= choice.high
    assert choice.criterion_of_bon == pytest.approx(on_grid[0])
    assert choice.n == 40


def test_worked_example() -> None:
    # picks: prompt 0 goes from 0 to 1 at beta = 1, prompt 1 from 0 to 1 at beta = 3;
    # mean criterion 1/2 up to 1, 1 up to 3, 1/2 beyond
    rewards, bonus = [[1.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]
    choice = choose_beta(rewards, bonus, [[0.0, 1.0], [1.0, 0.0]])
    assert (choice.low, choice.beta, choice.high) == (1, 2, 3)
    assert (choice.criterion, choice.criterion_of_bon) == (1, 0.5)


def test_plain_best_of_n_is_chosen_where_nothing_is_better() -> None:
    rewards, bonus, _ = world(30)
    assert choose_beta(rewards, bonus, rewards).beta == 0
    # nor where beta changes nothing, or all is equal
    choice = choose_beta(rewards, np.zeros(rewards.shape), rewards)
    assert (choice.beta, choice.low, choice.high) == (0, 0, math.inf)
    assert choose_beta(rewards, bonus, np.full(rewards.shape, 0.1)).beta == 0


def test_an_open_end_is_twice_the_last_breakpoint() -> None:
    choice = choose_beta([[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]])
    assert (choice.low, choice.beta, choice.high) == (1, 2, math.inf)
    assert np.isnan(choice.interval).all()


def test_a_beta_between_neighboring_floats_is_found() -> None:
    following = np.nextafter(1.0, 2.0)
    rewards, bonus = [[1.0, 0.0], [following, 0.0]], [[0.0, 1.0], [0.0, 1.0]]
    choice = choose_beta(rewards, bonus, [[0.0, 1.0], [1.0, 0.0]])
    assert choice.low == 1 < choice.beta == choice.high == following


def test_the_interval_covers_what_a_large_sample_says() -> None:
    large = choose_beta(*world(20_000, seed=9)).beta
    assert large == pytest.approx(1, abs=0.15)
    # 20 intervals of 95 %: fewer than 16 would happen once in 390
    covered = 0
    for seed in range(20):
        low, high = choose_beta(*world(60, seed)).interval
        covered += low <= large <= high
    assert covered >= 16


def test_gold_is_judged_prompt_by_prompt() -> None:
    rewards, bonus, gold = world(60)
    found = judge_beta(rewards, bonus, gold, 0.7)
    picks, plain = pick(rewards, bonus, 0.7), pick(rewards, bonus, 0)
    difference = taken(gold, picks) - taken(gold, plain)
    assert found.gold.value == pytest.approx(taken(gold, picks).mean())
    assert found.gold_of_bon.value == pytest.approx(taken(gold, plain).mean())
    assert found.gain.value == pytest.approx(difference.mean())
    assert found.gain.stderr == pytest.approx(difference.std() / np.sqrt(60), rel=0.15)
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert found.win_rate_over_bon.value == pytest.approx(expected)
    reference = [
        np.mean(row[i] > row) + 0.5 / 12 for row, i in zip(gold, picks, strict=True)
    ]  # it ties with itself only
    assert found.win_rate_over_reference.value == pytest.approx(np.mean(reference))
    assert found.changed.value == pytest.approx(np.mean(picks != plain))
    assert found.gain.n == 60


def test_beta_zero_gains_nothing() -> None:
    found = judge_beta(*world(30), 0.0)
    assert (found.gain.value, found.win_rate_over_bon.value, found.changed.value) == (0, 0.5, 0)


def test_the_choice_sees_development_prompts_only() -> None:
    rewards, bonus, gold = world(80)
    dev = development_prompts(80, 30, seed=1)
    assert dev.sum() == 30
    held_out = gold + np.random.default_rng(2).normal(size=gold.shape)
    # nan on the other side: an error, were it looked at
    criterion = np.where(dev[:, None], held_out, np.nan)
    judged = np.where(dev[:, None], np.nan, gold)
    choice, outcome = choose_and_judge(rewards, bonus, criterion, judged, dev)
    assert choice == choose_beta(rewards[dev], bonus[dev], held_out[dev])
    expected = judge_beta(rewards[~dev], bonus[~dev], gold[~dev], choice.beta)
    assert outcome.gold.value == expected.gold.value
    assert outcome.gold.n == 50


def test_a_held_out_reward_model_can_choose_without_gold() -> None:
    rewards, bonus, gold = world(600)
    held_out = gold + np.random.default_rng(5).normal(size=gold.shape)
    dev = development_prompts(600, 300)
    choice, outcome = choose_and_judge(rewards, bonus, held_out, gold, dev)
    assert choice.beta > 0
    assert outcome.gain.interval[0] > 0


def test_an_ensemble_that_disagrees_can_choose_without_gold() -> None:
    # rewards whose errors, a tenth of them gross, the bonus does not share; no member saw gold
    rng = np.random.default_rng(6)
    gold = rng.normal(size=(400, 12))
    gross = 4 * (rng.random(gold.shape) < 0.1)
    members = gold + rng.normal(size=(5, *gold.shape)) * (0.5 + gross)
    rewards, bonus = members[0], gold + rng.normal(size=gold.shape)
    criterion = combine_members(members[1:], "lower_confidence_bound", weight=1.0)
    choice, outcome = choose_and_judge(
        rewards, bonus, criterion, gold, development_prompts(400, 200)
    )
    assert choice.beta > 0
    assert outcome.gain.interval[0] > 0


def test_malformed_splits_are_told() -> None:
    rewards, bonus, gold = world(5)
    for dev in (np.ones(5, dtype=bool), np.zeros(5, dtype=bool), np.arange(5), np.array([True])):
        with pytest.raises(DataFormatError, match="dev_P must be 5 booleans"):
            choose_and_judge(rewards, bonus, gold, gold, dev)
    for num_dev in (0, 5):
        with pytest.raises(ConfigError, match="1 to 4 of 5"):
            development_prompts(5, num_dev)
    with pytest.raises(DataFormatError, match="no prompts"):
        choose_beta(np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3)))
    with pytest.raises(DataFormatError, match="criterion_PN"):
        choose_beta(rewards, bonus, gold[:4])


def test_where_beta_only_breaks_ties_any_will_do() -> None:
    rewards, bonus, gold = np.ones((3, 2)), np.tile([0.0, 1.0], (3, 1)), np.tile([0.0, 1.0], (3, 1))
    choice = choose_beta(rewards, bonus, gold)
    assert (choice.beta, choice.low, choice.high) == (1.0, 0.0, np.inf)
    assert (choice.criterion, choice.criterion_of_bon) == (1.0, 0.0)
    assert best_beta(rewards, bonus, gold) == (1.0, 1.0)


def test_the_best_beta_is_the_chosen_one() -> None:
    rewards, bonus, gold = world(20)
    choice = choose_beta(rewards, bonus, gold)
    beta, value = best_beta(rewards, bonus, gold)
    assert beta == choice.beta
    assert value == pytest.approx(choice.criterion)
