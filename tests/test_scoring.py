from __future__ import annotations

import json
from pathlib import Path

import pytest

from rm_cluster import scoring, snapshot
from rm_cluster.config import BenchmarkConfig
from rm_cluster.store import Folder, RewardStore


@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_what_is_missing_is_found_in_every_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(snapshot, "WINDOW_ROWS", 3)
    monkeypatch.setattr(scoring, "_WINDOWS_AT_ONCE", at_once)
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(11)]
    source = tmp_path / "mine.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BenchmarkConfig.model_validate(str(source))
    taken = snapshot.take_snapshot(config, None, str(tmp_path))
    contents = taken.table()["content"].to_pylist()
    store = RewardStore(str(tmp_path), "contract")
    lost = [0, 4, 9, 10]  # of windows 0, 1 and 3; window 2 is all there
    store.append(
        {"key": contents[i], "values": [0.0, 1.0], "num_tokens": [1, 1], "truncated": [False] * 2}
        for i in range(11)
        if i not in lost
    )
    found = scoring._missing([taken], store.read(None, "error"))
    keys = [
        Folder(window.url).read_table(window.file)["content"][position].as_py()
        for window in found
        for position in window.positions
    ]
    assert keys == [contents[i] for i in lost]
    assert [window.file for window in found] == [taken.windows[w] for w in (0, 1, 3)]


def test_equal_rows_are_measured_once_in_whatever_benchmark(tmp_path: Path) -> None:
    taken = []
    for name, numbers in (("mine", [0, 1, 0, 2]), ("yours", [2, 3, 1, 3])):
        rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in numbers]
        source = tmp_path / f"{name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = BenchmarkConfig.model_validate(str(source))
        taken.append(snapshot.take_snapshot(config, None, str(tmp_path / "out")))
    store = RewardStore(str(tmp_path), "contract")
    found = scoring._missing(taken, store.read(None, "error"))
    assert [(one.benchmark, one.positions) for one in found] == [
        ("mine", [0, 1, 3]),
        ("yours", [1]),
    ]
    # what a run finds for the others is what was measured of the first
    contents = [one.table()["content"].to_pylist() for one in taken]
    asked = {contents[0][i] for i in (0, 1, 3)} | {contents[1][1]}
    assert {content for its in contents for content in its} == asked
