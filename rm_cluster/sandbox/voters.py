"""Simulated voters: Bradley-Terry on correctness, with a taste for chatty replies."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from rm_cluster.sandbox.tasks import Completion, Task, draw_completion, draw_task, verify

CORRECTNESS = 3.0
"""Log-odds that a voter prefers a right reply to a wrong one of the same style."""
CHATTINESS = 0.4
"""Log-odds per step of style."""


class Vote(NamedTuple):
    """One comparison as a voter decided it."""

    prompt: str
    chosen: str
    rejected: str


def utility(task: Task, completion: Completion) -> float:
    """What a voter makes of a reply, in log-odds."""
    return CORRECTNESS * verify(task, completion.text) + CHATTINESS * completion.style


def votes(num_votes: int, seed: int) -> list[Vote]:
    """Draw comparisons of two different replies, each decided by a voter."""
    rng = random.Random(seed)
    found: list[Vote] = []
    while len(found) < num_votes:
        task = draw_task(rng)
        first, second = draw_completion(task, rng), draw_completion(task, rng)
        if first.text == second.text:
            continue
        log_odds = utility(task, first) - utility(task, second)
        if rng.random() > 1 / (1 + math.exp(-log_odds)):
            first, second = second, first
        found.append(Vote(task.prompt, first.text, second.text))
    return found


def judged_prompts(num_prompts: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield prompts with right and wrong replies, told apart by the verifier, up to three of each.

    The slice `chatty` holds the prompts whose longest reply is wrong.
    """
    rng = random.Random(seed)
    for index in range(num_prompts):
        task = draw_task(rng)
        right: set[str] = set()
        wrong: set[str] = set()
        while not right or not wrong or len(right) + len(wrong) < 4:
            text = draw_completion(task, rng).text
            (right if verify(task, text) else wrong).add(text)
        chosen, rejected = sorted(right)[:3], sorted(wrong)[:3]
        yield {
            "id": f"{task.domain}-{index}",
            "domain": task.domain,
            "slices": ["chatty"] if max(map(len, rejected)) > max(map(len, chosen)) else [],
            "prompt": task.prompt,
            "chosen": chosen,
            "rejected": rejected,
        }
