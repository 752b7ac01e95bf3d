"""One reward from several objectives: the weight vector that ranks preference pairs best.

Reward models of the HelpSteer2 kind rate several attributes by regression; a weight vector makes a
reward of them, and is searched for on preference pairs (arXiv 2406.08673; 2505.10775, section 3.1).

Shapes: R preference pairs, H objectives, W weight vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.errors import DataFormatError

Floats = npt.NDArray[np.float64]

_STEPS = tuple(k / 20 for k in range(21))
HELPSTEER_AXES = (_STEPS, _STEPS, _STEPS, _STEPS, tuple(-step for step in _STEPS))
"""Weights of helpfulness, correctness, coherence, complexity and verbosity: 21^5 vectors.

In steps of 0.05, the first four from 0 to 1, verbosity from 0 to -1 (2505.10775).
"""
_VECTORS_AT_ONCE = 512
_ROUNDING = 1e-12


class HeadWeights(NamedTuple):
    """The outcome of a search.

    Attributes:
        weights: [H] the first of the best vectors, in the order of the grid.
        accuracy: Share of the pairs that it ranks rightly. It was chosen on these pairs, so judge
            it on others.
        num_best: How many vectors of the grid rank as many rightly.
        num_vectors: How many there are.
        n: Pairs.
    """

    weights: Floats
    accuracy: float
    num_best: int
    num_vectors: int
    n: int


def search_head_weights(
    chosen_RH: npt.ArrayLike,
    rejected_RH: npt.ArrayLike,
    axes: Sequence[Sequence[float]] = HELPSTEER_AXES,
) -> HeadWeights:
    """Find the weight vector of a grid that ranks most pairs rightly.

    A pair is ranked rightly where the chosen completion's reward is strictly higher, so a tie is
    wrong, as in 2505.10775. All vectors are tried, by matrix products: the 4,084,101 of HelpSteer2
    take 2 seconds on 350 pairs and one core.

    Args:
        chosen_RH: Objectives of the chosen completions (`Classifier.objectives`).
        rejected_RH: Those of the rejected ones.
        axes: For each objective the weights to try.

    Raises:
        DataFormatError: The arrays are not [R, H] with R >= 1, hold what is not finite, or there
            are not H axes.
    """
    margins_RH = _margins(chosen_RH, rejected_RH)
    sizes = tuple(len(axis) for axis in axes)
    if len(sizes) != margins_RH.shape[1] or not all(sizes):
        raise DataFormatError(
            f"There are {margins_RH.shape[1]} objectives and axes of {sizes} weights; each "
            "objective needs an axis of one weight or more."
        )
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # products are so small that threads would wait for each other
        won = np.concatenate([_num_won(margins_RH, vectors) for vectors in _vectors(axes)])
    best = np.flatnonzero(won == won.max())
    positions = np.unravel_index(best[0], sizes)
    weights = [axis[position] for axis, position in zip(axes, positions, strict=True)]
    return HeadWeights(
        np.array(weights),
        float(won.max() / len(margins_RH)),
        len(best),
        math.prod(sizes),
        len(margins_RH),
    )


def weight_accuracies(
    chosen_RH: npt.ArrayLike, rejected_RH: npt.ArrayLike, weights_WH: npt.ArrayLike
) -> Floats:
    """[W] the share of pairs that each weight vector ranks rightly; a tie is wrong.

    Raises:
        DataFormatError: As `search_head_weights`.
    """
    margins_RH = _margins(chosen_RH, rejected_RH)
    weights = np.asarray(weights_WH, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != margins_RH.shape[1]:
        raise DataFormatError(
            f"weights_WH has the shape {weights.shape}; it must be [vectors, objectives], and "
            f"there are {margins_RH.shape[1]} objectives."
        )
    return _num_won(margins_RH, weights) / len(margins_RH)


def _margins(chosen_RH: npt.ArrayLike, rejected_RH: npt.ArrayLike) -> Floats:
    """[R, H] chosen less rejected, each pair scaled to 1, by which no vector ranks otherwise."""
    chosen, rejected = (np.asarray(a, dtype=np.float64) for a in (chosen_RH, rejected_RH))
    if chosen.ndim != 2 or chosen.shape != rejected.shape or not chosen.size:
        raise DataFormatError(
            f"chosen_RH and rejected_RH have the shapes {chosen.shape} and {rejected.shape}; both "
            "must be [pairs, objectives]."
        )
    margins: Floats = chosen - rejected
    if not np.isfinite(margins).all():
        row = int(np.argwhere(~np.isfinite(margins))[0][0])
        raise DataFormatError(
            f"Pair {row} has an objective that is not finite; leave such pairs out, and count them."
        )
    size_R1 = np.abs(margins).sum(axis=1, keepdims=True)
    return margins / np.where(size_R1 > 0, size_R1, 1.0)


def _vectors(axes: Sequence[Sequence[float]]) -> Iterator[Floats]:
    """Yield [w, H] weight vectors of the grid, the last axis running fastest."""
    sizes = tuple(len(axis) for axis in axes)
    values = [np.asarray(axis, dtype=np.float64) for axis in axes]
    for start in range(0, math.prod(sizes), _VECTORS_AT_ONCE):
        numbers = np.arange(start, min(start + _VECTORS_AT_ONCE, math.prod(sizes)))
        positions = np.unravel_index(numbers, sizes)
        yield np.stack([axis[p] for axis, p in zip(values, positions, strict=True)], axis=1)


def _num_won(margins_RH: Floats, weights_WH: Floats) -> npt.NDArray[np.int64]:
    # objectives are often whole numbers, whose ties a product misses by rounding
    room = _ROUNDING * np.abs(weights_WH).max(initial=0.0)
    won: npt.NDArray[np.int64] = np.count_nonzero(weights_WH @ margins_RH.T > room, axis=1)
    return won
