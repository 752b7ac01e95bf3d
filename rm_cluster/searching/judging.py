"""What choices do on prompts that had no part in choosing, with intervals.

Shapes: P prompts, N candidates, K columns, B strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rm_cluster.best_of_n import (
    STOCHASTIC,
    beta_paths,
    choose_beta,
    expected_best_of_all_n,
    kl_of_best_of_n,
    over_optimization_point,
    over_prompts,
    spearman_per_pool,
    win_chances,
)
from rm_cluster.best_of_n.estimators import random_subsets
from rm_cluster.best_of_n.hacking import prompts
from rm_cluster.best_of_n.pools import Pools
from rm_cluster.metrics.estimate import CONFIDENCE
from rm_cluster.metrics.judged import Floats
from rm_cluster.searching.choice import (
    ENSEMBLE,
    WITHOUT_BETA,
    Choice,
    choice_bonus,
    expected,
    proxy_rewards,
    try_choice,
)
from rm_cluster.searching.pool import SearchPool

NUM_BETAS = 33
"""Strengths of a curve; a stochastic rule's is chosen among them."""
POOL_RULES = ("mbr", "rbon_wd")
"""Rules whose score of a candidate depends on the others."""


class Columns(NamedTuple):
    """Means over prompts, column by column, on the same bootstrap draws; [K] each."""

    value: Floats
    low: Floats
    high: Floats
    n: Floats

    def frame(self, name: str) -> pd.DataFrame:
        """`name, name_low, name_high`."""
        ends = {f"{name}_low": self.low, f"{name}_high": self.high}
        return pd.DataFrame({name: self.value, **ends})


def mean_columns(values_PK: Floats, seed: int) -> Columns:
    """Means with 95 % intervals by the bootstrap of `best_of_n.over_prompts`; nan is left out."""
    known = ~np.isnan(values_PK)
    filled = np.where(known, values_PK, 0.0)
    n = known.sum(axis=0)
    drawn = np.concatenate(list(prompts(len(values_PK)).draws(seed)))
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        means = filled.sum(axis=0) / n
        draws = (drawn @ filled) / (drawn @ known)
    ends = np.full((2, len(n)), np.nan)
    told = n > 1
    if told.any():
        ends[:, told] = np.nanquantile(draws[:, told], (tail, 1 - tail), axis=0)
    return Columns(means, ends[0], ends[1], n)


def judge(
    pool: SearchPool, choices: Sequence[Choice], baselines: Sequence[Choice], seed: int
) -> pd.DataFrame:
    """Judge choices on the prompts of a pool, each against its baseline, prompt by prompt.

    Returns:
        One row per choice: `gold` (or the criterion that stands in for it), `gain` over the
        baseline, `win_rate` over it (equal ones half), each with an interval; `changed`, the mean
        probability of another pick, and `n_test` prompts.
    """
    plain = {baseline: try_choice(pool, baseline) for baseline in dict.fromkeys(baselines)}
    width = pool.judged_PN.shape[1]
    judged = pool.judged_PN
    chances = {key: win_chances(judged, _wide(o.law_PN, width)) for key, o in plain.items()}
    columns: dict[str, list[Floats]] = {"gold": [], "gain": [], "win_rate": [], "changed": []}
    for choice, baseline in zip(choices, baselines, strict=True):
        outcome, law = try_choice(pool, choice), _wide(plain[baseline].law_PN, width)
        own = _wide(outcome.law_PN, width)
        columns["gold"].append(outcome.judged_P)
        columns["gain"].append(outcome.judged_P - plain[baseline].judged_P)
        columns["win_rate"].append(expected(own, chances[baseline]))
        columns["changed"].append(1 - np.minimum(own, law).sum(axis=1))
    found = {name: mean_columns(np.stack(c, axis=1), seed) for name, c in columns.items()}
    frames = [found[name].frame(name) for name in ("gold", "gain", "win_rate")]
    rest = pd.DataFrame({"changed": found["changed"].value, "n_test": found["gold"].n})
    return pd.concat([*frames, rest], axis=1)


def _wide(law_PN: Floats, width: int) -> Floats:
    """A law over the first candidates as one over all."""
    return np.pad(law_PN, ((0, 0), (0, width - law_PN.shape[1])))


