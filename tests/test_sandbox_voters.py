from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rm_cluster.sandbox.tasks import Task
from rm_cluster.sandbox.voters import TASTES, TIES, USUAL, utility, vote

MATH = Task("MATH", "English", "52 plus 10", "62", "42", hard=False)
SCIENCE = Task("GPQA", "English", "7 h in min", "420", "700", hard=True)


def shares(task: Task, first: str, second: str, num_votes: int = 4000) -> dict[str, float]:
    rng = random.Random(0)
    votes = [vote(task, first, second, rng) for _ in range(num_votes)]
    return {winner: votes.count(winner) / num_votes for winner in ("first", "second", "tie")}


def test_utility_adds_correctness_style_and_length() -> None:
    # "Sure! It is 62.": right, style 2, 15 bytes
    assert utility(MATH, "Sure! It is 62.") == pytest.approx(
        USUAL.correctness + 2 * USUAL.chattiness + 15 * USUAL.length
    )
    # "42": wrong, style 0, 2 bytes
    assert utility(MATH, "42") == pytest.approx(2 * USUAL.length)


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        (MATH, "62", "42"),
        (MATH, "Sure! It is 42.", "42"),
        (SCIENCE, "Sure! It is 700.", "420"),
        (SCIENCE, "420", "700"),
    ],
)
def test_many_votes_recover_the_utilities(task: Task, first: str, second: str) -> None:
    found = shares(task, first, second, 20_000)
    # in Davidson's model the odds without ties are those of Bradley-Terry
    log_odds = math.log(max(found["first"], 1e-4) / max(found["second"], 1e-4))
    expected = utility(task, first) - utility(task, second)
    # one standard error: sqrt(1/wins + 1/losses)
    error = math.sqrt(sum(1 / (20_000 * found[side]) for side in ("first", "second")))
    assert abs(log_odds - expected) < 4 * error


def test_ties_are_most_frequent_between_equals() -> None:
    equals = shares(MATH, "43", "42")["tie"]
    # of 4000 votes: a standard error of 0.0075
    assert equals == pytest.approx(TIES / (2 + TIES), abs=0.03)
    assert shares(MATH, "62", "42")["tie"] < equals


def test_identical_replies_tie() -> None:
    assert shares(MATH, "62", "62", 50)["tie"] == 1.0


def test_voters_are_talked_into_wrong_science() -> None:
    assert utility(SCIENCE, "Sure! It is 700.") > utility(SCIENCE, "420")
    assert utility(MATH, "Sure! It is 42.") < utility(MATH, "62")
    assert TASTES["GPQA"].correctness < USUAL.correctness


def test_swapping_the_replies_swaps_the_votes() -> None:
    one, other = shares(MATH, "62", "It is 42."), shares(MATH, "It is 42.", "62")
    # two shares of 4000 votes each: a standard error of at most 0.011
    np.testing.assert_allclose(one["first"], other["second"], atol=0.045)
