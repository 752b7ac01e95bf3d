"""Rewards by algebra on what was measured: arrays in, arrays out.

A language model's log-prob of a completion is measured once; density ratios, DPO's implicit reward,
length-normalized rewards and ensembles are computed from what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.config import EnsembleRule, Normalize
from rm_cluster.errors import ConfigError, DataFormatError

Floats = npt.NDArray[np.float64]


def logprob_reward(
    logprobs: npt.ArrayLike,
    num_tokens: npt.ArrayLike,
    normalize: Normalize = "sum",
    beta: float = 1.0,
) -> Floats:
    """Return beta * sum log pi(y|x), or that over the number of tokens of y.

    The mean is the reward of SimPO (arXiv 2405.14734, section 2.2), whose margin gamma is a
    constant of its loss and no part of the reward.

    Args:
        logprobs: Sums over the tokens of each completion, in nats.
        num_tokens: How many tokens each sums over; one shape with `logprobs`.
        normalize: `sum` or `mean`.
        beta: > 0.

    Returns:
        The shape of `logprobs`; nan for the mean of a completion without tokens.
    """
    sums = np.asarray(logprobs, dtype=np.float64)
    return beta * (sums if normalize == "sum" else _per_token(sums, num_tokens))


def log_ratio(
    strong_logprobs: npt.ArrayLike,
    weak_logprobs: npt.ArrayLike,
    strong_num_tokens: npt.ArrayLike,
    normalize: Normalize = "sum",
    beta: float = 1.0,
) -> Floats:
    """Return beta * (log strong(y|x) - log weak(y|x)): a density ratio (arXiv 2411.02481).

    With a DPO policy over its reference it is the implicit reward of DPO (arXiv 2305.18290,
    equation 5, less what depends on the prompt alone). A model over itself is 0 for every
    completion.

    Args:
        strong_logprobs: Sums over the tokens of each completion, in nats.
        weak_logprobs: The same of the other model, whose tokens may be others.
        strong_num_tokens: What `mean` divides by, for both sums.
        normalize: `sum` or `mean`.
        beta: > 0.

    Returns:
        The shape of the sums; nan for the mean of a completion without tokens.
    """
    difference = np.asarray(strong_logprobs, np.float64) - np.asarray(weak_logprobs, np.float64)
    return logprob_reward(difference, strong_num_tokens, normalize, beta)


def head_weights(given: Sequence[float] | None, num_outputs: int, name: str) -> Floats:
    """[H] what the outputs of a classifier's head are summed with to make its reward.

    Args:
        given: By the user, if at all.
        num_outputs: H; without weights one output is the reward, and of two (as of a classifier
            that tells bad from good) it is the second less the first.
        name: Of the reward model, for messages.

    Raises:
        ConfigError: Weights and outputs differ in number, or there are more than two outputs.
    """
    if given is None and num_outputs > 2:
        raise ConfigError(
            f"{name} has {num_outputs} outputs; set head_weights: [...], one for each, to make one "
            "reward of them."
        )
    weights = [[1.0], [-1.0, 1.0]][num_outputs - 1] if given is None else list(given)
    if len(weights) != num_outputs:
        raise ConfigError(
            f"{name} has {num_outputs} outputs and {len(weights)} head_weights; each output needs "
            "one."
        )
    return np.array(weights)


def _per_token(sums: Floats, num_tokens: npt.ArrayLike) -> Floats:
    counts = np.asarray(num_tokens, dtype=np.float64)
    means: Floats = np.where(counts > 0, sums / np.where(counts > 0, counts, 1.0), np.nan)
    return means


def combine(rewards_M: npt.ArrayLike, rule: EnsembleRule, weight: float = 0.5) -> Floats:
    """Combine the members of an ensemble (the first axis), whose rewards compare.

    | rule | reward | source |
    |---|---|---|
    | `mean` | mean of the members | |
    | `worst_case` | the lowest of the members | arXiv 2310.02743 (WCO) |
    | `uncertainty_weighted` | mean - weight * variance over members | the same (UWO) |
    | `lower_confidence_bound` | mean - weight * standard deviation over members | 2401.16635 |

    Variance and deviation are those of the members themselves (ddof 0), as in the Best-of-N code of
    2310.02743, whose weight is 0.5.

    Args:
        rewards_M: [M, ...]; nan in a member is nan in the ensemble.
        rule: One of the above.
        weight: >= 0.
    """
    rewards = np.asarray(rewards_M, dtype=np.float64)
    combined: Floats = rewards.min(axis=0) if rule == "worst_case" else rewards.mean(axis=0)
    if rule == "uncertainty_weighted":
        combined = combined - weight * rewards.var(axis=0)
    if rule == "lower_confidence_bound":
        combined = combined - weight * rewards.std(axis=0)
    return combined


class Scale(NamedTuple):
    """What a member's rewards are made comparable by: (reward - mean) / std."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, rewards: npt.ArrayLike) -> Scale:
        """Mean and standard deviation (ddof 0) of n rewards; nan is none.

        Raises:
            DataFormatError: There are no two rewards that differ.
        """
        array = np.asarray(rewards, dtype=np.float64)
        known = array[~np.isnan(array)]
        std = float(known.std()) if known.size else 0.0
        # what is constant up to rounding errors is not to be blown up
        if not known.size or std <= 1e-12 * np.abs(known).max():
            raise DataFormatError(f"its {known.size} rewards do not differ, so they have no scale")
        return cls(float(known.mean()), std, known.size)

    def z(self, rewards: npt.ArrayLike) -> Floats:
        """The z-scores of rewards, of any shape."""
        return (np.asarray(rewards, dtype=np.float64) - self.mean) / self.std
