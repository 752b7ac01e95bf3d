"""Random pools of candidates for the tests of Best-of-N, awkward on purpose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class CandidatePools(NamedTuple):
    rewards: np.ndarray  # [P, N], nan where there is no candidate
    gold: np.ndarray  # [P, N]
    logprobs: np.ndarray  # [P, N]
    num_tokens: np.ndarray  # [P, N]
    embeddings: np.ndarray  # [P, N, D]
    similarity: np.ndarray  # [P, N, N]

    def inputs(self) -> dict[str, np.ndarray]:
        """What `select` takes beside rewards."""
        return {
            "ref_logprobs_PN": self.logprobs,
            "similarity_PNN": self.similarity,
            "num_tokens_PN": self.num_tokens,
        }


def candidate_pools(
    seed: int, num_prompts: int = 12, num: int = 7, missing: float = 0.0
) -> CandidatePools:
    """Pools with tied rewards, candidates written twice, and one pool of equal rewards."""
    rng = np.random.default_rng(seed)
    shape = (num_prompts, num)
    rewards = np.round(rng.normal(size=shape), 1)
    gold = np.round(rng.normal(size=shape) + 0.5 * rewards, 1)
    logprobs = -rng.gamma(2.0, 3.0, size=shape)
    num_tokens = rng.integers(1, 40, size=shape)
    embeddings = rng.normal(size=(*shape, 5)) + 0.5
    # the last candidate is the second one again, in a third of the prompts
    for array in (rewards, gold, logprobs, num_tokens, embeddings):
        array[::3, -1] = array[::3, 1]
    rewards[1] = 0.3
    if missing:
        absent = rng.random(shape) < missing
        absent[np.arange(num_prompts), rng.integers(num, size=num_prompts)] = False
        rewards[absent] = np.nan
    unit = embeddings / np.linalg.norm(embeddings, axis=2, keepdims=True)
    similarity = np.round(np.einsum("pid,pjd->pij", unit, unit), 12)
    return CandidatePools(rewards, gold, logprobs, num_tokens, embeddings, similarity)
