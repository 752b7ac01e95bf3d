"""Time Best-of-N under regularization on pools of the papers' size, on one core.

    python bench/best_of_n.py [num_prompts=805] [num_candidates=128] [num_dimensions=384]

The deterministic rules are solved for every beta at once; SRBoN_WD on the 17 betas of the released
code, and a few of its pools by a linear program (HiGHS) for comparison. Rewards and embeddings are
drawn at random. Prints and writes `bench/results/best_of_n.json`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from options import read_options
from scipy.optimize import linprog
from threadpoolctl import threadpool_limits

from rm_cluster import best_of_n

NUM_REPEATS = 5
NUM_SOLVED_POOLS = 5
BETAS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 10, 15, 20)


def seconds(work: Callable[[], object], num_repeats: int = NUM_REPEATS) -> dict[str, float]:
    """Median, least and most of some repeats, after one that warms up."""
    work()
    taken = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    low, middle, high = np.quantile(taken, (0, 0.5, 1))
    return {"median": round(middle, 4), "min": round(low, 4), "max": round(high, 4)}


def draw_pools(shape: tuple[int, int], num_dimensions: int) -> dict[str, np.ndarray]:
    """Rewards, gold, log-probs, token counts and unit embeddings of random candidates."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=shape)
    embeddings = rng.normal(size=(*shape, num_dimensions)) + rng.normal(
        size=(shape[0], 1, num_dimensions)
    )
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    return {
        "gold": gold,
        "rewards": gold + rng.normal(size=shape),
        "logprobs": -rng.gamma(20.0, 5.0, size=shape),
        "num_tokens": rng.integers(20, 256, size=shape),
        "embeddings": embeddings.astype(np.float32),
    }


def solve(
    rewards: np.ndarray, logprobs: np.ndarray, similarity: np.ndarray, beta: float
) -> np.ndarray:
    """SRBoN_WD's law by a linear program over transport plans."""
    reference = np.exp(logprobs - logprobs.max())
    gain = rewards - beta * (1 - similarity)
    rows = scipy.sparse.kron(scipy.sparse.eye(len(rewards)), np.ones((1, len(rewards))))
    plan = linprog(-gain.ravel(), A_eq=rows, b_eq=reference / reference.sum()).x
    return plan.reshape(gain.shape).sum(axis=0)


def compare_with_solver(pools: dict[str, np.ndarray], similarity: np.ndarray) -> dict[str, float]:
    """Seconds per pool and beta of the linear program, and how far its laws are from ours."""
    gaps, taken = [], []
    for prompt in range(min(NUM_SOLVED_POOLS, len(similarity))):
        pool = pools["rewards"][prompt], pools["logprobs"][prompt], similarity[prompt]
        for beta in (0.5, 5.0):
            started = time.perf_counter()
            solved = solve(*pool, beta)
            taken.append(time.perf_counter() - started)
            rewards, logprobs, similar = (array[None] for array in pool)
            law = best_of_n.select_probabilities("srbon_wd", rewards, beta, logprobs, similar)[0]
            gaps.append(float(np.abs(law - solved).max()))
    return {"median_seconds": round(float(np.median(taken)), 4), "largest_gap": max(gaps)}


def time_all(pools: dict[str, np.ndarray], similarity: np.ndarray) -> dict[str, object]:
    """Seconds of each piece of work on all prompts."""
    rewards, gold, logprobs = pools["rewards"], pools["gold"], pools["logprobs"]

    def deterministic_rules() -> list[best_of_n.BetaPaths]:
        kl = best_of_n.bonus("rbon_kl", rewards, logprobs)
        length = best_of_n.bonus("rbon_l", rewards, num_tokens_PN=pools["num_tokens"])
        wd = best_of_n.mean_similarity(pools["embeddings"])
        best_of_n.select("bon", rewards)
        best_of_n.pick(wd, wd, 0)  # mbr: the largest mean similarity
        return [best_of_n.beta_paths(rewards, extra) for extra in (kl, wd, length)]

    def from_matrix() -> object:
        extra = best_of_n.bonus("rbon_wd", rewards, similarity_PNN=similarity)
        return best_of_n.beta_paths(rewards, extra)

    def srbon_wd() -> list[np.ndarray]:
        return [
            best_of_n.select_probabilities("srbon_wd", rewards, beta, logprobs, similarity)
            for beta in BETAS
        ]

    wd = best_of_n.mean_similarity(pools["embeddings"])
    half = len(rewards) // 2
    return {
        "all_deterministic_rules_all_beta": seconds(deterministic_rules),
        "mean_similarity_from_embeddings": seconds(
            lambda: best_of_n.mean_similarity(pools["embeddings"])
        ),
        "one_rule_all_beta": seconds(lambda: best_of_n.beta_paths(rewards, wd)),
        "rbon_wd_from_similarity_all_beta": seconds(from_matrix),
        "srbon_wd_17_betas": seconds(srbon_wd, num_repeats=3),
        "select_one_beta": seconds(lambda: best_of_n.pick(rewards, wd, 1.0)),
        "expected_best_of_all_n": seconds(lambda: best_of_n.expected_best_of_all_n(rewards, gold)),
        "resampled_mbr_n32_200_draws": seconds(
            lambda: best_of_n.resampled_best_of_n("mbr", rewards, gold, 32, similarity),
            num_repeats=2,
        ),
        "choose_beta_half_of_the_prompts": seconds(
            lambda: best_of_n.choose_beta(rewards[:half], wd[:half], gold[:half]), num_repeats=2
        ),
        "breakpoints_per_prompt": {
            name: round(float(np.isfinite(paths.breakpoints_PM).sum(axis=1).mean()), 2)
            for name, paths in zip(
                ("rbon_kl", "rbon_wd", "rbon_l"), deterministic_rules(), strict=True
            )
        },
    }


def main() -> None:
    options = read_options("num_prompts", "num_candidates", "num_dimensions")
    shape = (int(options.get("num_prompts", 805)), int(options.get("num_candidates", 128)))
    num_dimensions = int(options.get("num_dimensions", 384))
    pools = draw_pools(shape, num_dimensions)
    similarity = best_of_n.cosine_similarity(pools["embeddings"])
    with threadpool_limits(1):
        result = {
            "num_prompts": shape[0],
            "num_candidates": shape[1],
            "num_dimensions": num_dimensions,
            "num_repeats": NUM_REPEATS,
            "seconds": time_all(pools, similarity),
            "srbon_wd_by_linear_program_per_pool_and_beta": compare_with_solver(pools, similarity),
            "machine": f"{platform.machine()}, one thread of {os.cpu_count()} cores, "
            f"{platform.python_implementation()} {platform.python_version()}, "
            f"numpy {np.__version__}, scipy {scipy.__version__}",
        }
    target = Path(__file__).parent / "results" / "best_of_n.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
