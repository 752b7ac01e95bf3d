from __future__ import annotations

import math

import numpy as np
import pytest

from rm_cluster.best_of_n import (
    DETERMINISTIC,
    bonus,
    cosine_similarity,
    mean_similarity,
    pick,
    select,
    select_probabilities,
    token_overlap,
)
from rm_cluster.errors import ConfigError, DataFormatError
from tests.candidate_pools import candidate_pools

BETAS = (0.0, 0.01, 0.3, 1.0, 7.0, 1e6)
REGULARIZED = ("rbon_kl", "rbon_wd", "rbon_l")


def score(rule: str, pools, prompt: int, i: int, beta: float) -> float:
    """One candidate's score by the formula, in plain Python."""
    here = [j for j, reward in enumerate(pools.rewards[prompt]) if not math.isnan(reward)]
    reward = pools.rewards[prompt, i]
    agreement = math.fsum(pools.similarity[prompt, i, j] for j in here)
    return {
        "bon": reward,
        "mbr": agreement,
        "rbon_kl": reward + beta * pools.logprobs[prompt, i],
        "rbon_wd": reward + beta * agreement / len(here),
        "rbon_l": reward - beta / pools.num_tokens[prompt, i],
    }[rule]


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_picks_are_those_of_a_plain_loop(rule: str, missing: float) -> None:
    for seed in range(4):
        pools = candidate_pools(seed, missing=missing)
        for beta in BETAS:
            picks = select(rule, pools.rewards, beta, **pools.inputs())
            for prompt, found in enumerate(picks):
                present = np.flatnonzero(~np.isnan(pools.rewards[prompt]))
                scores = {i: score(rule, pools, prompt, i, beta) for i in present}
                best = max(scores.values())
                # sums in another order may differ in the last digit, so equal means up to 1e-12
                equal = [i for i in scores if scores[i] >= best - 1e-12 * max(1, abs(best))]
                assert found == equal[0]


@pytest.mark.parametrize("rule", ["bon", *REGULARIZED])
def test_beta_zero_is_plain_best_of_n(rule: str) -> None:
    pools = candidate_pools(0)
    expected = [list(row).index(max(row)) for row in pools.rewards]
    assert select(rule, pools.rewards, 0.0, **pools.inputs()).tolist() == expected


@pytest.mark.parametrize("rule", REGULARIZED)
def test_a_large_beta_leaves_the_regularizer_alone(rule: str) -> None:
    pools = candidate_pools(1)
    extra = bonus(rule, pools.rewards, **pools.inputs())
    picks = select(rule, pools.rewards, 1e12, **pools.inputs())
    np.testing.assert_allclose(extra[np.arange(len(picks)), picks], extra.max(axis=1), atol=1e-11)


def test_signs_of_the_bonuses() -> None:
    # equal rewards: the likelier, the more central, and the longer one is picked
    rewards = [[1.0, 1.0, 1.0]]
    assert select("rbon_kl", rewards, 0.1, ref_logprobs_PN=[[-9.0, -2.0, -5.0]]) == [1]
    similarity = [[[1, 0.9, 0], [0.9, 1, 0.8], [0, 0.8, 1]]]
    assert select("rbon_wd", rewards, 0.1, similarity_PNN=similarity) == [1]
    assert select("rbon_l", rewards, 0.1, num_tokens_PN=[[3, 40, 7]]) == [1]


def test_worked_example() -> None:
    # r = (1, 0.8), log pi = (-10, -4): beta * 6 > 0.2 from beta = 1/30 on
    rewards, logprobs = [[1.0, 0.8]], [[-10.0, -4.0]]
    assert select("rbon_kl", rewards, 0.033, ref_logprobs_PN=logprobs) == [0]
    assert select("rbon_kl", rewards, 0.034, ref_logprobs_PN=logprobs) == [1]
    # r = (1, 0.9), tokens (2, 10): beta * (1/2 - 1/10) > 0.1 from beta = 0.25 on
    assert select("rbon_l", [[1.0, 0.9]], 0.24, num_tokens_PN=[[2, 10]]) == [0]
    assert select("rbon_l", [[1.0, 0.9]], 0.26, num_tokens_PN=[[2, 10]]) == [1]


def test_rbon_wd_is_the_wasserstein_distance_to_the_pool() -> None:
    # cost 1 - U: reward - beta * W1(point mass, empirical law) has the same maximum
    pools = candidate_pools(2)
    for beta in BETAS[:-1]:
        distance = (1 - pools.similarity).mean(axis=2)
        scores = pools.rewards - beta * distance
        picks = select("rbon_wd", pools.rewards, beta, similarity_PNN=pools.similarity)
        np.testing.assert_allclose(
            scores[np.arange(len(picks)), picks], scores.max(axis=1), atol=1e-12
        )


