from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from rm_cluster.errors import DataFormatError
from rm_cluster.metrics import search_head_weights, weight_accuracies
from rm_cluster.metrics.head_weights import HELPSTEER_AXES

RNG = np.random.default_rng(0)


def test_worked_example() -> None:
    # margins (1, -2) and (-1, 3): weights (1, 1) win the second only, (1, 0.4) the first and the
    # second (1 - 0.8 > 0, -1 + 1.2 > 0), (0, 0) ties on both, and a tie is wrong
    chosen, rejected = [[1.0, 0.0], [0.0, 3.0]], [[0.0, 2.0], [1.0, 0.0]]
    found = weight_accuracies(chosen, rejected, [[1, 1], [1, 0.4], [0, 0]])
    assert found.tolist() == [0.5, 1.0, 0.0]


def test_equal_to_a_loop_over_all_vectors() -> None:
    chosen, rejected = RNG.integers(0, 5, (2, 40, 3)).astype(float)  # whole, so there are ties
    axes = [[0.0, 0.25, 0.5, 1.0], [0.0, 0.5], [0.0, -0.5, -1.0]]
    best, first, count = -1.0, None, 0
    for weights in itertools.product(*axes):
        share = np.mean(
            [
                sum(w * c for w, c in zip(weights, a, strict=True))
                > sum(w * r for w, r in zip(weights, b, strict=True))
                for a, b in zip(chosen, rejected, strict=True)
            ]
        )
        if share > best:
            best, first, count = float(share), weights, 0
        count += share == best
    found = search_head_weights(chosen, rejected, axes)
    assert tuple(found.weights) == first
    assert (found.accuracy, found.num_best) == (best, count)
    assert (found.num_vectors, found.n) == (24, 40)


def test_ties_of_whole_numbers_are_ties_in_steps_of_a_twentieth() -> None:
    # 0.05 + 0.1 - 0.15 is 3e-17 in floating point
    found = weight_accuracies([[1, 1, 0]], [[0, 0, 1]], [[0.05, 0.1, 0.15], [0.05, 0.1, 0.1]])
    assert found.tolist() == [0.0, 1.0]
    chosen, rejected = RNG.integers(0, 5, (2, 40, 5))  # as HelpSteer2's ratings are
    twentieths = np.stack([RNG.choice(axis, 300) for axis in HELPSTEER_AXES], axis=1)
    whole = np.rint(20 * twentieths).astype(int)
    exact = ((chosen - rejected) @ whole.T > 0).mean(axis=0)
    np.testing.assert_array_equal(weight_accuracies(chosen, rejected, twentieths), exact)


def test_the_grid_of_the_paper_has_4_084_101_vectors_and_takes_seconds() -> None:
    chosen, rejected = RNG.normal(size=(2, 100, 5))
    started = time.monotonic()
    found = search_head_weights(chosen, rejected)
    assert time.monotonic() - started < 120  # 1 on an idle machine; a loop takes an hour
    assert found.num_vectors == 21**5 == 4_084_101
    some = np.stack([RNG.choice(axis, 2000) for axis in HELPSTEER_AXES], axis=1)
    assert found.accuracy >= weight_accuracies(chosen, rejected, some).max()
    assert weight_accuracies(chosen, rejected, [found.weights]) == [found.accuracy]


def test_weights_that_made_the_preferences_are_found_again() -> None:
    truth = np.array([0.65, 0.8, 0.45, 0.55, -0.4])
    chosen, rejected = RNG.normal(size=(2, 300, 5))
    swap = (chosen - rejected) @ truth < 0
    chosen[swap], rejected[swap] = rejected[swap], chosen[swap].copy()
    tenths = [[k / 10 for k in range(11)]] * 4 + [[-k / 10 for k in range(11)]]
    found = search_head_weights(chosen, rejected, tenths)
    assert found.accuracy > 0.97
    cosine = found.weights @ truth / np.linalg.norm(found.weights) / np.linalg.norm(truth)
    assert cosine > 0.97


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        ([[1.0, 2.0]], [[1.0]], r"shapes \(1, 2\) and \(1, 1\)"),
        ([], [], r"must be \[pairs, objectives\]"),
        ([1.0], [2.0], r"must be \[pairs, objectives\]"),
        ([[1.0, np.nan]], [[0.0, 0.0]], "Pair 0 has an objective that is not finite"),
        ([[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]], "3 objectives and axes of"),
    ],
)
def test_what_is_no_pair_of_objectives(chosen: object, rejected: object, said: str) -> None:
    with pytest.raises(DataFormatError, match=said):
        search_head_weights(chosen, rejected, [[0.0, 1.0], [0.0, 1.0]])  # type: ignore[arg-type]