def choose_strengths(
    dev: SearchPool, models: Sequence[Choice], rules: Sequence[str], beta: tuple[float, float],
    seed: int,
) -> tuple[list[Choice], pd.DataFrame]:  # fmt: skip
    """Choose beta for every reward model and rule on the development prompts, all candidates.

    Args:
        dev: Of the development prompts.
        models: Reward models and ensembles, as choices of plain Best-of-N.
        rules: What to choose for.
        beta: The range of a stochastic rule; that of the others is all beta >= 0.
        seed: Of the bootstrap of `choose_beta`.

    Returns:
        The choices, and for each `beta_low, beta_high` (95 %, by choosing anew on bootstrap draws;
        nan where there is no beta, or for a stochastic rule) and `criterion`.
    """
    choices, lines = [], []
    for model in models:
        for rule in rules:
            choice = model._replace(rule=rule)
            if rule == "mbr":
                choice = Choice("mbr", model.n)
                if choice in choices:
                    continue
            low = high = np.nan
            if rule in STOCHASTIC:
                choice = _best_on_grid(dev, choice, beta)
            elif rule not in WITHOUT_BETA:
                found = choose_beta(
                    proxy_rewards(dev, choice), choice_bonus(dev, choice), dev.criterion_PN, seed
                )
                choice = choice._replace(beta=found.beta)
                low, high = found.interval
            choices.append(choice)
            criterion = float(try_choice(dev, choice).value_P.mean())
            lines.append({"beta_low": low, "beta_high": high, "criterion": criterion})
    return choices, pd.DataFrame(lines)


def _best_on_grid(dev: SearchPool, choice: Choice, beta: tuple[float, float]) -> Choice:
    tried = [choice._replace(beta=float(b)) for b in np.geomspace(*beta, NUM_BETAS)]
    means = [try_choice(dev, one).value_P.mean() for one in tried]
    return tried[int(np.argmax(means))]


def curves(pool: SearchPool, choices: Sequence[Choice], seed: int) -> pd.DataFrame:
    """Expected gold and proxy reward of the pick among n, for every n.

    Exact and unbiased for rules that score each candidate by itself. For `mbr` and `rbon_wd` by 200
    random subsets of a pool, at powers of two. Stochastic rules have none. The members of an
    ensemble are scaled by their z-scores in the whole pool, not in each n of it as a trial has
    them, and `estimator` says so.

    Returns:
        reward_model, ensemble, rule, beta, n, kl (of best-of-n without ties, in nats: an upper
        bound), gold and proxy with intervals, num_prompts, estimator.
    """
    frames = []
    resampled = _resampled(pool, [c for c in choices if c.rule in POOL_RULES], seed)
    for choice in choices:
        if choice.rule in STOCHASTIC:
            continue
        proxy = proxy_rewards(pool, choice)
        if choice.rule in POOL_RULES:
            ns, values = np.array(powers_of_two(proxy.shape[1])), list(resampled[choice])
        else:
            scores = proxy
            if choice.rule != "bon":
                scores = proxy + choice.beta * choice_bonus(pool, choice)
            ns = np.arange(1, proxy.shape[1] + 1)
            values = [expected_best_of_all_n(scores, of) for of in (pool.judged_PN, proxy)]
        gold, reward = (mean_columns(of, seed) for of in values)
        frame = pd.DataFrame({**_named(choice), "n": ns, "kl": kl_of_best_of_n(ns)})
        frame = pd.concat([frame, gold.frame("gold"), reward.frame("proxy")], axis=1)
        estimator = "resampled" if choice.rule in POOL_RULES else "exact"
        if choice.reward_model == ENSEMBLE:
            estimator += ", scaled in whole pools"
        frames.append(frame.assign(num_prompts=gold.n, estimator=estimator))
    return pd.concat(frames, ignore_index=True)


