"""Columns of Arrow tables as numpy arrays, without an object of Python for each row.

Shapes: P rows, E elements of all lists of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

Column: TypeAlias = pa.ChunkedArray | pa.Array


def strings(column: Column) -> npt.NDArray[np.str_]:
    """[P] strings."""
    rank, distinct = ranks(column)
    return np.asarray(distinct.to_pylist(), dtype=np.str_)[rank]


def ranks(column: Column | Sequence[str]) -> tuple[Ints, pa.Array]:
    """[P] places of strings among the distinct ones, and those, sorted."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = pa.array(column, pa.string()).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def lengths(lists: Column) -> Ints:
    """[P] numbers of elements; a null has none."""
    found: Ints = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return found


def owners(lists: Column) -> Ints:
    """[E] rows that the elements belong to."""
    counts = lengths(lists)
    return np.repeat(np.arange(len(counts)), counts)


def any_of(lists: Column) -> Bools:
    """[P] whether any of a row's booleans holds."""
    flags = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(bool)
    found = np.zeros(len(lists), dtype=bool)
    found[owners(lists)[flags]] = True
    return found


def largest_of(lists: Column) -> Ints:
    """[P] largest of a row's integers, none of which is negative; 0 where there is none."""
    found = np.zeros(len(lists), dtype=np.int64)
    np.maximum.at(found, owners(lists), pc.list_flatten(lists).to_numpy())
    return found
