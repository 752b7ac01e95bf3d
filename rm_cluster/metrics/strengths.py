"""Bradley-Terry strengths of policies from pairwise battles, for many resamplings at once.

How often each of two policies won, and how often they tied, is all that the fit needs of the
battles, so a bootstrap round is one multinomial draw of those counts and all rounds are fitted
together by Newton's method.

Shapes: M policies, R = M(M-1)/2 pairs of policies in the order of `np.triu_indices(M, 1)`, B
battles, S bootstrap rounds. A tally is [..., R, 3]: wins of the first, wins of the second, ties.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse

from rm_cluster.metrics.judged import Floats, Ints

FIRST, SECOND, TIE = range(3)
NUM_ROUNDS = 100
"""Bootstrap rounds, as in Arena-Hard, to which the PPE paper points."""
ELO_PER_LOGIT = 400 / math.log(10)
_RIDGE = 1e-8
_TOLERANCE = 1e-9
_MAX_STEP = 2.0
_MAX_STEPS = 200


def tally(
    first: Ints, second: Ints, outcome: Ints, num_policies: int, weights: Floats | None = None
) -> Floats:
    """Count battles by pair of policies and outcome.

    Args:
        first: [B] indices of one policy.
        second: [B] indices of the other, which differ from `first`.
        outcome: [B] `FIRST`, `SECOND` or `TIE`.
        num_policies: M.
        weights: [S, B] how often each battle counts; once if None.

    Returns:
        [R, 3], or [S, R, 3] with weights.
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    pair = low * num_policies - low * (low + 1) // 2 + high - low - 1
    # the winner in terms of (low, high)
    swapped = (first > second) & (outcome != TIE)
    cell = 3 * pair + np.where(swapped, SECOND - outcome, outcome)
    num_cells = 3 * num_policies * (num_policies - 1) // 2
    if weights is None:
        return np.bincount(cell, minlength=num_cells).astype(float).reshape(-1, 3)
    members = scipy.sparse.csr_array(
        (np.ones(len(cell)), cell, np.arange(len(cell) + 1)), (len(cell), num_cells)
    )
    counts: Floats = (members.T @ weights.T).T
    return counts.reshape(len(weights), -1, 3)


def resample(tallies: Floats, num_rounds: int, rng: np.random.Generator) -> Floats:
    """Draw as many battles with replacement, `num_rounds` times: [R, 3] -> [S, R, 3]."""
    cells = np.flatnonzero(tallies)
    drawn = np.zeros((num_rounds, tallies.size))
    if len(cells):
        counts = tallies.reshape(-1)[cells]
        total = int(counts.sum())
        drawn[:, cells] = rng.multinomial(total, counts / counts.sum(), size=num_rounds)
    return drawn.reshape(num_rounds, *tallies.shape)


def wins(tallies: Floats) -> Floats:
    """[..., M, M] how often the row's policy beat the column's; a tie is half a win for each."""
    num_policies = num_policies_of(tallies)
    rows, columns = np.triu_indices(num_policies, 1)
    matrix = np.zeros((*tallies.shape[:-2], num_policies, num_policies))
    half = tallies[..., TIE] / 2
    matrix[..., rows, columns] = tallies[..., FIRST] + half
    matrix[..., columns, rows] = tallies[..., SECOND] + half
    return matrix


def num_policies_of(tallies: Floats) -> int:
    """M, from R = M(M-1)/2."""
    return (1 + math.isqrt(1 + 8 * tallies.shape[-2])) // 2


def bradley_terry(tallies: Floats) -> Floats:
    """Fit P(i beats j) = sigmoid(strength_i - strength_j), a tie being half a win for each.

    Args:
        tallies: [..., R, 3].

    Returns:
        [..., M] maximum-likelihood strengths in logits, of mean 0 (`ELO_PER_LOGIT` makes Elo
        points of them). A penalty of 1e-8 / 2 per squared logit makes the fit exist whatever the
        data hold: a policy that lost every battle comes out about 20 logits down, and one that
        met nobody at 0. Elsewhere it moves nothing that one could see.
    """
    won = wins(tallies)
    shape, num_policies = won.shape[:-2], won.shape[-1]
    won = won.reshape(-1, num_policies, num_policies)
    strengths = np.zeros((len(won), num_policies))
    moving = np.arange(len(won))
    # gradients lie across the vector of ones, so stiffness along it changes no step
    stiffness = np.full((num_policies, num_policies), 1 / num_policies)
    stiffness[np.diag_indices(num_policies)] += _RIDGE
    for _ in range(_MAX_STEPS):
        here = strengths[moving]
        gradient, curvature = _derivatives(won[moving], here)
        step = np.linalg.solve(curvature + stiffness, gradient - _RIDGE * here[..., None])[..., 0]
        largest = np.abs(step).max(axis=1, initial=0.0)
        step *= np.minimum(1.0, _MAX_STEP / np.maximum(largest, _TOLERANCE))[:, None]
        strengths[moving] += step
        moving = moving[largest > _TOLERANCE]
        if not len(moving):
            break
    strengths -= strengths.mean(axis=1, keepdims=True)
    return strengths.reshape(*shape, num_policies)


def standard_errors(tallies: Floats, strengths: Floats) -> tuple[Floats, Floats]:
    """Large-sample standard errors of the fit under resampled battles (the sandwich estimate).

    The curvature alone would overstate them, because a tie, as half a win for each side, varies
    less than the model has it.

    Returns:
        [..., M] of each strength, and [..., R] of the difference of each two, in logits.
    """
    num_policies = strengths.shape[-1]
    first, second = np.triu_indices(num_policies, 1)
    _, curvature = _derivatives(wins(tallies), strengths)
    stiffness = np.full((num_policies, num_policies), 1 / num_policies)
    stiffness[np.diag_indices(num_policies)] += _RIDGE
    inverse = np.linalg.inv(curvature + stiffness)
    chance = (1 + np.tanh((strengths[..., first] - strengths[..., second]) / 2)) / 2
    surprises = np.stack([1 - chance, chance, 0.5 - chance], axis=-1) ** 2
    noise = np.zeros_like(inverse)
    noise[..., first, second] = -(tallies * surprises).sum(axis=-1)
    noise += np.swapaxes(noise, -1, -2)
    diagonal = np.arange(num_policies)
    noise[..., diagonal, diagonal] = -noise.sum(axis=-1)
    covariance = inverse @ noise @ inverse
    variance = covariance[..., diagonal, diagonal]
    difference = variance[..., first] + variance[..., second] - 2 * covariance[..., first, second]
    return np.sqrt(np.maximum(variance, 0.0)), np.sqrt(np.maximum(difference, 0.0))


def _derivatives(won: Floats, strengths: Floats) -> tuple[Floats, Floats]:
    """Gradient [..., M, 1] of the log-likelihood and its negative Hessian [..., M, M]."""
    battles = won + np.swapaxes(won, -1, -2)
    half_gap = (strengths[..., :, None] - strengths[..., None, :]) / 2
    tanh = np.tanh(half_gap)
    gradient = (won - battles * (1 + tanh) / 2).sum(axis=-1, keepdims=True)
    curvature = -battles * (1 - tanh) * (1 + tanh) / 4
    diagonal = np.arange(won.shape[-1])
    curvature[..., diagonal, diagonal] = 0.0
    curvature[..., diagonal, diagonal] = -curvature.sum(axis=-1)
    return gradient, curvature
