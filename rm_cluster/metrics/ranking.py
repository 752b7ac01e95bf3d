"""How well a reward model, put in the voters' place, ranks the policies that people ranked.

PPE (arXiv 2410.14872) lets the reward model decide every battle, fits Bradley-Terry strengths to
its decisions and compares them with those from the people's. For separability, confidence agreement
and Brier score it points to Arena-Hard (arXiv 2406.11939): strengths are refitted on 100 bootstrap
rounds, and two policies are separated where their 95 % intervals do not overlap.

Left open there and chosen here: a tie is half a win for each side, by voters (`human_ties`) and by
the reward model (equal rewards); strengths are centered, not anchored to one policy; win-rate rows
leave out the policy itself and those it never met.

Shapes as in `strengths`: M policies, R pairs of policies, S draws; a tally is [..., R, 3].
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.metrics.judged import Bools, Floats
from rm_cluster.metrics.strengths import (
    NUM_ROUNDS,
    TIE,
    bradley_terry,
    resample,
    standard_errors,
    wins,
)

RANKING_METRICS = (
    "rowwise_pearson", "separability", "confidence_agreement", "kendall", "spearman", "brier",
)  # fmt: skip
HumanTies = Literal["half", "exclude"]
_TAIL = 0.025
_NORMAL_QUANTILE = 1.959963984540054
_EQUAL = 1e-7


class Ranked(NamedTuple):
    """Policies as one side ranked them.

    Attributes:
        tallies: [..., R, 3].
        strengths: [..., M] in logits.
        linked: [..., R] whether battles lead from the one to the other, if over third ones; without
            that, nothing is known of which is above.
        separated: [..., R] 1 where the first is above the second with confidence, -1 where it is
            below, 0 where the intervals overlap.
        outranks: [..., R] probability that the first is above the second.
    """

    tallies: Floats
    strengths: Floats
    linked: Bools
    separated: Floats
    outranks: Floats

    @classmethod
    def of(
        cls, tallies: Floats, strengths: Floats, low: Floats, high: Floats, outranks: Floats
    ) -> Ranked:
        """From the limits ([..., M]) of the strengths, and `outranks` of those that are linked."""
        linked = _linked(tallies)
        separated = np.where(linked, _separated(low, high), 0.0)
        return cls(tallies, strengths, linked, separated, np.where(linked, outranks, 0.5))

    @classmethod
    def by_bootstrap(cls, tallies: Floats, num_rounds: int, seed: int) -> Ranked:
        """Resample the battles of one tally [R, 3], the Arena-Hard way."""
        strengths = bradley_terry(tallies)
        rounds = bradley_terry(resample(tallies, num_rounds, np.random.default_rng(seed)))
        low, high = np.quantile(rounds, (_TAIL, 1 - _TAIL), axis=0)
        first, second = np.triu_indices(len(strengths), 1)
        gaps = rounds[:, first] - rounds[:, second]
        above = (np.sign(np.where(np.abs(gaps) < _EQUAL, 0.0, gaps)) + 1) / 2
        return cls.of(tallies, strengths, low, high, above.mean(axis=0))

    @classmethod
    def by_curvature(cls, tallies: Floats) -> Ranked:
        """The same from large-sample standard errors, for many tallies [S, R, 3] at once."""
        from scipy.special import ndtr

        strengths = bradley_terry(tallies)
        errors, difference_errors = standard_errors(tallies, strengths)
        margin = _NORMAL_QUANTILE * errors
        gap = _gaps(strengths)
        with np.errstate(divide="ignore", invalid="ignore"):
            outranks = np.where(gap == 0, 0.5, ndtr(gap / difference_errors))
        return cls.of(tallies, strengths, strengths - margin, strengths + margin, outranks)


def rank_policies(
    human: Floats,
    model: Floats,
    *,
    human_ties: HumanTies = "half",
    num_rounds: int = NUM_ROUNDS,
    seed: int = 0,
) -> dict[str, float]:
    """Compare the ranking of policies by a reward model with that by people.

    Args:
        human: [R, 3] tally of the battles as people decided them.
        model: [R, 3] tally of the same battles as the reward model decides them.
        human_ties: Whether a battle that people tied is half a win for each side in their ranking,
            or no battle. The reward model decides it in either case.
        num_rounds: Bootstrap rounds.
        seed: Of the bootstrap; both sides are drawn from the same seed.

    Returns:
        By `RANKING_METRICS`: mean over policies of the Pearson correlation of win rates; share of
        pairs that the reward model separates; net agreement on the pairs that people separate
        (+1 separated alike, -1 separated the other way, 0 otherwise); Kendall's tau-b and
        Spearman's rho of the strengths; mean squared error of the probability of outranking against
        the people's order. nan where it does not exist, as agreement is where people separate none.
    """
    sides = [
        Ranked.by_bootstrap(tallies, num_rounds, seed)
        for tallies in (_voted(human, human_ties), model)
    ]
    return {name: float(value) for name, value in _agreement(*sides).items()}


def redrawn_rankings(
    human: Floats, model: Floats, *, human_ties: HumanTies = "half"
) -> dict[str, Floats]:
    """The same for many draws of the battles, [S, R, 3] each, to see how the metrics vary.

    Within a draw, the inner bootstrap gives way to its large-sample limit: 1,000 draws of 100
    rounds would be 100,000 fits for each slice.

    Returns:
        [S] by `RANKING_METRICS`.
    """
    return _agreement(Ranked.by_curvature(_voted(human, human_ties)), Ranked.by_curvature(model))


def _voted(human: Floats, human_ties: HumanTies) -> Floats:
    if human_ties == "half":
        return human
    kept = human.copy()
    kept[..., TIE] = 0
    return kept


def _agreement(human: Ranked, model: Ranked) -> dict[str, Floats]:
    confident = human.separated != 0
    with np.errstate(divide="ignore", invalid="ignore"):
        net = (human.separated * model.separated).sum(axis=-1) / confident.sum(axis=-1)
    order = np.where(human.linked, (np.sign(_gaps(human.strengths)) + 1) / 2, 0.5)
    return {
        "rowwise_pearson": _rowwise_pearson(human.tallies, model.tallies),
        "separability": (model.separated != 0).mean(axis=-1),
        "confidence_agreement": net,
        "kendall": _kendall(_gaps(human.strengths), _gaps(model.strengths)),
        "spearman": _pearson(_ranks(human.strengths), _ranks(model.strengths)),
        "brier": ((model.outranks - order) ** 2).mean(axis=-1),
    }


def _linked(tallies: Floats) -> Bools:
    """[..., R] whether two policies are in one component of the graph of battles."""
    won = wins(tallies)
    num_policies = won.shape[-1]
    reached = (won + np.swapaxes(won, -1, -2) > 0) | np.eye(num_policies, dtype=bool)
    for _ in range(math.ceil(math.log2(max(2, num_policies)))):
        steps = reached.astype(np.float32)
        reached = steps @ steps > 0
    first, second = np.triu_indices(num_policies, 1)
    linked: Bools = reached[..., first, second]
    return linked


def _gaps(strengths: Floats) -> Floats:
    """[..., R] differences, 0 where two strengths are equal but for rounding."""
    first, second = np.triu_indices(strengths.shape[-1], 1)
    gaps = strengths[..., first] - strengths[..., second]
    return np.where(np.abs(gaps) < _EQUAL, 0.0, gaps)


def _separated(low: Floats, high: Floats) -> Floats:
    first, second = np.triu_indices(low.shape[-1], 1)
    above: Floats = (low[..., first] > high[..., second]).astype(float)
    below: Floats = (high[..., first] < low[..., second]).astype(float)
    return above - below


def _kendall(human_gaps: Floats, model_gaps: Floats) -> Floats:
    """Kendall's tau-b; (C - D) / R where no two strengths are equal."""
    human, model = np.sign(human_gaps), np.sign(model_gaps)
    untied = np.sqrt((human != 0).sum(axis=-1) * (model != 0).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        tau: Floats = (human * model).sum(axis=-1) / untied
    return tau


def _ranks(strengths: Floats) -> Floats:
    """[..., M] how many policies are below, half for those that are equal."""
    gaps = strengths[..., :, None] - strengths[..., None, :]
    ranks: Floats = (np.sign(np.where(np.abs(gaps) < _EQUAL, 0.0, gaps)) + 1).sum(axis=-1) / 2
    return ranks


def _rowwise_pearson(human: Floats, model: Floats) -> Floats:
    """Mean over policies of the correlation of their win rates against those they met."""
    rates, met = [], np.ones(1, dtype=bool)
    for tallies in (human, model):
        won = wins(tallies)
        battles = won + np.swapaxes(won, -1, -2)
        with np.errstate(divide="ignore", invalid="ignore"):
            rates.append(won / battles)
        met = met & (battles > 0)
    rows = _pearson(rates[0], rates[1], members=met)
    known = ~np.isnan(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Floats = np.where(known, rows, 0.0).sum(axis=-1) / known.sum(axis=-1)
    return mean


def _pearson(x: Floats, y: Floats, members: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Correlation along the last axis over `members`; nan where a side does not vary."""
    weights = np.ones(x.shape) if members is None else members.astype(float)
    total = np.maximum(weights.sum(axis=-1, keepdims=True), 1.0)
    centered = []
    for values in (x, y):
        values = np.where(weights > 0, values, 0.0)
        mean = values.sum(axis=-1, keepdims=True) / total
        centered.append((values - mean) * weights)
    spread = [np.sqrt((values**2).sum(axis=-1)) for values in centered]
    varies = (spread[0] > _EQUAL) & (spread[1] > _EQUAL)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (centered[0] * centered[1]).sum(axis=-1) / (spread[0] * spread[1])
    correlation: Floats = np.where(varies, r, np.nan)
    return correlation
