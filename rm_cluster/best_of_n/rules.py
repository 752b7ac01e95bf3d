"""Best-of-N rules that pick by reward + beta * bonus: plain, MBR and regularized.

All rules but MBR are linear in beta, which multiplies a bonus in the units of the raw reward:
nothing is normalized, so a beta means something for one reward model only (SteamSHP's rewards lie
in (0, 1), OASST's and Eurus' are unbounded logits, PairRM's are ranks within the pool). beta = 0
is plain Best-of-N exactly, beta towards infinity the regularizer alone. Of equal candidates the
first is picked. The papers' code calls beta alpha in places.

Shapes: P prompts, N candidates (nan rewards where there is none, see `pools`), D embedding
dimensions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n.pools import (
    MEAN_DECIMALS,
    Pools,
    check_beta,
    first_largest,
    floating,
    unknown_name,
)
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.metrics.judged import Bools, Floats, Ints

DETERMINISTIC = ("bon", "mbr", "rbon_kl", "rbon_wd", "rbon_l")
STOCHASTIC = ("srbon_kl", "srbon_wd", "soft_bon", "inference_time_pessimism")
_DECIMALS = 12
"""Cosines are rounded to these, beyond their rounding errors: what is equal must tie, as any two
candidates that are alone in their pool."""


def select(
    rule: str,
    rewards_PN: npt.ArrayLike,
    beta: float = 0.0,
    ref_logprobs_PN: npt.ArrayLike | None = None,
    similarity_PNN: npt.ArrayLike | None = None,
    num_tokens_PN: npt.ArrayLike | None = None,
) -> Ints:
    """Pick one candidate per prompt.

    | rule | picks the largest | source |
    |---|---|---|
    | `bon` | reward | |
    | `mbr` | mean similarity to the pool, whatever the reward and beta | |
    | `rbon_kl` | reward + beta * log pi(y given x) (`kl_bonus`) | arXiv 2404.01054 |
    | `rbon_wd` | reward + beta * mean similarity to the pool (`similarity_bonus`) | the same |
    | `rbon_l` | reward - beta / number of tokens (`length_bonus`) | arXiv 2502.12668 |

    Args:
        rule: One of the above.
        rewards_PN: Proxy rewards, nan where there is no candidate.
        beta: Strength of regularization, >= 0; the rules without one do not use it.
        ref_logprobs_PN: For `rbon_kl`, log-probability of each candidate under the policy that
            wrote it, summed over tokens, in nats.
        similarity_PNN: For `mbr` and `rbon_wd`, [p, i, j] how well candidate i agrees with j, 1 on
            the diagonal of a cosine. With embeddings no such array is needed:
            `pick(rewards_PN, mean_similarity(embeddings_PND), beta)`.
        num_tokens_PN: For `rbon_l`, tokens of each candidate without special ones.

    Returns:
        [P] positions in 0..N-1.

    Raises:
        ConfigError: An unknown rule, a negative beta, or an input that the rule needs is missing.
        DataFormatError: An array is not what it should be.
    """
    if rule in STOCHASTIC:
        raise ConfigError(
            f"The rule {rule!r} draws its pick: use select_probabilities, and sample from it if "
            "one pick is needed."
        )
    check_beta(beta)
    pools = Pools.of(rewards_PN)
    if rule == "bon":
        return pools.best_P
    bonus_PN = _bonus(rule, pools, ref_logprobs_PN, similarity_PNN, num_tokens_PN)
    if rule == "mbr":
        return first_largest(np.where(pools.present_PN, bonus_PN, -np.inf))
    return pick(rewards_PN, bonus_PN, beta)


def pick(rewards_PN: npt.ArrayLike, bonus_PN: npt.ArrayLike, beta: float) -> Ints:
    """[P] the first candidate of the largest reward + beta * bonus.

    Raises:
        ConfigError: beta is not a finite number >= 0, or so large that the sum overflows.
        DataFormatError: An array is not what it should be.
    """
    beta, pools = check_beta(beta), Pools.of(rewards_PN)
    with np.errstate(over="ignore"):
        scores = pools.rewards_PN + beta * pools.aligned("bonus_PN", bonus_PN)
    if not np.isfinite(scores[pools.present_PN]).all():
        raise ConfigError(f"beta={beta} is so large that reward + beta * bonus overflows.")
    return first_largest(scores)


def bonus(
    rule: str,
    rewards_PN: npt.ArrayLike,
    ref_logprobs_PN: npt.ArrayLike | None = None,
    similarity_PNN: npt.ArrayLike | None = None,
    num_tokens_PN: npt.ArrayLike | None = None,
) -> Floats:
    """[P, N] what beta multiplies in a rule, for `pick` and `beta_paths`; nan where nothing is.

    Args:
        rule: `rbon_kl`, `rbon_wd` or `rbon_l`; `bon` has a bonus of 0, that of `mbr` is all that it
            maximizes.
        rewards_PN: They say only where candidates are.
        ref_logprobs_PN: As in `select`, and so are the others.
        similarity_PNN: See `select`.
        num_tokens_PN: See `select`.

    Raises:
        ConfigError: An unknown rule, or a missing input.
        DataFormatError: An array is not what it should be.
    """
    pools = Pools.of(rewards_PN)
    values = _bonus(rule, pools, ref_logprobs_PN, similarity_PNN, num_tokens_PN)
    return np.where(pools.present_PN, values, np.nan)


def _bonus(
    rule: str,
    pools: Pools,
    ref_logprobs_PN: npt.ArrayLike | None,
    similarity_PNN: npt.ArrayLike | None,
    num_tokens_PN: npt.ArrayLike | None,
) -> Floats:
    if rule == "bon":
        return np.zeros(pools.rewards_PN.shape)
    if rule == "rbon_kl":
        return kl_bonus(pools, needed(rule, "ref_logprobs_PN", ref_logprobs_PN))
    if rule in ("mbr", "rbon_wd"):
        return similarity_bonus(pools, needed(rule, "similarity_PNN", similarity_PNN))
    if rule == "rbon_l":
        return length_bonus(pools, needed(rule, "num_tokens_PN", num_tokens_PN))
    raise unknown_name("rule", rule, DETERMINISTIC)


def needed(rule: str, name: str, values: npt.ArrayLike | None) -> npt.ArrayLike:
    """An input that a rule cannot do without.

    Raises:
        ConfigError: It was not given.
    """
    if values is None:
        raise ConfigError(f"The rule {rule!r} needs {name}, which was not given.")
    return values


def kl_bonus(pools: Pools, ref_logprobs_PN: npt.ArrayLike) -> Floats:
    """[P, N] log pi(y given x): the bonus of RBoN_KL (arXiv 2404.01054).

    KL(point mass on y || pi) is -log pi(y), so reward - beta * KL is reward + beta * log pi. The
    log-probability is summed over tokens, not averaged: it falls with length, and beta has the
    unit of reward per nat. A constant added to all of a pool changes no pick.

    The released code looks all tokens of an answer up in the distribution of one position. That is
    a score of its bag of tokens, roughly proportional to its length, and not log pi(y given x);
    published figures of this rule may rest on it.
    """
    return pools.aligned("ref_logprobs_PN", ref_logprobs_PN)


def similarity_bonus(pools: Pools, similarity_PNN: npt.ArrayLike) -> Floats:
    """[P, N] mean_j U_ij, i itself included: the bonus of RBoN_WD = MBR-BoN (arXiv 2404.01054).

    With the cost C = 1 - U, the 1-Wasserstein distance from a point mass on y_i to the empirical
    law of the pool is mean_j C_ij, so reward - beta * W1 is this up to a constant. MBR picks the
    largest of these alone. The papers write the MBR score as a sum; beta refers to the mean.
    """
    similarity = pools.similarity(similarity_PNN)
    # without a candidate the similarity is 0
    sums: Floats = np.sum(similarity, axis=2, dtype=np.float64)
    means = (sums / pools.sizes_P[:, None]).round(MEAN_DECIMALS)
    return np.where(pools.present_PN, means, 0.0)


def length_bonus(pools: Pools, num_tokens_PN: npt.ArrayLike) -> Floats:
    """[P, N] -1 / number of tokens: the bonus of RBoN_L (arXiv 2502.12668).

    It penalizes short answers. Tokens are the policy's, without special ones.
    """
    num_tokens = pools.aligned("num_tokens_PN", num_tokens_PN)
    short = np.argwhere(pools.present_PN & (num_tokens < 1))
    if len(short):
        row, column = short[0]
        raise DataFormatError(
            f"num_tokens_PN[{row}, {column}] is {num_tokens[row, column]:g}; every candidate must "
            "have a token at least. Set the reward of an empty one to nan to leave it out."
        )
    return np.where(pools.present_PN, -1 / np.maximum(num_tokens, 1), 0.0)


def mean_similarity(embeddings_PND: npt.ArrayLike, present_PN: Bools | None = None) -> Floats:
    """Mean cosine of each candidate with its pool, in O(N D) per prompt: `similarity_bonus`.

    mean_j cos(e_i, e_j) is the product of the unit vector e_i with the mean of the unit vectors.
    The released code has a mean-embedding variant that takes the cosine with that mean: dividing
    by its length changes beta from prompt to prompt.

    Args:
        embeddings_PND: Of any length above 0.
        present_PN: Where candidates are (`~np.isnan(rewards_PN)`); everywhere if None.

    Returns:
        [P, N], nan where there is no candidate. `pick(means, means, 0)` is MBR.
    """
    embeddings, present = _embeddings(embeddings_PND, present_PN)
    means = np.full(present.shape, np.nan)
    for prompt, here in enumerate(present):
        unit = _unit(embeddings[prompt][here])
        means[prompt, here] = unit @ unit.mean(axis=0)
    return means.round(MEAN_DECIMALS)


def cosine_similarity(embeddings_PND: npt.ArrayLike, present_PN: Bools | None = None) -> Floats:
    """[P, N, N] cosines of all candidates of a prompt, for the rules that need each of them.

    Args:
        embeddings_PND: Of any length above 0.
        present_PN: Where candidates are; everywhere if None. The cosine with none is 0.
    """
    embeddings, present = _embeddings(embeddings_PND, present_PN)
    similarity = np.zeros((*present.shape, present.shape[1]))
    for prompt, here in enumerate(present):
        unit = _unit(embeddings[prompt][here])
        similarity[prompt][np.ix_(here, here)] = unit @ unit.T
    return similarity.round(_DECIMALS)


def _embeddings(
    embeddings_PND: npt.ArrayLike, present_PN: Bools | None
) -> tuple[npt.NDArray[np.floating], Bools]:
    """The two arrays, checked. Their type stays: a prompt at a time is converted."""
    embeddings = floating("embeddings_PND", embeddings_PND)
    if embeddings.ndim != 3:
        raise DataFormatError(
            f"embeddings_PND has the shape {embeddings.shape}; it must be [prompts, candidates, "
            "dimensions]."
        )
    everywhere = np.ones(embeddings.shape[:2], dtype=bool)
    present = everywhere if present_PN is None else np.asarray(present_PN)
    if present.shape != embeddings.shape[:2] or present.dtype != bool:
        raise DataFormatError(
            f"present_PN is {present.dtype} of the shape {present.shape}; beside embeddings of "
            f"{embeddings.shape} it must be bool of {embeddings.shape[:2]}."
        )
    usable = np.isfinite(embeddings).all(axis=2) & (embeddings != 0).any(axis=2)
    if (present & ~usable).any():
        row, column = np.argwhere(present & ~usable)[0]
        raise DataFormatError(
            f"embeddings_PND[{row}, {column}] is zero or not finite and has no cosine. Leave the "
            "candidate out through present_PN, and set its reward to nan."
        )
    return embeddings, present


def _unit(vectors_ND: npt.NDArray[np.floating]) -> Floats:
    vectors = vectors_ND.astype(np.float64)
    # scaled first, so that no square overflows or vanishes
    vectors /= np.abs(vectors).max(axis=1, keepdims=True)
    unit: Floats = vectors / np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return unit
