from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from rm_cluster.best_of_n import DETERMINISTIC, STOCHASTIC, sample, select, select_probabilities
from rm_cluster.errors import ConfigError
from tests.candidate_pools import candidate_pools

BETAS = (0.05, 0.5, 1.0, 5.0, 20.0)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("rule", DETERMINISTIC + STOCHASTIC)
def test_rows_are_laws_over_the_candidates(rule: str, missing: float) -> None:
    pools = candidate_pools(0, missing=missing)
    for beta in (0.0, 1e-300, *BETAS, 1e12):
        law = select_probabilities(rule, pools.rewards, beta, **pools.inputs())
        assert (law >= 0).all()
        assert (law[np.isnan(pools.rewards)] == 0).all()
        np.testing.assert_allclose(law.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_a_deterministic_rule_is_certain_of_its_pick(rule: str) -> None:
    pools = candidate_pools(1, missing=0.2)
    law = select_probabilities(rule, pools.rewards, 0.4, **pools.inputs())
    picks = select(rule, pools.rewards, 0.4, **pools.inputs())
    np.testing.assert_array_equal(law, np.eye(law.shape[1])[picks])


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_beta_zero_is_plain_best_of_n(rule: str) -> None:
    pools = candidate_pools(2)
    law = select_probabilities(rule, pools.rewards, 0.0, **pools.inputs())
    plain = select("bon", pools.rewards)
    np.testing.assert_array_equal(law, np.eye(law.shape[1])[plain])


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_a_large_beta_leads_back_to_the_reference(rule: str) -> None:
    rng = np.random.default_rng(0)
    pools = candidate_pools(3)
    # no candidate twice: its copy costs nothing to move to
    similarity = np.eye(7) + 0.3 * rng.random((12, 7, 7)) * (1 - np.eye(7))
    law = select_probabilities(rule, pools.rewards, 1e9, pools.logprobs, similarity)
    uniform = rule in ("soft_bon", "inference_time_pessimism")
    expected = np.full((12, 7), 1 / 7) if uniform else [softmax(row) for row in pools.logprobs]
    np.testing.assert_allclose(law, expected, atol=1e-7)


def test_exponential_laws_are_those_of_the_formula() -> None:
    pools = candidate_pools(4)
    for beta in BETAS[1:]:
        soft = select_probabilities("soft_bon", pools.rewards, beta)
        srbon = select_probabilities("srbon_kl", pools.rewards, beta, pools.logprobs)
        for prompt in range(len(soft)):
            reference = softmax(pools.logprobs[prompt])
            tilted = reference * np.exp(pools.rewards[prompt] / beta)
            np.testing.assert_allclose(srbon[prompt], tilted / tilted.sum(), rtol=1e-12)
            expected = softmax(pools.rewards[prompt] / beta)
            np.testing.assert_allclose(soft[prompt], expected, rtol=1e-12)


def test_worked_example_of_srbon_kl() -> None:
    # pi = (0.8, 0.2), r = (0, log 4), beta = 1: weights 0.8 * 1 and 0.2 * 4, so a half each.
    # The released convention exp(beta * r) differs from beta = 1 on: at beta = 2 it has weights
    # 0.8 and 0.2 * 16, ours 0.8 and 0.2 * 2.
    rewards, logprobs = [[0.0, np.log(4)]], [[np.log(0.8), np.log(0.2)]]
    law = select_probabilities("srbon_kl", rewards, 1.0, logprobs)
    np.testing.assert_allclose(law, [[0.5, 0.5]])
    law = select_probabilities("srbon_kl", rewards, 2.0, logprobs)
    np.testing.assert_allclose(law, [[0.8 / 1.2, 0.4 / 1.2]])


def transport_value(law: np.ndarray, reference: np.ndarray, cost: np.ndarray) -> float:
    """Least cost of moving `reference` to `law`, by a linear program."""
    num = len(law)
    rows = np.kron(np.eye(num), np.ones(num))
    columns = np.kron(np.ones(num), np.eye(num))
    found = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([reference, law])
    )
    return float(found.fun)


@pytest.mark.parametrize("beta", BETAS)
def test_srbon_wd_is_the_optimum_of_a_linear_program(beta: float) -> None:
    for seed in range(3):
        pools = candidate_pools(seed, num_prompts=4, num=6)
        law = select_probabilities(
            "srbon_wd", pools.rewards, beta, pools.logprobs, pools.similarity
        )
        for prompt in range(4):
            reference = softmax(pools.logprobs[prompt])
            cost = 1 - pools.similarity[prompt]
            # over plans T with row sums pi: max sum T_ij (r_j - beta C_ij)
            gain = pools.rewards[prompt] - beta * cost
            rows = np.kron(np.eye(6), np.ones(6))
            best = -linprog(-gain.ravel(), A_eq=rows, b_eq=reference).fun
            moved = transport_value(law[prompt], reference, cost)
            value = law[prompt] @ pools.rewards[prompt] - beta * moved
            assert value == pytest.approx(best, abs=1e-8)


