"""One way to pick from a pool, what it is worth, and the best there is: pure mathematics.

The first n candidates stand for a policy that is sampled n times, as in the papers' protocol.

Shapes: P prompts, N candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rm_cluster.best_of_n import (
    STOCHASTIC,
    best_beta,
    bonus,
    combine_members,
    select_probabilities,
    zscore_pools,
)
from rm_cluster.metrics.judged import Floats
from rm_cluster.searching.pool import SearchPool

ENSEMBLE = "ensemble"
WITHOUT_BETA = ("bon", "mbr")


class Choice(NamedTuple):
    """What a trial tries.

    Attributes:
        rule: Of `best_of_n.select` or `select_probabilities`.
        n: How many candidates there are to pick from.
        reward_model: By name, or `ENSEMBLE` of all; None where the rule asks none.
        ensemble: How the ensemble is made one, or None.
        normalize: `pool` for z-scores within each pool.
        beta: Strength; 0 where the rule has none.
    """

    rule: str
    n: int
    reward_model: str | None = None
    ensemble: str | None = None
    normalize: str = "none"
    beta: float = 0.0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Choice:
        """From the parameters of a trial, of which those are missing that it has no use for."""
        return cls(**{name: params[name] for name in cls._fields if name in params})

    def __str__(self) -> str:
        model = f"{self.ensemble} of all" if self.reward_model == ENSEMBLE else self.reward_model
        parts = [self.rule, model, f"n = {self.n}"]
        parts += [f"beta = {self.beta:.4g}"] if self.rule not in WITHOUT_BETA else []
        parts += ["z-scores"] if self.normalize == "pool" else []
        return ", ".join(part for part in parts if part)


class Outcome(NamedTuple):
    """What a choice comes to on each prompt.

    Attributes:
        law_PN: How likely each candidate is to be picked.
        value_P: Expected criterion of the pick.
        judged_P: The same of what is judged by.
        tokens_P: Tokens that are generated, and read by each reward model that is asked; nan where
            they are not known.
        kl_P: Expected -log pi(pick), the KL of a point mass on the pick from the policy, in nats,
            which is what RBoN_KL penalizes; nan where it is not known.
    """

    law_PN: Floats
    value_P: Floats
    judged_P: Floats
    tokens_P: Floats
    kl_P: Floats


def try_choice(pool: SearchPool, choice: Choice) -> Outcome:
    """Pick from a pool.

    Raises:
        ConfigError: Something that the rule needs is missing.
    """
    some = pool.first(choice.n)
    law = select_probabilities(
        choice.rule,
        proxy_rewards(some, choice),
        choice.beta,
        ref_logprobs_PN=some.ref_logprobs_PN,
        similarity_PNN=some.similarity_PNN,
        num_tokens_PN=some.num_tokens_PN,
    )
    unknown = np.full(len(law), np.nan)
    return Outcome(
        law_PN=law,
        value_P=expected(law, some.criterion_PN),
        judged_P=expected(law, some.judged_PN),
        tokens_P=unknown
        if some.cost_PN is None
        else some.cost_PN.sum(axis=1) * (1 + _num_asked(pool, choice)),
        kl_P=unknown if some.ref_logprobs_PN is None else -expected(law, some.ref_logprobs_PN),
    )


def expected(law_PN: Floats, values_PN: Floats) -> Floats:
    """[P] the mean of values under a law; what cannot be picked may be nan."""
    means: Floats = (law_PN * np.where(law_PN > 0, values_PN, 0.0)).sum(axis=1)
    return means


def proxy_rewards(pool: SearchPool, choice: Choice) -> Floats:
    """[P, N] what a choice maximizes together with its regularizer."""
    if choice.reward_model is None:
        return np.where(np.isnan(pool.rewards_MPN[0]), np.nan, 0.0)
    if choice.reward_model == ENSEMBLE:
        return combine_members(pool.rewards_MPN, choice.ensemble or "mean")  # type: ignore[arg-type]
    rewards: Floats = pool.rewards_MPN[pool.names.index(choice.reward_model)]
    return zscore_pools(rewards) if choice.normalize == "pool" else rewards


def choice_bonus(pool: SearchPool, choice: Choice) -> Floats:
    """[P, N] what beta multiplies in a deterministic rule."""
    return bonus(
        choice.rule,
        pool.rewards_MPN[0],
        ref_logprobs_PN=pool.ref_logprobs_PN,
        similarity_PNN=pool.similarity_PNN,
        num_tokens_PN=pool.num_tokens_PN,
    )


def _num_asked(pool: SearchPool, choice: Choice) -> int:
    """How many reward models read the candidates."""
    if choice.reward_model is None:
        return 0
    return len(pool.names) if choice.reward_model == ENSEMBLE else 1


def combinations(
    names: Sequence[str],
    ensembles: Sequence[str],
    rules: Sequence[str],
    ns: Sequence[int],
    normalizations: Sequence[str],
) -> Iterator[Choice]:
    """Everything that can be tried, at beta = 0; what makes no difference comes once."""
    asked = [Choice("", 0, name, normalize=how) for name in names for how in normalizations]
    asked += [Choice("", 0, ENSEMBLE, ensemble) for ensemble in ensembles]
    for n, rule in itertools.product(ns, rules):
        if rule == "mbr":
            yield Choice(rule, n)
            continue
        for choice in asked:
            # z-scores keep the order within a pool, which is all that plain Best-of-N goes by
            if rule != "bon" or choice.normalize == normalizations[0]:
                plain = choice if rule != "bon" else choice._replace(normalize="none")
                yield plain._replace(rule=rule, n=n)


def exact_optimum(pool: SearchPool, choices: Iterator[Choice]) -> tuple[Choice, float, int]:
    """The deterministic choice of the largest mean criterion, over all beta >= 0.

    Every strength is tried at once, by the upper envelope of `best_of_n.beta_paths`.

    Returns:
        The first of the best, its mean criterion, and how many rules by reward model and n were
        compared.
    """
    best, largest, count = None, -np.inf, 0
    for choice in choices:
        if choice.rule in STOCHASTIC:
            continue
        count += 1
        if choice.rule not in WITHOUT_BETA:
            some = pool.first(choice.n)
            beta, _ = best_beta(
                proxy_rewards(some, choice), choice_bonus(some, choice), some.criterion_PN
            )
            choice = choice._replace(beta=beta)
        # as picked at that very beta, which rounding may hold between two that are all but equal
        value = float(try_choice(pool, choice).value_P.mean())
        if value > largest + 1e-12 * abs(value):
            best, largest = choice, value
    assert best is not None, "plain Best-of-N is always among them"
    return best, largest, count