@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_permuting_candidates_permutes_picks(rule: str) -> None:
    rng = np.random.default_rng(5)
    rewards, logprobs = rng.normal(size=(9, 6)), -rng.gamma(2.0, size=(9, 6))
    num_tokens = np.array([rng.permutation(np.arange(3, 9)) for _ in range(9)])
    similarity = cosine_similarity(rng.normal(size=(9, 6, 4)))
    order = rng.permutation(6)
    for beta in (0.2, 2.0):
        picks = select(rule, rewards, beta, logprobs, similarity, num_tokens)
        permuted = select(
            rule, rewards[:, order], beta, logprobs[:, order],
            similarity[:, order][:, :, order], num_tokens[:, order],
        )  # fmt: skip
        assert order[permuted].tolist() == picks.tolist()


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_mean_similarity_needs_no_matrix(missing: float) -> None:
    pools = candidate_pools(3, missing=missing)
    present = ~np.isnan(pools.rewards)
    means = mean_similarity(pools.embeddings, present)
    expected = bonus("rbon_wd", pools.rewards, similarity_PNN=pools.similarity)
    np.testing.assert_allclose(means, expected, atol=1e-11)
    # lengths of embeddings do not matter, nor does what stands where no candidate is
    scaled = pools.embeddings * np.linspace(1e-3, 1e3, 7)[:, None]
    scaled[~present] = np.nan
    np.testing.assert_allclose(mean_similarity(scaled, present), means, atol=1e-12)
    by_matrix = select("mbr", pools.rewards, similarity_PNN=pools.similarity)
    assert pick(means, means, 0).tolist() == by_matrix.tolist()
    filled = np.where(present[:, :, None] & present[:, None], pools.similarity, 0)
    np.testing.assert_allclose(cosine_similarity(pools.embeddings, present), filled, atol=1e-11)
    for beta in BETAS:
        picks = pick(pools.rewards, means, beta)
        by_matrix = select("rbon_wd", pools.rewards, beta, similarity_PNN=pools.similarity)
        scores = np.where(present, pools.rewards + beta * means, -np.inf)
        gap = scores.max(axis=1) - scores[np.arange(len(picks)), by_matrix]
        assert (gap <= 1e-9 * max(1, beta)).all()


def test_two_candidates_are_as_central_as_each_other() -> None:
    embeddings = np.random.default_rng(1).normal(size=(200, 2, 384))
    means = mean_similarity(embeddings)
    assert (pick(means, means, 0) == 0).all()
    assert (select("mbr", means, similarity_PNN=cosine_similarity(embeddings)) == 0).all()


def test_equal_candidates_have_equal_mean_similarity() -> None:
    embeddings = np.random.default_rng(0).normal(size=(1, 33, 50))
    embeddings[0, [3, 17, 32]] = embeddings[0, 8]
    means = mean_similarity(embeddings)[0]
    assert len({means[i] for i in (3, 8, 17, 32)}) == 1


def test_equal_candidates_give_the_first() -> None:
    for rule in DETERMINISTIC:
        found = select(rule, np.full((2, 4), 0.5), 1.0, np.full((2, 4), -3.0),
                       np.ones((2, 4, 4)), np.full((2, 4), 9))  # fmt: skip
        assert found.tolist() == [0, 0]


@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_pools_of_different_sizes_are_picked_as_each_alone(rule: str) -> None:
    pools = candidate_pools(6, missing=0.5)
    inputs = pools.inputs()
    picks = select(rule, pools.rewards, 0.7, **inputs)
    # what stands where no candidate is does not matter, were it nan
    gone = np.isnan(pools.rewards)
    blank = {name: np.where(_at(gone, array), np.nan, array) for name, array in inputs.items()}
    assert select(rule, pools.rewards, 0.7, **blank).tolist() == picks.tolist()
    for prompt, found in enumerate(picks):
        here = np.flatnonzero(~gone[prompt])
        alone = {
            name: array[prompt][np.ix_(*[here] * (array.ndim - 1))][None]
            for name, array in inputs.items()
        }
        assert here[select(rule, pools.rewards[prompt, here][None], 0.7, **alone)[0]] == found


def _at(gone: np.ndarray, array: np.ndarray) -> np.ndarray:
    return gone if array.ndim == 2 else gone[:, :, None] | gone[:, None]


def test_one_candidate_is_picked_by_every_rule() -> None:
    for rule in DETERMINISTIC:
        found = select(rule, [[-2.0]], 3.0, [[-40.0]], [[[1.0]]], [[5]])
        assert found.tolist() == [0]
        assert found.dtype.kind == "i"


