from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from rm_cluster.metrics.strengths import (
    FIRST,
    SECOND,
    TIE,
    bradley_terry,
    resample,
    standard_errors,
    tally,
    wins,
)


def random_battles(seed: int, num_policies: int = 7, num_battles: int = 600):
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=num_policies)
    first = rng.integers(num_policies, size=num_battles)
    second = (first + rng.integers(1, num_policies, size=num_battles)) % num_policies
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    outcome = np.where(rng.random(num_battles) < chance, FIRST, SECOND)
    outcome = np.where(rng.random(num_battles) < 0.3, TIE, outcome)
    return first, second, outcome


def test_tally_counts_wins_of_either_side_and_ties() -> None:
    # pairs in order: (0,1), (0,2), (1,2)
    first, second = np.array([0, 1, 2, 2]), np.array([1, 0, 0, 1])
    outcome = np.array([FIRST, FIRST, TIE, FIRST])
    # 0 beat 1; 1 beat 0; 2 and 0 tied; 2 beat 1
    assert tally(first, second, outcome, 3).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    weights = np.array([[1.0, 2, 3, 4], [0, 0, 0, 1]])
    weighted = tally(first, second, outcome, 3, weights)
    assert weighted[0].tolist() == [[1, 2, 0], [0, 0, 3], [0, 4, 0]]
    assert weighted[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_two_policies_have_the_log_odds_of_their_wins() -> None:
    # 6 wins, 2 losses, 2 ties: 7 to 3
    strengths = bradley_terry(np.array([[6.0, 2, 2]]))
    assert strengths[0] - strengths[1] == pytest.approx(np.log(7 / 3), abs=1e-8)
    assert strengths.sum() == pytest.approx(0)


@pytest.mark.parametrize("seed", range(4))
def test_strengths_are_those_of_maximum_likelihood(seed: int) -> None:
    tallies = tally(*random_battles(seed), 7)
    won = wins(tallies)

    def loss(strengths: np.ndarray) -> float:
        gaps = strengths[:, None] - strengths[None]
        return float((won * np.logaddexp(0, -gaps)).sum())

    expected = scipy.optimize.minimize(loss, np.zeros(7), tol=1e-12).x
    np.testing.assert_allclose(bradley_terry(tallies), expected - expected.mean(), atol=2e-4)
    assert loss(bradley_terry(tallies)) <= loss(expected) + 1e-9


def test_every_draw_is_fitted_as_if_alone() -> None:
    rounds = resample(tally(*random_battles(0), 7), 20, np.random.default_rng(1))
    together = bradley_terry(rounds)
    alone = np.stack([bradley_terry(one) for one in rounds])
    np.testing.assert_allclose(together, alone, atol=1e-9)


def test_a_round_draws_as_many_battles() -> None:
    tallies = tally(*random_battles(0), 7)
    rounds = resample(tallies, 50, np.random.default_rng(0))
    assert (rounds.sum(axis=(1, 2)) == 600).all()
    # a count's mean over rounds is the count itself; 600 * p * (1 - p) / 50 is its variance
    assert np.abs(rounds.mean(axis=0) - tallies).max() < 5


def test_hopeless_and_unknown_policies_have_a_place() -> None:
    # 0 and 1 are even, 2 lost all its battles, 3 met nobody
    tallies = np.zeros((6, 3))
    tallies[0], tallies[1], tallies[3] = [5, 5, 0], [8, 0, 0], [8, 0, 0]
    strengths = bradley_terry(tallies)
    assert strengths[0] == pytest.approx(strengths[1])
    assert strengths[2] < strengths[3] < strengths[0]
    assert np.isfinite(strengths).all()
    assert bradley_terry(np.zeros((3, 3))).tolist() == [0, 0, 0]


def test_standard_errors_are_the_spread_of_the_bootstrap() -> None:
    tallies = tally(*random_battles(3, num_battles=4000), 7)
    strengths = bradley_terry(tallies)
    errors, difference_errors = standard_errors(tallies, strengths)
    rounds = bradley_terry(resample(tallies, 2000, np.random.default_rng(0)))
    np.testing.assert_allclose(errors, rounds.std(axis=0), rtol=0.1)
    first, second = np.triu_indices(7, 1)
    spread = (rounds[:, first] - rounds[:, second]).std(axis=0)
    np.testing.assert_allclose(difference_errors, spread, rtol=0.1)
