"""What a scorer is, and how whole prompt groups are scored without one bad row spoiling others.

A scorer has a light half, `encode`, which runs where the data is, and a heavy half, `load` and
`score_encoded`, which runs on a replica. Between the two travel token ids.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rm_cluster.conversation import listed_rows, num_completions
from rm_cluster.types import Row

logger = logging.getLogger(__name__)

TokenIds = npt.NDArray[np.int32]


class EncodedGroup(NamedTuple):
    """One prompt with its K completions as token ids; with `error` set nothing else counts."""

    token_ids: list[TokenIds]
    num_tokens: list[int]
    """Tokens of each text before any truncation; of a log-prob, the tokens it sums over."""
    truncated: list[bool]
    error: str | None = None

    @classmethod
    def failed(cls, error: str) -> EncodedGroup:
        return cls([], [], [], error)


class GroupRewards(NamedTuple):
    """K rewards, or the error that stands in their place."""

    values: list[float] | None
    error: str | None = None


class Scorer(Protocol):
    """A reward model; see `Classifier` for one."""

    uses_gpu: bool

    @property
    def contract(self) -> dict[str, Any]:
        """How a reward comes about, as plain JSON; recorded with the results."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        """Render and tokenize; needs no weights."""
        ...

    def load(self, num_threads: int | None = None) -> None:
        """Bring the weights into memory, on the GPU where there is one."""
        ...

    def score_encoded(
        self, groups: Sequence[Sequence[TokenIds]]
    ) -> Sequence[npt.NDArray[np.float64] | GroupRewards]:
        """Return the rewards of each group's texts, or an error in their place."""
        ...


_NOT_IDENTITY = ("template", "max_length", "truncation", "batching")


def contract_id(contract: dict[str, Any]) -> str:
    """Return a short hash of what decides the reward of given token ids.

    What decides which tokens are kept (max_length, truncation) is left out, so that a run with
    another limit measures again only the prompts that it concerns; so are where the template comes
    from, which its hash stands for, and how texts are batched, which rewards do not depend on.
    """
    identity = {key: value for key, value in contract.items() if key not in _NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def score_groups(scorer: Scorer, groups: Sequence[Sequence[TokenIds]]) -> list[GroupRewards]:
    """Score groups together; if that fails, one by one, so that only the culprit gets an error.

    A reward that is not a finite number is an error of its group.
    """
    if not groups:
        return []
    try:
        rewards = scorer.score_encoded(groups)
    except Exception as error:  # whatever a model's code may raise, it is the row's error
        if len(groups) == 1:
            return [GroupRewards(None, f"{type(error).__name__}: {error}"[:500])]
        logger.warning(
            "Scoring %d groups together failed, going one by one: %s", len(groups), error
        )
        return [score_groups(scorer, [group])[0] for group in groups]
    return [_checked(values, len(group)) for values, group in zip(rewards, groups, strict=True)]


def _checked(values: npt.NDArray[np.float64] | GroupRewards, num_completions: int) -> GroupRewards:
    if isinstance(values, GroupRewards):
        if values.values is None:
            return values
        values = np.array(values.values)
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (num_completions,):
        return GroupRewards(None, f"{num_completions} completions got rewards of {array.shape}")
    broken = np.flatnonzero(~np.isfinite(array))
    if broken.size:
        return GroupRewards(None, f"reward of completion {broken[0]} is {array[broken[0]]}")
    return GroupRewards(array.tolist())


def score_encoded_groups(scorer: Scorer, encoded: Sequence[EncodedGroup]) -> list[GroupRewards]:
    """Score what could be encoded, and hand on the errors of the rest."""
    scored = iter(score_groups(scorer, [g.token_ids for g in encoded if g.error is None]))
    return [next(scored) if g.error is None else GroupRewards(None, g.error) for g in encoded]


class RowRewards(NamedTuple):
    """K rewards of a row and the tokens that each is of; nan and 0 where the row failed."""

    rewards: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.int64]


def measure_rows(scorer: Scorer, rows: Iterable[Row]) -> list[RowRewards]:
    """Score rows in this process; one that fails is logged with its reason."""
    rows = listed_rows(rows)
    scorer.load()  # here, or what keeps it from loading would be an error of every row
    encoded = scorer.encode(rows)
    results = score_encoded_groups(scorer, encoded)
    found: list[RowRewards] = []
    for row, group, result in zip(rows, encoded, results, strict=True):
        if result.values is None:
            logger.warning("Prompt %r failed: %s", row.get("id", len(found)), result.error)
            num = num_completions(row)
            found.append(RowRewards(np.full(num, np.nan), np.zeros(num, dtype=np.int64)))
        else:
            found.append(RowRewards(np.array(result.values), np.array(group.num_tokens, np.int64)))
    return found


def score_rows(scorer: Scorer, rows: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
    """The rewards of rows, scored in this process; nan where a row failed."""
    return [row.rewards for row in measure_rows(scorer, rows)]
