from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rm_cluster.store import Folder, RewardStore, content_hash
from tests.rows import row


def measured(key: str, values: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "key": key,
        "id": "1",
        "benchmark": "b",
        "model": "m",
        "kind": "reward",
        "values": values,
        "num_tokens": [10, 20],
        "truncated": [False, False],
        "max_length": 50,
        "error": None if values else "broke",
        **changes,
    }


@pytest.fixture
def store(tmp_path: Path) -> RewardStore:
    return RewardStore(str(tmp_path), "contract")


def missing(store: RewardStore, *keys: str, max_length: int | None = 50, cut: bool = False) -> list:
    found = store.read(max_length, "left_prompt" if cut else "error")
    return [keys[i] for i in found.missing(pa.array(keys))]


def test_what_is_stored_is_found_and_nothing_else(store: RewardStore) -> None:
    assert missing(store, "a", "b") == ["a", "b"]
    store.append([measured("a", [1.0, 2.0])])
    store.append([measured("c", [3.0, 4.0])])
    assert missing(store, "a", "b", "c") == ["b"]
    found = store.read(50, "error").lookup(pa.array(["c", "b", "a"]))
    assert found["values"].to_pylist() == [[3.0, 4.0], None, [1.0, 2.0]]


def test_of_equal_prompts_the_first_is_measured(store: RewardStore) -> None:
    store.append([measured("a", [1.0, 2.0])])
    keys = pa.array(["c", "a", "b", "c", "b", "c", "a", "d"])
    assert store.read(50, "error").missing(keys).tolist() == [0, 2, 7]


def test_contracts_do_not_mix(store: RewardStore, tmp_path: Path) -> None:
    store.append([measured("a", [1.0, 2.0])])
    assert missing(RewardStore(str(tmp_path), "another"), "a") == ["a"]


def test_errors_are_kept_tried_again_and_superseded(store: RewardStore) -> None:
    store.append([measured("a")])
    assert missing(store, "a") == ["a"]
    assert store.read(50, "error").lookup(pa.array(["a"]))["error"].to_pylist() == ["broke"]
    store.append([measured("a", [1.0, 2.0])])
    assert missing(store, "a") == []
    assert store.read(50, "error").lookup(pa.array(["a"]))["error"].to_pylist() == [None]


def test_a_whole_text_serves_every_limit_that_it_fits(store: RewardStore) -> None:
    store.append([measured("a", [1.0, 2.0])])
    assert missing(store, "a", max_length=20) == []
    assert missing(store, "a", max_length=None) == []
    assert missing(store, "a", max_length=19) == ["a"]


def test_a_cut_text_serves_only_the_limit_it_was_cut_to(store: RewardStore) -> None:
    store.append([measured("a", [1.0, 2.0], num_tokens=[10, 60], truncated=[False, True])])
    assert missing(store, "a", max_length=50, cut=True) == []
    assert missing(store, "a", max_length=50) == ["a"]
    assert missing(store, "a", max_length=60, cut=True) == ["a"]


@pytest.mark.parametrize("cut", [False, True])
def test_an_error_is_told_of_this_limit_and_not_hidden_by_what_is_too_long(
    store: RewardStore, cut: bool
) -> None:
    # file names are random, and with them the order in which rows are read
    for key in "abcdefgh":
        long = {"num_tokens": [10, 900], "truncated": [False, cut]}
        store.append([measured(key, [1.0, 2.0], max_length=400 if cut else 1000, **long)])
        store.append([measured(key, None, max_length=1000, error="over 1000", **long)])
    keys = pa.array(list("abcdefgh"))
    assert missing(store, *keys.to_pylist(), max_length=400) == keys.to_pylist()
    found = store.read(400, "error").lookup(keys)
    assert found["values"].null_count == found["error"].null_count == 8, "nothing of this limit yet"
    for key in keys.to_pylist():
        store.append([measured(key, None, max_length=400, error="over 400", **long)])
    found = store.read(400, "error").lookup(keys)
    assert found["values"].null_count == 8
    assert set(found["error"].to_pylist()) == {"over 400"}


def test_half_written_files_are_not_seen(store: RewardStore, tmp_path: Path) -> None:
    store.append([measured("a", [1.0, 2.0])])
    folder = tmp_path / "rewards" / "contract"
    (folder / ".0123.partial").write_bytes(b"PAR1")
    (folder / "notes.txt").write_text("mine")
    assert missing(store, "a") == []
    assert [path.suffix for path in folder.iterdir()].count(".parquet") == 1


@pytest.mark.parametrize(
    "name", ["a/b", "..", "ü", "a b", "<x>", "%2F", "a\nb", "c:\\d", "🙂" * 200]
)
def test_any_name_is_one_folder(tmp_path: Path, name: str) -> None:
    Folder(str(tmp_path)).sub(name).write_text("file.txt", "x")
    (inside,) = tmp_path.iterdir()
    assert [path.name for path in inside.iterdir()] == ["file.txt"]
    assert Folder(str(tmp_path)).sub(name).names(".txt") == ["file.txt"]


def test_any_fsspec_url() -> None:
    folder = Folder("memory://bucket/run").sub("x")
    folder.write_table("t.parquet", pa.table({"a": [1, 2]}))
    assert folder.names() == ["t.parquet"]
    assert folder.read_table("t.parquet")["a"].to_pylist() == [1, 2]
    folder.clear()
    assert folder.names() == []


def test_content_is_what_a_reward_model_sees() -> None:
    same = content_hash(row("Hi", ["a", "b"], id=1))
    assert same == content_hash(row("Hi", ["a", "b"], id=2, domain="e", slices=["s"]))
    others = [row("Ho", ["a", "b"]), row("Hi", ["b", "a"]), row("Hi", ["ab"], pairs=[])]
    others.append(row([{"role": "system", "content": "Hi"}], ["a", "b"]))
    assert len({same, *map(content_hash, others)}) == 5
