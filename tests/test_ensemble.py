from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import ValidationError

import rm_cluster as rmc
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Row
from tests.rows import row


class Fixed:
    """A member whose rewards are known."""

    def __init__(self, *rewards: list[float]) -> None:
        self._rewards = [np.array(group) for group in rewards]

    def score(self, prompt_groups: Sequence[Row]) -> list[np.ndarray]:
        return self._rewards[: len(prompt_groups)]


ROWS = [row(completions=["a", "b"]), row(completions=["c", "d", "e"])]


def test_members_are_put_on_one_scale() -> None:
    one, ten = Fixed([0.0, 2.0], [0.0, 2.0, 1.0]), Fixed([20.0, 0.0], [0.0, 20.0, 10.0])
    first, second = rmc.Ensemble({"one": one, "ten": ten}).score(ROWS)
    # z-scores of 0 and 2 (0 and 20) about 1 (10) are opposite, so the means of the first are 0
    np.testing.assert_allclose(first, [0.0, 0.0], atol=1e-12)
    std = np.sqrt(4 / 5)  # of 0, 2, 0, 2, 1
    np.testing.assert_allclose(second, [-1 / std, 1 / std, 0.0], atol=1e-12)


def test_as_they_are_where_they_compare() -> None:
    one, two = Fixed([0.0, 2.0], [1.0, 1.0, 1.0]), Fixed([1.0, 1.0], [0.0, 3.0, 1.0])
    rewards = rmc.Ensemble({"one": one, "two": two}, rule="worst_case", scale="none").score(ROWS)
    np.testing.assert_array_equal(np.concatenate(rewards), [0, 1, 0, 1, 1])


def test_what_one_member_lacks_the_ensemble_lacks() -> None:
    one, two = Fixed([0.0, 2.0], [np.nan] * 3), Fixed([1.0, 0.0], [5.0, 6.0, 7.0])
    first, second = rmc.Ensemble({"one": one, "two": two}).score(ROWS)
    np.testing.assert_allclose(first, [0.0, 0.0])  # over the first row alone: -1 + 1, 1 - 1
    assert np.isnan(second).all()


def test_of_nothing_there_are_no_rewards() -> None:
    one = Fixed([0.0, 2.0])
    assert rmc.Ensemble({"one": one, "two": one}).score([]) == []


def test_mistakes() -> None:
    one = Fixed([1.0, 1.0], [1.0, 1.0, 1.0])
    with pytest.raises(DataFormatError, match="do not differ"):
        rmc.Ensemble({"one": one, "two": one}).score(ROWS)
    with pytest.raises(ValidationError, match="members"):
        rmc.Ensemble({"one": one})
