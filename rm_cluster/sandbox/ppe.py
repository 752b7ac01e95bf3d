"""The sandbox's records, in the columns of PPE's files (Frick et al., 2024; sections 3 and 4).

Battles are what PPE calls human preference; best-of-K sets are its correctness side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from rm_cluster.sandbox.base_models import REFUSALS
from rm_cluster.sandbox.policies import POLICIES, Ask, Policy
from rm_cluster.sandbox.tasks import Task, verify
from rm_cluster.sandbox.voters import vote
from rm_cluster.types import Record

K = 32
NUM_CONFLICT_PAIRS = 5
PASS_RATES = (0.1, 0.9)
"""Prompts whose share of right completions lies outside are dropped, as PPE does."""
SIMILAR = 0.8
"""Replies whose difflib ratio reaches this are similar."""


class Battle(NamedTuple):
    """A task and the two policies that reply to it."""

    task: Task
    policies: tuple[Policy, Policy]

    @property
    def asks(self) -> tuple[Ask, Ask]:
        return Ask(self.task, self.policies[0]), Ask(self.task, self.policies[1])


def draw_battles(tasks: Iterator[Task], num_battles: int, rng: random.Random) -> list[Battle]:
    """Draw two different policies for each of the next tasks."""
    battles = []
    for _ in range(num_battles):
        first, second = rng.sample(POLICIES, 2)
        battles.append(Battle(next(tasks), (first, second)))
    return battles


def battle_record(
    question_id: str, battle: Battle, replies: tuple[str, str], rng: random.Random
) -> Record:
    """Return a row of PPE-Human-Preference-V1, decided by one voter."""
    task, policies = battle
    decision = vote(task, *replies, rng)
    if decision == "tie" and not any(verify(task, reply) for reply in replies):
        winner = "tie (bothbad)"
    else:
        winner = {"first": "model_a", "second": "model_b", "tie": "tie"}[decision]
    return {
        "question_id": question_id,
        "model_a": policies[0].name,
        "model_b": policies[1].name,
        "winner": winner,
        "prompt": task.prompt,
        "response_1": replies[0],
        "response_2": replies[1],
        "language": task.language,
        "is_code": task.family == "MBPP-Plus",
        "is_refusal": any(reply in REFUSALS.values() for reply in replies),
        "hard_prompt": task.hard,
        "easy_prompt": not task.hard,
        "if_prompt": task.family == "IFEval",
        "math_prompt": task.family == "MATH",
        "similar_response": SequenceMatcher(None, *replies).ratio() >= SIMILAR,
        "length_a": len(replies[0].encode()),
        "length_b": len(replies[1].encode()),
    }


def best_of_k_record(ask: Ask, replies: Sequence[str], rng: random.Random) -> Record | None:
    """Return a row of a best-of-K file, or None where too many or too few replies are right."""
    scores = [verify(ask.task, reply) for reply in replies]
    if not PASS_RATES[0] <= sum(scores) / len(scores) <= PASS_RATES[1]:
        return None
    right = [i for i, score in enumerate(scores) if score]
    wrong = [i for i, score in enumerate(scores) if not score]
    pairs = [
        rng.sample((rng.choice(right), rng.choice(wrong)), 2) for _ in range(NUM_CONFLICT_PAIRS)
    ]
    return {
        "question_id": hashlib.sha256(ask.task.prompt.encode()).hexdigest()[:12],
        "prompt": ask.task.prompt,
        **{f"response_{number}": reply for number, reply in enumerate(replies, start=1)},
        "scores": scores,
        "sampled_conflict_pairs": pairs,
        "model_name": ask.policy.name,
    }