def test_integers_and_single_precision_are_fine() -> None:
    assert select("bon", np.array([[1, 3, 2]], dtype=np.float32)).tolist() == [1]
    assert select("mbr", [[0, 0]], similarity_PNN=[[[1, 0], [1, 1]]]).tolist() == [1]
    assert select("bon", np.empty((0, 4))).tolist() == []


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf, "1", True, None])
def test_beta_must_be_a_number_from_zero_on(beta: object) -> None:
    for call in (select, select_probabilities):
        with pytest.raises(ConfigError, match="beta must be a finite number >= 0"):
            call("bon", [[1.0]], beta)
    with pytest.raises(ConfigError, match="beta must be"):
        pick([[1.0]], [[1.0]], beta)


def test_unknown_and_unfit_rules_are_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rbon_kl'"):
        select("rbon-kl", [[1.0]])
    with pytest.raises(ConfigError, match="Did you mean 'srbon_wd'"):
        select_probabilities("srbon-wd", [[1.0]])
    with pytest.raises(ConfigError, match="use select_probabilities"):
        select("soft_bon", [[1.0]])


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("mbr", "similarity_PNN"),
        ("rbon_kl", "ref_logprobs_PN"),
        ("rbon_wd", "similarity_PNN"),
        ("rbon_l", "num_tokens_PN"),
        ("srbon_kl", "ref_logprobs_PN"),
        ("srbon_wd", "ref_logprobs_PN"),
    ],
)
def test_a_missing_input_is_named(rule: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{rule}' needs {name}"):
        select_probabilities(rule, [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0, 2.0], r"shape \(2,\)"),
        (np.empty((2, 0)), "at least one candidate"),
        ([[1.0, np.inf]], r"rewards_PN\[0, 1\] is inf"),
        ([[1.0, 2.0], [np.nan, np.nan]], r"rewards_PN\[1\] has no candidate"),
        ([[1.0, 2.0], [1.0]], "Pad shorter pools with nan"),
        ([["a", "b"]], "no array of numbers"),
    ],
)
def test_malformed_rewards_are_told(rewards: object, message: str) -> None:
    for call in (select, select_probabilities):
        with pytest.raises(DataFormatError, match=message):
            call("bon", rewards)


@pytest.mark.parametrize(
    ("rule", "inputs", "message"),
    [
        ("rbon_kl", {"ref_logprobs_PN": [[-1.0]]}, r"must be \(1, 2\)"),
        ("rbon_kl", {"ref_logprobs_PN": [[-1.0, np.nan]]}, r"ref_logprobs_PN\[0, 1\] is nan"),
        ("rbon_kl", {"ref_logprobs_PN": [[-1.0, -np.inf]]}, r"ref_logprobs_PN\[0, 1\] is -inf"),
        ("rbon_wd", {"similarity_PNN": [[1.0, 0.5]]}, r"must be \(1, 2, 2\)"),
        ("mbr", {"similarity_PNN": [[[1, np.nan], [0, 1]]]}, r"similarity_PNN\[0, 0, 1\] is nan"),
        ("rbon_l", {"num_tokens_PN": [[4, 0]]}, r"num_tokens_PN\[0, 1\] is 0"),
    ],
)
def test_malformed_inputs_are_told(rule: str, inputs: dict, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        select(rule, [[1.0, 2.0]], 0.5, **inputs)


def test_malformed_embeddings_are_told() -> None:
    with pytest.raises(DataFormatError, match="embeddings_PND has the shape"):
        mean_similarity([[1.0]])
    with pytest.raises(DataFormatError, match="embeddings_PND is no array of numbers"):
        mean_similarity([[[1.0], [1.0, 2.0]]])
    with pytest.raises(DataFormatError, match=r"embeddings_PND\[0, 1\] is zero or not finite"):
        mean_similarity([[[1.0], [0.0]]])
    with pytest.raises(DataFormatError, match="present_PN is bool"):
        mean_similarity([[[1.0], [2.0]]], [[True]])


def test_an_overflow_is_told() -> None:
    with pytest.raises(ConfigError, match="so large"):
        pick([[0.0, 1.0]], [[-1e10, -1e9]], 1e300)


def test_candidates_of_equal_mean_similarity_tie() -> None:
    similarity = token_overlap([["f", "c e f e f", "b e f b b"]])
    rewards = np.zeros((1, 3))
    assert select("mbr", rewards, similarity_PNN=similarity).tolist() == [1]
    # whatever the order in which the means are summed
    order = [0, 2, 1]
    turned = similarity[:, order][:, :, order]
    assert select("mbr", rewards, similarity_PNN=turned).tolist() == [1]
