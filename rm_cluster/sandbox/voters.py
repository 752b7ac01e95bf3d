"""Simulated voters: Bradley-Terry with ties, on correctness and on tastes of their own.

They cannot check what is hard to look up, and are the readier to be talked into it.
"""

from __future__ import annotations

import math
import random
from typing import Literal, NamedTuple

from rm_cluster.sandbox.tasks import Task, chattiness, verify

Winner = Literal["first", "second", "tie"]


class Taste(NamedTuple):
    """What voters look for in a family, in log-odds of preferring a reply to another.

    Attributes:
        correctness: For a right reply against a wrong one.
        chattiness: Per step of style.
        length: Per byte.
    """

    correctness: float
    chattiness: float
    length: float


USUAL = Taste(correctness=5.0, chattiness=0.2, length=0.01)
TASTES = {"GPQA": Taste(correctness=1.0, chattiness=0.5, length=0.05)}
"""Families that voters judge in another way than the usual one."""
TIES = 1.0
"""Davidson's parameter: between two replies of one utility, TIES / (2 + TIES) of votes are ties."""


def utility(task: Task, reply: str) -> float:
    """What voters make of a reply, in log-odds."""
    taste = TASTES.get(task.family, USUAL)
    return (
        taste.correctness * verify(task, reply)
        + taste.chattiness * chattiness(reply)
        + taste.length * len(reply.encode())
    )


def vote(task: Task, first: str, second: str, rng: random.Random) -> Winner:
    """Decide a comparison as one voter: Bradley-Terry with ties (Davidson, 1970).

    Identical replies tie.
    """
    if first == second:
        return "tie"
    half = (utility(task, first) - utility(task, second)) / 2
    weights = (math.exp(half), math.exp(-half), TIES)
    winners: tuple[Winner, ...] = ("first", "second", "tie")
    return rng.choices(winners, weights)[0]
