"""Best-of-N rules that draw their pick: the law over the pool in closed form.

Each maximizes <p, reward> - beta * Omega(p) over laws p on the pool, so beta is the weight of a
penalty here as in the deterministic rules: 0 is plain Best-of-N (the first candidate of the highest
reward), large values lead back to the reference. Report sums over p, as `sum_i p_i gold_i`, not the
luck of one draw.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.pools import Pools, check_beta, unknown_name
from rm_cluster.best_of_n.rules import DETERMINISTIC, STOCHASTIC, kl_bonus, needed, select
from rm_cluster.errors import ConfigError
from rm_cluster.metrics.judged import Floats, Ints


def select_probabilities(
    rule: str,
    rewards_PN: npt.ArrayLike,
    beta: float = 0.0,
    ref_logprobs_PN: npt.ArrayLike | None = None,
    similarity_PNN: npt.ArrayLike | None = None,
    num_tokens_PN: npt.ArrayLike | None = None,
) -> Floats:
    """How likely each candidate is to be picked.

    Args:
        rule: `srbon_kl`, `srbon_wd`, `soft_bon`, `inference_time_pessimism` (see the functions of
            these names), or a rule of `select`, whose pick has probability 1.
        rewards_PN: Proxy rewards, nan where there is no candidate.
        beta: Strength of regularization, >= 0.
        ref_logprobs_PN: For `srbon_kl` and `srbon_wd`, as in `select`. The reference law is their
            softmax over the pool, which for answers of a hundred tokens is nearly all on one of
            them; divide them by a temperature to temper it. Zeros give the uniform law, the
            empirical one of candidates that were drawn from the policy.
        similarity_PNN: For `srbon_wd`, as in `select`.
        num_tokens_PN: As in `select`.

    Returns:
        [P, N] rows that sum to 1; 0 where there is no candidate.

    Raises:
        ConfigError: An unknown rule, a negative beta or one so large that sums overflow, or an
            input that the rule needs is missing.
        DataFormatError: An array is not what it should be.
    """
    if rule not in STOCHASTIC + DETERMINISTIC:
        raise unknown_name("rule", rule, DETERMINISTIC + STOCHASTIC)
    beta, pools = check_beta(beta), Pools.of(rewards_PN)
    if rule in DETERMINISTIC:
        given = (ref_logprobs_PN, similarity_PNN, num_tokens_PN)
        return _one_hot(select(rule, rewards_PN, beta, *given), pools)
    if rule in ("srbon_kl", "srbon_wd"):
        logprobs_PN = kl_bonus(pools, needed(rule, "ref_logprobs_PN", ref_logprobs_PN))
    if rule == "srbon_wd":
        similarity = pools.similarity(needed(rule, "similarity_PNN", similarity_PNN))
    if beta == 0:
        return _one_hot(pools.best_P, pools)
    if rule == "srbon_kl":
        return srbon_kl(pools, logprobs_PN, beta)
    if rule == "srbon_wd":
        return srbon_wd(pools, logprobs_PN, similarity, beta)
    if rule == "soft_bon":
        return soft_bon(pools, beta)
    return inference_time_pessimism(pools, beta)


def sample(probabilities_PN: Floats, seed: int) -> Ints:
    """[P] one draw per prompt, the same for the same seed whatever was drawn before."""
    uniform = np.random.default_rng(seed).random((len(probabilities_PN), 1))
    cumulative = np.cumsum(probabilities_PN, axis=1)
    # the last sum may be a rounding error off 1
    cumulative /= cumulative[:, -1:]
    drawn: Ints = (cumulative > uniform).argmax(axis=1)
    return drawn


def srbon_kl(pools: Pools, ref_logprobs_PN: Floats, beta: float) -> Floats:
    """[P, N] p_i proportional to pi_i * exp(reward_i / beta) (SRBoN_KL, arXiv 2502.12668).

    The maximum of <p, reward> - beta * KL(p || pi), pi being the softmax of `ref_logprobs_PN` over
    the pool. The released code has exp(beta * reward): its beta is 1 / beta of the objective, so it
    runs against the beta of RBoN_KL and SRBoN_WD, beside which it is plotted.
    """
    return _softmax(_over(pools.rewards_PN, beta) + ref_logprobs_PN)


def soft_bon(pools: Pools, beta: float) -> Floats:
    """[P, N] p_i proportional to exp(reward_i / beta) (Soft Best-of-N, arXiv 2505.03156).

    SRBoN_KL with the empirical law of the pool as reference. Some papers write the inverse
    temperature 1 / beta as beta (2507.05913).
    """
    return _softmax(_over(pools.rewards_PN, beta))


def srbon_wd(
    pools: Pools,
    ref_logprobs_PN: Floats,
    similarity_PNN: npt.NDArray[np.floating],
    beta: float,
) -> Floats:
    """[P, N] the maximum of <p, reward> - beta * W(pi, p) (SRBoN_WD, arXiv 2502.12668).

    Moving mass from candidate i to j costs C_ij = 1 - U_ji, pi is the softmax of `ref_logprobs_PN`
    over the pool. The maximum over plans T with row sums pi of sum_ij T_ij (reward_j - beta * C_ij)
    falls apart into rows: all of pi_i goes to the first j of the largest reward_j - beta * C_ij.
    So it is exact, in O(N^2) and without a solver.

    The released code gives the similarity itself to its transport solver as the cost, so that
    staying put is dearest and p is pushed away from pi; its optimizer also stops short of the
    optimum.
    """
    reference = _softmax(np.where(pools.present_PN, ref_logprobs_PN, -np.inf))
    probabilities = np.zeros(reference.shape)
    gains = np.empty(similarity_PNN.shape[1:])  # [source, target], in the cache for all prompts
    for prompt, (rewards, similarity) in enumerate(
        zip(pools.rewards_PN, similarity_PNN, strict=True)
    ):
        # the 1 of C = 1 - U is the same for every target
        with np.errstate(over="ignore"):
            np.multiply(similarity.T, beta, out=gains, dtype=np.float64)
            gains += rewards
        if not np.isfinite(gains.max()):
            raise ConfigError(f"beta={beta} is so large that reward + beta * similarity overflows.")
        mass = np.bincount(gains.argmax(axis=1), reference[prompt], minlength=len(rewards))
        probabilities[prompt] = mass
    return probabilities


def inference_time_pessimism(pools: Pools, beta: float) -> Floats:
    """[P, N] p_i = max(reward_i - level, 0) / (beta * N), the level such that they sum to 1.

    The maximum of <p, reward> - beta/2 * sum_i p_i^2 / (1/N), a chi-squared penalty against the
    empirical law of the pool: the weights of InferenceTimePessimism (arXiv 2503.21878) for one
    pool. That algorithm then accepts or rejects candidates of a second batch by these weights; here
    the pool itself is drawn from.
    """
    scaled = _over(pools.rewards_PN, beta)
    descending = -np.sort(-scaled, axis=1)
    rank = np.arange(1, descending.shape[1] + 1)
    levels = (np.cumsum(descending, axis=1) - pools.sizes_P[:, None]) / rank
    # the k highest lie above the level that they alone would have, up to the size of the support
    support = (descending > levels).sum(axis=1, keepdims=True)
    level = np.take_along_axis(levels, support - 1, axis=1)
    return _normalized(np.maximum(scaled - level, 0.0))


def _over(rewards_PN: Floats, beta: float) -> Floats:
    """Rewards below the highest, divided by beta: 0 for the highest however small beta is."""
    with np.errstate(over="ignore"):
        divided: Floats = (rewards_PN - rewards_PN.max(axis=1, keepdims=True)) / beta
    return divided


def _softmax(logits_PN: Floats) -> Floats:
    return _normalized(np.exp(logits_PN - logits_PN.max(axis=1, keepdims=True)))


def _normalized(weights_PN: Floats) -> Floats:
    probabilities: Floats = weights_PN / weights_PN.sum(axis=1, keepdims=True)
    return probabilities


def _one_hot(indices_P: Ints, pools: Pools) -> Floats:
    probabilities = np.zeros(pools.rewards_PN.shape)
    np.put_along_axis(probabilities, indices_P[:, None], 1.0, axis=1)
    return probabilities
