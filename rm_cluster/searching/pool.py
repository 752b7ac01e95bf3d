"""The pool of a search as arrays: candidates with all that is stored of each.

A candidate takes part if it has a finite value of everything that the search uses, so that all
trials pick from the same ones; a prompt takes part if it has a candidate. What is left out is
counted. Candidates keep their order and close up, so that the first n are the same for all.

Shapes: M reward models, P prompts, N candidates of the largest pool (nan rewards where there is
none, see `best_of_n.pools`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.metrics.judged import Bools, Floats, Ints

INPUTS = {
    "rbon_kl": "ref_logprobs_PN", "srbon_kl": "ref_logprobs_PN", "srbon_wd": "ref_logprobs_PN",
    "rbon_l": "num_tokens_PN",
}  # fmt: skip
"""What a rule needs that a pool may lack."""


class SearchPool(NamedTuple):
    """Everything that trials read.

    Attributes:
        names: [M] reward models that are searched.
        rewards_MPN: Theirs.
        criterion_PN: What is maximized on the development prompts.
        gold_PN: What is judged by; None where nothing is known, and the criterion stands in.
        similarity_PNN: Of candidates; 0 beside where there is none.
        ref_logprobs_PN: Of candidates under the policy, summed over tokens, or None.
        num_tokens_PN: Tokens of candidates without the one that ended them, at least 1, or None.
        cost_PN: Tokens of candidates as they were generated, 0 where there is none, or None.
    """

    names: tuple[str, ...]
    rewards_MPN: Floats
    criterion_PN: Floats
    gold_PN: Floats | None
    similarity_PNN: Floats
    ref_logprobs_PN: Floats | None
    num_tokens_PN: Floats | None
    cost_PN: Floats | None

    @property
    def judged_PN(self) -> Floats:
        """What the test prompts are judged by."""
        return self.criterion_PN if self.gold_PN is None else self.gold_PN

    @property
    def sizes_P(self) -> Ints:
        """How many candidates each prompt has."""
        sizes: Ints = (~np.isnan(self.rewards_MPN[0])).sum(axis=1)
        return sizes

    def prompts(self, which: Bools | Ints | slice) -> SearchPool:
        """Some of the prompts; a slice copies nothing."""
        return self._replace(
            rewards_MPN=self.rewards_MPN[:, which],
            **{
                name: getattr(self, name)[which]
                for name in self._fields[2:]
                if getattr(self, name) is not None
            },
        )

    def first(self, n: int) -> SearchPool:
        """The first n candidates of every prompt; a smaller pool stays whole."""
        return self._replace(
            rewards_MPN=self.rewards_MPN[:, :, :n],
            similarity_PNN=self.similarity_PNN[:, :n, :n],
            **{
                name: getattr(self, name)[:, :n]
                for name in self._fields[2:]
                if name != "similarity_PNN" and getattr(self, name) is not None
            },
        )

    def digest(self) -> str:
        """A hash of all that is in it."""
        found = hashlib.sha256("\0".join(self.names).encode())
        for array in self[1:]:
            found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


class Columns(NamedTuple):
    """What is known of each row of a pool, candidate by candidate, before it is put together.

    Attributes:
        ids: [P] of the rows, for messages.
        sizes: [P] completions of each row.
        values: By name, [P] lists with one value per completion, or None where nothing is known.
    """

    ids: Sequence[str]
    sizes: Sequence[int]
    values: Mapping[str, Sequence[Sequence[float | None] | None]]

    def padded(self, name: str) -> Floats:
        """[P, N] the values, nan where there is none.

        Raises:
            DataFormatError: They are no numbers, not as many as completions, or infinite.
        """
        found = np.full((len(self.ids), max(self.sizes, default=0)), np.nan)
        for row, values in enumerate(self.values[name]):
            if values is None:
                continue
            known = _numbers(values)
            if known is None:
                raise DataFormatError(
                    f"{self.ids[row]!r}: {name!r} must be a list of numbers, one for each of its "
                    f"{self.sizes[row]} completions, got {str(values)[:60]!r}."
                )
            if len(known) != self.sizes[row]:
                raise DataFormatError(
                    f"{self.ids[row]!r} has {len(known)} values of {name!r} for "
                    f"{self.sizes[row]} completions; every completion must have one, null or nan "
                    "where it could not be had."
                )
            found[row, : len(known)] = known
            if np.isinf(found[row]).any():
                raise DataFormatError(f"{self.ids[row]!r} has an infinite value of {name!r}.")
        return found


def _numbers(values: object) -> Floats | None:
    """[N] a list of numbers and nulls as an array; None where it is something else."""
    if not isinstance(values, list | np.ndarray):
        return None
    try:
        found = np.array([np.nan if value is None else value for value in values], dtype=float)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.ndim == 1 else None


class Kept(NamedTuple):
    """Which candidates of which rows take part.

    Attributes:
        rows: [P] positions of the prompts among all rows.
        order_PN: For each, the positions of its candidates; what follows them is not one.
        present_PN: Where candidates are.
        num_left_out: Candidates that lacked a value, and prompts that had no other.
    """

    rows: Ints
    order_PN: Ints
    present_PN: Bools
    num_left_out: tuple[int, int]

    @classmethod
    def of(cls, needed: Sequence[Floats], sizes: Sequence[int]) -> Kept:
        """Keep candidates that have all of some [P, N] values.

        Raises:
            DataFormatError: None has.
        """
        usable: Bools = np.logical_and.reduce(~np.isnan(np.stack(needed)), axis=0)
        rows = np.flatnonzero(usable.any(axis=1))
        if not len(rows):
            raise DataFormatError(
                f"None of the {sum(sizes)} candidates has a value of everything that the search "
                "needs: a reward of every reward model, and what is judged by."
            )
        counts = usable[rows].sum(axis=1)
        order = np.argsort(~usable[rows], axis=1, kind="stable")[:, : counts.max()]
        present = np.arange(order.shape[1]) < counts[:, None]
        lost = sum(sizes) - int(usable.sum())
        return cls(rows, order, present, (lost, len(usable) - len(rows)))

    def take(self, values_PN: Floats, absent: float = np.nan) -> Floats:
        """The values of the candidates that take part."""
        found = np.take_along_axis(values_PN[self.rows], self.order_PN, axis=1)
        return np.where(self.present_PN, found, absent)

    def take_pairs(self, values_PNN: Floats) -> Floats:
        """The same for values between candidates, 0 beside where there is none."""
        found = np.take_along_axis(values_PNN[self.rows], self.order_PN[:, :, None], axis=1)
        found = np.take_along_axis(found, self.order_PN[:, None, :], axis=2)
        both = self.present_PN[:, :, None] & self.present_PN[:, None, :]
        return np.where(both, found, 0.0)


def check_rules(pool: SearchPool, rules: Sequence[str] | None) -> list[str]:
    """The rules that are searched, plain Best-of-N first.

    Raises:
        ConfigError: A rule is named whose input the pool lacks.
    """
    possible = [rule for rule, needed in INPUTS.items() if getattr(pool, needed) is not None]
    if rules is None:
        rules = [
            rule for rule in ("mbr", "rbon_kl", "rbon_wd", "rbon_l")
            if rule not in INPUTS or rule in possible
        ]  # fmt: skip
    for rule in rules:
        if rule in INPUTS and rule not in possible:
            column = INPUTS[rule].removesuffix("_PN").removeprefix("ref_")
            raise ConfigError(
                f"space.rules: {rule} needs {column}, which the pool lacks. Name the policy in "
                "ref_logprobs (a logprob reward model), or leave the rule out."
            )
    return list(dict.fromkeys(["bon", *rules]))
