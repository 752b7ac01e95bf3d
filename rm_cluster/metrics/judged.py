"""The rows of one benchmark that one reward model scored, in flat arrays.

Shapes: P scored prompts, K completions of a prompt (may differ), R all comparisons of all prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Scored prompts, without their texts.

    Attributes:
        position: [P] where each stands among all rows of the benchmark, failed ones included.
        id: [P] row ids.
        domain: [P] reporting groups.
        rows: The P rows as a table (`slices`, `labels`, `pairs` and more).
        flat: All rewards, one prompt after the other.
        num_completions: [P] how many of them belong to each prompt.
    """

    position: Ints
    id: npt.NDArray[np.str_]
    domain: npt.NDArray[np.str_]
    rows: pa.Table
    flat: Floats
    num_completions: Ints

    @classmethod
    def of(cls, rows: pa.Table, values: pa.ChunkedArray, keep: Bools | None = None) -> Judged:
        """Take the rows whose `values` (list of floats) are not null, and that `keep` holds."""
        scored = values.is_valid().to_numpy()
        position = np.flatnonzero(scored if keep is None else scored & keep)
        rows, values = rows.take(position), values.take(position).combine_chunks()
        return cls(
            position=position,
            id=strings(rows["id"]),
            domain=strings(rows["domain"]),
            rows=rows,
            flat=values.flatten().to_numpy(zero_copy_only=False).astype(np.float64),
            num_completions=_lengths(values),
        )

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def rewards(self) -> list[Floats]:
        """[P] arrays of K rewards."""
        return np.split(self.flat, np.cumsum(self.num_completions)[:-1]) if len(self) else []

    @cached_property
    def labels(self) -> list[Floats]:
        """[P] arrays of K gold values; empty where the benchmark has none."""
        return [np.asarray(labels or (), dtype=np.float64) for labels in self._column("labels")]

    @cached_property
    def slices(self) -> dict[str, Bools]:
        """[P] membership by slice name."""
        return slices(self.rows)

    @cached_property
    def pairs(self) -> PairTable:
        """The comparisons with a preferred side; gold ties decide nothing and are left out."""
        lists = self.rows["pairs"].combine_chunks()
        flat = lists.flatten()
        row = np.repeat(np.arange(len(self)), _lengths(lists))
        chosen, rejected, tie = (flat.field(name).to_numpy(zero_copy_only=False) for name in _PAIR)
        decided = ~tie.astype(bool)
        row = row[decided]
        first = (np.cumsum(self.num_completions) - self.num_completions)[row]
        return PairTable(
            row=row,
            margin=self.flat[first + chosen[decided]] - self.flat[first + rejected[decided]],
        )

    def _column(self, name: str) -> list[list[float] | None]:
        column: list[list[float] | None] = self.rows[name].to_pylist()
        return column


@dataclass(frozen=True)
class PairTable:
    """Comparisons: [R] the prompt each belongs to, and reward(chosen) - reward(rejected)."""

    row: Ints
    margin: Floats

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
    owner, names = np.repeat(np.arange(len(rows)), _lengths(lists)), strings(lists.flatten())
    members = {}
    for name in np.unique(names):
        members[str(name)] = np.zeros(len(rows), dtype=bool)
        members[str(name)][owner[names == name]] = True
    return members


def strings(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.str_]:
    """A column of strings as a numpy array."""
    return np.asarray(column.to_pylist(), dtype=np.str_)


_PAIR = ("chosen", "rejected", "tie")


def _lengths(lists: pa.ListArray) -> Ints:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)  # type: ignore[no-any-return]