def _resampled(pool: SearchPool, choices: Sequence[Choice], seed: int) -> dict[Choice, Floats]:
    """[2, P, K] of each choice: gold and proxy reward of its pick among n, n in powers of two.

    As `resampled_best_of_n` estimates them; but random subsets and the similarities to them, which
    cost most, are those of all choices.
    """
    ns = powers_of_two(pool.rewards_MPN.shape[2])
    proxies = {choice: proxy_rewards(pool, choice) for choice in choices}
    found = {choice: np.full((2, len(pool.judged_PN), len(ns)), np.nan) for choice in choices}
    if not choices:
        return found
    pools = Pools.of(pool.rewards_MPN[0])
    for column, n in enumerate(ns):
        for prompt, subsets in random_subsets(pools, pool.similarity_PNN, n, seed=seed):
            here = subsets.here_N
            gold = pool.judged_PN[prompt, here]
            for choice, proxy in proxies.items():
                rewards = proxy[prompt, here]
                picks = subsets.picks(None if choice.rule == "mbr" else rewards, choice.beta)
                found[choice][:, prompt, column] = gold[picks].mean(), rewards[picks].mean()
    return found


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4 ... up to the largest, which is among them."""
    found = [2**k for k in range(largest.bit_length()) if 2**k <= largest]
    return found if found[-1] == largest else [*found, largest]


def beta_curves(
    pool: SearchPool, choices: Sequence[Choice], beta: tuple[float, float], seed: int
) -> pd.DataFrame:
    """Gold of the picks among all candidates as a function of beta, for rules that have one.

    Returns:
        reward_model, ensemble, rule, beta, gold with its interval, n, and chosen, the beta of the
        choice.
    """
    betas = np.geomspace(*beta, NUM_BETAS)
    frames = []
    for choice in choices:
        if choice.rule in WITHOUT_BETA:
            continue
        if choice.rule in STOCHASTIC:
            tried = [try_choice(pool, choice._replace(beta=float(b))) for b in betas]
            judged = np.stack([outcome.judged_P for outcome in tried], axis=1)
        else:
            paths = beta_paths(proxy_rewards(pool, choice), choice_bonus(pool, choice))
            judged = np.take_along_axis(pool.judged_PN, paths.picks(betas), axis=1)
        found = mean_columns(judged, seed)
        named = {**_named(choice), "beta": betas}
        frame = pd.concat([pd.DataFrame(named), found.frame("gold")], axis=1)
        frames.append(frame.assign(n=found.n, chosen=choice.beta))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def hacking(pool: SearchPool, models: Sequence[Choice], seed: int) -> pd.DataFrame:
    """Where each reward model is hacked by plain Best-of-N, and how it agrees with gold.

    Returns:
        reward_model, ensemble, the n of the largest expected gold with its interval, the share of
        bootstrap draws in which gold turns down before the last n, gold there and its drop from
        there to the last n, and the rank correlation with gold within pools (n_spearman pools).
    """
    lines = []
    for model in models:
        proxy = proxy_rewards(pool, model)
        line: dict[str, Any] = {
            name: value for name, value in _named(model).items() if name not in ("rule", "beta")
        }
        if len(proxy) > 1:
            point = over_optimization_point(proxy, pool.judged_PN, seed)
            line |= {"peak": point.n, "peak_low": point.interval[0]}
            line |= {"peak_high": point.interval[1], "turned_fraction": point.turned_fraction}
            line |= _ends("gold", point.gold) | _ends("drop", point.drop)
            line |= {"last_n": point.last_n, "n": point.gold.n}
        agreement = over_prompts(spearman_per_pool(proxy, pool.judged_PN), seed)
        lines.append({**line, **_ends("spearman", agreement), "n_spearman": agreement.n})
    return pd.DataFrame(lines)


def _ends(name: str, found: Any) -> dict[str, float]:
    low, high = found.interval
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}


def _named(choice: Choice) -> dict[str, Any]:
    return {
        "reward_model": choice.reward_model,
        "ensemble": choice.ensemble,
        "rule": choice.rule,
        "beta": np.nan if choice.rule in WITHOUT_BETA else choice.beta,
    }


def models_of(pool: SearchPool, ensembles: Sequence[str]) -> list[Choice]:
    """Plain Best-of-N among all candidates by each reward model and ensemble."""
    n = pool.rewards_MPN.shape[2]
    models = [Choice("bon", n, name) for name in pool.names]
    return models + [Choice("bon", n, ENSEMBLE, rule) for rule in ensembles]
