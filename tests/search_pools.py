"""Pools with stored rewards, for the tests of the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def pool_records(
    seed: int = 0, num_prompts: int = 24, num: int = 8, models: int = 2
) -> list[dict[str, Any]]:
    """Candidates with gold values, log-probs, token counts and rewards that go with gold a bit.

    The last reward model is the best of them; all have ties.
    """
    rng = np.random.default_rng(seed)
    words = ["yes", "no", "maybe", "four", "five"]
    records = []
    for prompt in range(num_prompts):
        gold = rng.normal(size=num).round(1)
        rewards = {
            f"m{k}": (gold * (0.2 + 0.5 * k) + rng.standard_t(2, size=num)).round(1).tolist()
            for k in range(models)
        }
        records.append(
            {
                "id": f"p{prompt}",
                "prompt": f"q{prompt}",
                "completions": [" ".join(rng.choice(words, size=3)) for _ in range(num)],
                "labels": gold.tolist(),
                "logprobs": (-rng.gamma(3.0, 3.0, size=num)).tolist(),
                "num_tokens": rng.integers(1, 20, size=num).tolist(),
                "rewards": rewards,
            }
        )
    return records


def write_pool(file: Path, records: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)
