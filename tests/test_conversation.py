from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rm_cluster as rmc
from rm_cluster.conversation import messages, num_completions, readable
from rm_cluster.errors import DataFormatError

HI = [{"role": "user", "content": "Hi"}]
CALLS = [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]
WRITTEN = '[{"id": "1", "function": {"name": "add", "arguments": "{}"}}]'


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": "a"}, "a"),
        ({"from": "human", "value": "a"}, "a"),
        ({"role": None, "content": None, "from": "human", "value": "a"}, "a"),
        ({"role": "user", "content": np.array([{"type": "text", "text": "a"}])}, "a"),
        ({"role": "user", "content": None, "tool_calls": CALLS}, WRITTEN),
        ({"role": "user", "content": "", "tool_calls": CALLS}, WRITTEN),
        ({"role": "user", "content": "a", "tool_calls": CALLS}, f"a\n{WRITTEN}"),
        ({"role": "user", "content": "a", "tool_calls": []}, "a"),
        ({"role": "user", "content": None, "tool_calls": np.array(CALLS)}, WRITTEN),
        (
            {"role": "user", "content": "", "tool_calls": np.array(CALLS * 2)},
            f"{WRITTEN[:-1]}, {WRITTEN[1:]}",
        ),
    ],
)
def test_a_message_in_the_shapes_that_are_in_use(message: Any, content: str) -> None:
    assert messages([message], "prompt") == [{"role": "user", "content": content}]


def test_rows_as_tables_hold_them() -> None:
    row: Any = {"prompt": HI, "completions": ["a", "b"]}
    for form in (
        pd.DataFrame([row]).to_dict("records"),
        pa.Table.from_pylist([row]).to_pylist(),
        pa.Table.from_pylist([row]).to_pandas().to_dict("records"),
        [{"prompt": pa.array(HI), "completions": pa.array(["a", "b"])}],
        [{"prompt": "Hi", "completions": ("a", "b")}],
        [{"prompt": np.array("Hi"), "completions": pd.Series(["a", "b"])}],
    ):
        assert [readable(one) for one in form] == [row]


@pytest.mark.parametrize(
    ("row", "num", "reason"),
    [
        ({"prompt": HI}, 0, "completions must be a list of texts, got nothing"),
        ({"prompt": HI, "completions": float("nan")}, 0, "a list of texts, got nan"),
        ({"prompt": HI, "completions": "ab"}, 0, "a list of texts, got str"),
        ({"prompt": HI, "completions": np.array("ab")}, 0, "a list of texts, got str"),
        ({"completions": ["a"]}, 1, "prompt must be text or a list of messages, got nothing"),
        ({"prompt": 3, "completions": ["a"]}, 1, "a list of messages, got int"),
        ({"prompt": "\ud800", "completions": ["a"]}, 1, "not valid Unicode"),
    ],
)
def test_what_is_no_row(row: Any, num: int, reason: str) -> None:
    assert num_completions(row) == num
    with pytest.raises(DataFormatError, match=reason):
        readable(row)
    bad, good = rmc.Length().score([row, {"prompt": HI, "completions": ["a b"]}])
    if "completions" in reason or "texts" in reason:
        assert bad.size == 0
    assert good.tolist() == [2]


@pytest.mark.parametrize("rows", [{"prompt": "Hi", "completions": ["a"]}, "Hi", ["Hi"], [None]])
def test_one_row_or_a_text_is_no_list_of_rows(rows: Any) -> None:
    with pytest.raises(DataFormatError, match="must be a list of objects"):
        rmc.Length().score(rows)