def test_srbon_wd_takes_rows_as_the_picked_candidate() -> None:
    # U[1, 0] = 0.9: candidate 1 stands in for 0 at a cost of 0.1; 0 for 1 at a cost of 1.
    # r = (0, 0.5), beta = 1, pi = 1/2 each: moving 0 -> 1 gains 0.5 - 0.1 > 0, so all goes to 1.
    similarity = [[[1.0, 0.0], [0.9, 1.0]]]
    law = select_probabilities("srbon_wd", [[0.0, 0.5]], 1.0, [[0.0, 0.0]], similarity)
    np.testing.assert_allclose(law, [[0, 1]])
    law = select_probabilities("srbon_wd", [[0.5, 0.0]], 1.0, [[0.0, 0.0]], similarity)
    np.testing.assert_allclose(law, [[0.5, 0.5]])


@pytest.mark.parametrize("beta", BETAS)
def test_pessimism_is_the_maximum_under_a_chi_squared_penalty(beta: float) -> None:
    pools = candidate_pools(5, num_prompts=5, num=5)
    law = select_probabilities("inference_time_pessimism", pools.rewards, beta)
    for prompt, rewards in enumerate(pools.rewards):

        def loss(p: np.ndarray, rewards: np.ndarray = rewards) -> float:
            return -(p @ rewards) + beta / 2 * 5 * (p @ p)

        found = minimize(
            loss, np.full(5, 0.2), bounds=[(0, 1)] * 5, method="SLSQP",
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-14},
        )  # fmt: skip
        np.testing.assert_allclose(law[prompt], found.x, atol=2e-4)
        assert loss(law[prompt]) <= found.fun + 1e-9


def test_worked_example_of_pessimism() -> None:
    # r = (3, 2, 0), beta = 1, N = 3: the mean of max(r - level, 0) is 1 for level = 1:
    # (2 + 1 + 0) / 3, so p = (2, 1, 0) / 3
    law = select_probabilities("inference_time_pessimism", [[3.0, 2.0, 0.0]], 1.0)
    np.testing.assert_allclose(law, [[2 / 3, 1 / 3, 0]])


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_permuting_candidates_permutes_laws(rule: str) -> None:
    pools = candidate_pools(6, num=5)
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=pools.rewards.shape)
    order = rng.permutation(5)
    law = select_probabilities(rule, rewards, 0.8, pools.logprobs, pools.similarity)
    permuted = select_probabilities(
        rule, rewards[:, order], 0.8, pools.logprobs[:, order],
        pools.similarity[:, order][:, :, order],
    )  # fmt: skip
    np.testing.assert_allclose(permuted, law[:, order], atol=1e-12)


@pytest.mark.parametrize("rule", STOCHASTIC)
def test_pools_of_different_sizes_are_as_each_alone(rule: str) -> None:
    pools = candidate_pools(7, missing=0.5)
    gone = np.isnan(pools.rewards)
    similarity = np.where(gone[:, :, None] | gone[:, None], np.nan, pools.similarity)
    logprobs = np.where(gone, np.nan, pools.logprobs)
    law = select_probabilities(rule, pools.rewards, 0.6, logprobs, similarity)
    for prompt in range(len(law)):
        here = np.flatnonzero(~gone[prompt])
        alone = select_probabilities(
            rule, pools.rewards[prompt, here][None], 0.6, logprobs[prompt, here][None],
            similarity[prompt][np.ix_(here, here)][None],
        )  # fmt: skip
        np.testing.assert_allclose(law[prompt, here], alone[0], atol=1e-12)


def test_samples_follow_the_law() -> None:
    law = np.tile([[0.0, 0.2, 0.5, 0.3, 0.0]], (20_000, 1))
    drawn = sample(law, seed=3)
    shares = np.bincount(drawn, minlength=5) / len(law)
    # standard error of a share at most sqrt(0.25 / 20000) = 0.0035; within 4 of them
    np.testing.assert_allclose(shares, law[0], atol=0.0142)
    assert shares[0] == shares[4] == 0
    np.testing.assert_array_equal(drawn, sample(law, seed=3))


def test_a_beta_that_overflows_is_told() -> None:
    similarity = np.array([[[10.0, 1.0], [1.0, 10.0]]])
    with pytest.raises(ConfigError, match="so large that reward"):
        select_probabilities("srbon_wd", [[1.0, 2.0]], 1e308, [[-1.0, -2.0]], similarity)
