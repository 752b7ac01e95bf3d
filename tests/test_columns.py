from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rm_cluster.columns import any_of, largest_of, lengths, owners, ranks, strings

LISTS = [[3, 1], [], None, [7], [2, 2, 9]]
FLAGS = [[False, True], [], None, [False], [False, False, True]]


def chunked(values: list, type: pa.DataType) -> list[pa.ChunkedArray | pa.Array]:
    """The same column whole, in two pieces, and cut out of a longer one."""
    whole = pa.array(values, type)
    longer = pa.array([values[0], *values, values[-1]], type)
    return [whole, pa.chunked_array([whole[:2], whole[2:]]), longer[1:-1]]


@pytest.mark.parametrize("column", chunked(LISTS, pa.list_(pa.int32())))
def test_lists_of_integers(column: pa.ChunkedArray | pa.Array) -> None:
    assert lengths(column).tolist() == [2, 0, 0, 1, 3]
    assert owners(column).tolist() == [0, 0, 3, 4, 4, 4]
    assert largest_of(column).tolist() == [3, 0, 0, 7, 9]


@pytest.mark.parametrize("column", chunked(FLAGS, pa.list_(pa.bool_())))
def test_lists_of_flags(column: pa.ChunkedArray | pa.Array) -> None:
    assert any_of(column).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("column", chunked(["b", "ä", "", "b", "\U0001f600a"], pa.string()))
def test_strings_are_ranked_as_numpy_sorts_them(column: pa.ChunkedArray | pa.Array) -> None:
    distinct, places = np.unique(column.to_pylist(), return_inverse=True)
    found, names = ranks(column)
    assert found.tolist() == places.tolist()
    assert names.to_pylist() == distinct.tolist()
    assert strings(column).tolist() == column.to_pylist()
    assert ranks(column.to_pylist())[0].tolist() == places.tolist()


def test_a_table_without_rows() -> None:
    nothing = pa.chunked_array([], pa.list_(pa.bool_()))
    assert not len(any_of(nothing))
    assert not len(owners(nothing))
    assert strings(pa.chunked_array([], pa.string())).shape == (0,)
