"""From rewards of candidates to preference pairs: which is chosen, which is rejected.

Every draw is made from a seed and the row's id alone. So a run that goes on draws as the first one
did, and reward models that annotate the same pools reject the same rank, as PPE's comparison of
them asks for (arXiv 2410.14872, section on the RLHF outcome).

Shapes: P prompts, N candidates (nan rewards where there is none).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.best_of_n import pick, token_overlap
from rm_cluster.config import PairRule
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.judged import Floats, Ints

_WORD = re.compile(r"\w+|[^\w\s]")


class Pairs(NamedTuple):
    """One pair of candidates per prompt, as positions in its pool."""

    chosen_P: Ints
    rejected_P: Ints


def pair_candidates(
    rule: PairRule,
    rewards_PN: npt.ArrayLike,
    draws_P: npt.ArrayLike,
    beta: float = 0.0,
    similarity_PN: npt.ArrayLike | None = None,
) -> Pairs:
    """Take a chosen and a rejected candidate of each pool.

    | rule | chosen | rejected | source |
    |---|---|---|---|
    | `best_vs_random` | best | any other, uniformly | CDR, arXiv 2411.02481 |
    | `best_vs_worst` | best | worst | |
    | `best_vs_uniform_rank` | best | a rank below, uniformly | PPE, arXiv 2410.14872 |
    | `mbr_bon_vs_worst` | largest reward + beta * similarity | worst | arXiv 2404.01054 |

    Best and worst are by reward, the first of equal ones. The two may tie; see to it by the margin.

    Args:
        rule: One of the above.
        rewards_PN: Two candidates or more in each pool.
        draws_P: Uniform in [0, 1), as of `id_draws`.
        beta: Of `mbr_bon_vs_worst`.
        similarity_PN: Of `mbr_bon_vs_worst`, the mean similarity of each candidate to its pool.

    Raises:
        DataFormatError: A pool has fewer than two candidates, or an array is not what it should be.
    """
    rewards = np.asarray(rewards_PN, dtype=np.float64)
    present = ~np.isnan(rewards)
    sizes = present.sum(axis=1)
    if (sizes < 2).any():
        raise DataFormatError(
            f"Pool {int((sizes < 2).argmax())} has fewer than two candidates with a reward, and no "
            "pair can be made of it. Leave it out, and count it."
        )
    best = np.where(present, rewards, -np.inf).argmax(axis=1)
    drawn = 1 + (np.asarray(draws_P, dtype=np.float64) * (sizes - 1)).astype(np.int64)
    match rule:
        case "best_vs_random":
            # the best comes first, the others as they stand, what is absent last
            others = np.where(present, np.arange(rewards.shape[1]), np.inf)
            others[np.arange(len(best)), best] = -1
            rejected = _at(np.argsort(others, axis=1, kind="stable"), drawn)
        case "best_vs_uniform_rank":
            ranked = np.argsort(np.where(present, -rewards, np.inf), axis=1, kind="stable")
            rejected = _at(ranked, drawn)
        case _:
            rejected = np.where(present, rewards, np.inf).argmin(axis=1)
    if rule == "mbr_bon_vs_worst":
        if similarity_PN is None:
            raise DataFormatError("mbr_bon_vs_worst needs similarity_PN, which was not given.")
        best = pick(rewards, similarity_PN, beta)
    return Pairs(best, rejected)


def id_draws(ids: Sequence[str], seed: int, purpose: str) -> Floats:
    """[P] draws, uniform in [0, 1), each fixed by the seed, the purpose and its id."""
    keys = (f"{seed}\n{purpose}\n{id}".encode() for id in ids)
    numbers = [int.from_bytes(hashlib.blake2b(key, digest_size=6).digest()) for key in keys]
    return np.array(numbers, dtype=np.float64) / 2.0**48


def mean_word_overlap(completions: Sequence[str]) -> Floats:
    """[N] mean `token_overlap` of each completion with every one, itself included.

    A similarity that needs no model.
    """
    # rounded beyond its errors, so that equal completions tie
    means: Floats = token_overlap([completions])[0].mean(axis=1).round(12)
    return means


def num_words(text: str) -> int:
    """Words and punctuation marks of a text."""
    return len(_WORD.findall(text))


def _at(columns_PN: Ints, place_P: Ints) -> Ints:
    found: Ints = columns_PN[np.arange(len(place_P)), place_P]
    return found
