"""The rows of one benchmark that one reward model scored, in flat arrays.

Shapes: P scored prompts, K completions of a prompt (may differ), R all comparisons of all prompts.
A judge that only compares pairs has margins and no rewards: its rewards are nan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rm_cluster.columns import lengths, owners, strings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Scored prompts, without their texts.

    Attributes:
        position: [P] where each stands among all rows of the benchmark, failed ones included.
        domain: [P] reporting groups.
        rows: The P rows as a table (`slices`, `labels`, `pairs` and more).
        flat: All rewards, one prompt after the other; nan for a completion without one.
        num_completions: [P] how many of them belong to each prompt.
        stated: All margins, one comparison after the other, where the judge gave them itself; nan
            where they follow from rewards.
        orders: Of a judge that saw each two replies in both orders, three arrays [P]: comparisons,
            the sum of its preferences for the first place, and contradictions.
        hidden: Of all comparisons, those to leave out.
    """

    position: Ints
    domain: npt.NDArray[np.str_]
    rows: pa.Table
    flat: Floats
    num_completions: Ints
    stated: Floats | None = None
    orders: tuple[Floats, Floats, Floats] | None = None
    hidden: Bools | None = None

    @classmethod
    def of(cls, rows: pa.Table, scores: pa.Table, keep: Bools | None = None) -> Judged:
        """Take the rows whose `values` (list of floats) are not null, and that `keep` holds.

        `scores` may have a column `margins`, a float per comparison, for judges of pairs.
        """
        scored = scores["values"].is_valid().to_numpy()
        position = np.flatnonzero(scored if keep is None else scored & keep)
        if len(position) < len(rows):
            rows, scores = rows.take(position), scores.take(position)
        values = scores["values"].combine_chunks()
        return cls(
            position=position,
            domain=strings(rows["domain"]),
            rows=rows,
            flat=values.flatten().to_numpy(zero_copy_only=False).astype(np.float64),
            num_completions=lengths(values),
            stated=_stated(rows, scores) if "margins" in scores.column_names else None,
            orders=_orders(scores) if "num_compared" in scores.column_names else None,
        )

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def id(self) -> npt.NDArray[np.str_]:
        """[P] row ids."""
        return strings(self.rows["id"])

    @cached_property
    def rewards(self) -> list[Floats]:
        """[P] arrays of K rewards."""
        return np.split(self.flat, np.cumsum(self.num_completions)[:-1]) if len(self) else []

    @cached_property
    def labels(self) -> list[Floats]:
        """[P] arrays of K gold values; empty where the benchmark has none."""
        lists = self.rows["labels"].to_pylist()
        return [np.asarray(labels or (), dtype=np.float64) for labels in lists]

    @cached_property
    def num_labels(self) -> Ints:
        """[P] numbers of gold values."""
        return lengths(self.rows["labels"])

    @cached_property
    def slices(self) -> dict[str, Bools]:
        """[P] membership by slice name."""
        return slices(self.rows)

    @cached_property
    def comparisons(self) -> PairTable:
        """All comparisons, those that are ties in the gold data included."""
        lists = self.rows["pairs"].combine_chunks()
        flat = lists.flatten()
        row = owners(lists)
        chosen, rejected, tie = (flat.field(name).to_numpy(zero_copy_only=False) for name in _PAIR)
        first = (np.cumsum(self.num_completions) - self.num_completions)[row]
        margin = self.flat[first + chosen] - self.flat[first + rejected]
        if self.stated is not None:
            margin = np.where(np.isnan(self.stated), margin, self.stated)
        if self.hidden is not None:
            margin[self.hidden] = np.nan
        return PairTable(row, margin, chosen, rejected, tie.astype(bool))

    @cached_property
    def pairs(self) -> PairTable:
        """The comparisons with a preferred side that were judged.

        Gold ties decide nothing and are left out, as are those with a failed completion.
        """
        return self.comparisons.only(~self.comparisons.tie & ~np.isnan(self.comparisons.margin))

    @property
    def undecided(self) -> Bools:
        """[R] whether a comparison of all has no margin."""
        undecided: Bools = np.isnan(self.comparisons.margin)
        return undecided

    def without(self, comparisons: Bools) -> Judged:
        """The same, but undecided in some comparisons ([R] of all), whose rewards stay."""
        return replace(self, hidden=comparisons) if comparisons.any() else self

    @cached_property
    def rated(self) -> Bools:
        """[P] whether any completion has a reward; not so where only pairs were compared."""
        row = np.repeat(np.arange(len(self)), self.num_completions)
        rated: Bools = np.bincount(row, ~np.isnan(self.flat), len(self)) > 0
        return rated

    @cached_property
    def incomplete(self) -> Bools:
        """[P] whether a comparison, or a reward of a rated prompt, is missing."""
        row = np.repeat(np.arange(len(self)), self.num_completions)
        lost = (np.bincount(row, np.isnan(self.flat), len(self)) > 0) & self.rated
        compared = self.comparisons
        lost |= np.bincount(compared.row, np.isnan(compared.margin), len(self)) > 0
        return lost


@dataclass(frozen=True)
class PairTable:
    """R comparisons.

    Attributes:
        row: [R] the prompt each belongs to.
        margin: [R] reward(chosen) - reward(rejected).
        chosen: [R] position of the completion among those of the prompt.
        rejected: [R] the same of the other.
        tie: [R] whether neither is preferred in the gold data.
    """

    row: Ints
    margin: Floats
    chosen: Ints
    rejected: Ints
    tie: Bools

    def only(self, members: Bools) -> PairTable:
        """Those of `members` ([R])."""
        return PairTable(
            row=self.row[members],
            margin=self.margin[members],
            chosen=self.chosen[members],
            rejected=self.rejected[members],
            tie=self.tie[members],
        )

    @property
    def correct(self) -> Floats:
        """[R] 1 where the chosen completion has the higher reward, 0.5 where rewards are equal."""
        return (np.sign(self.margin) + 1) / 2

    @property
    def tied(self) -> Bools:
        """[R] whether the two rewards are equal."""
        tied: Bools = self.margin == 0
        return tied


def slices(rows: pa.Table) -> dict[str, Bools]:
    """[P] membership of a table's rows by slice name."""
    lists = rows["slices"].combine_chunks()
    owner, names = owners(lists), strings(lists.flatten())
    members = {}
    for name in np.unique(names):
        members[str(name)] = np.zeros(len(rows), dtype=bool)
        members[str(name)][owner[names == name]] = True
    return members


def _stated(rows: pa.Table, scores: pa.Table) -> Floats:
    """[R] margins that a judge gave, nan in the rows where it gave none."""
    counts = lengths(rows["pairs"])
    margins = scores["margins"].combine_chunks()
    given = np.repeat(margins.is_valid().to_numpy(zero_copy_only=False), counts)
    stated = np.full(int(counts.sum()), np.nan)
    stated[given] = margins.flatten().to_numpy(zero_copy_only=False)
    return stated


def _orders(scores: pa.Table) -> tuple[Floats, Floats, Floats] | None:
    count, bias, inconsistent = (
        pc.fill_null(scores[name], 0).to_numpy().astype(np.float64)
        for name in ("num_compared", "bias", "num_inconsistent")
    )
    return (count, bias, inconsistent) if count.any() else None


_PAIR = ("chosen", "rejected", "tie")
