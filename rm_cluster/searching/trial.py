"""What runs in the actor of a trial: one way to pick, tried on what is stored."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ray import tune

from rm_cluster.searching.choice import Choice, try_choice
from rm_cluster.searching.pool import SearchPool

RUNGS = 4
"""With a scheduler a trial goes over an eighth, a quarter, a half and all of the prompts."""


class SearchTrial(tune.Trainable):  # type: ignore[misc]
    """One way to pick, tried on the development prompts; in steps, on more and more of them."""

    def setup(self, config: dict[str, Any], pool: SearchPool, num_steps: int) -> None:
        self._pool, self._num_steps = pool, num_steps
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._choice = Choice.of(new_config)
        return True

    def step(self) -> dict[str, Any]:
        began = time.perf_counter()
        left = self._num_steps - 1 - self.iteration
        num_prompts = max(1, len(self._pool.criterion_PN) >> left)
        outcome = try_choice(self._pool.prompts(np.arange(num_prompts)), self._choice)
        return {
            "value": float(outcome.value_P.mean()),
            "tokens": float(outcome.tokens_P.mean()),
            "kl": float(outcome.kl_P.mean()),
            "num_prompts": num_prompts,
            "seconds": time.perf_counter() - began,
            "done": left == 0,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is worth keeping that the study does not hold."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""
