from __future__ import annotations

import json
from pathlib import Path

import pytest

from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError, ScoringError
from rm_cluster.snapshot import rejected_rows, rewrite_snapshot, take_snapshot


def write(file: Path, num_rows: int, broken: tuple[int, ...] = ()) -> BenchmarkConfig:
    lines = [
        "{broken" if i in broken else json.dumps({"prompt": "p", "chosen": f"{i}", "rejected": "r"})
        for i in range(num_rows)
    ]
    file.write_text("\n".join(lines) + "\n")
    return BenchmarkConfig.model_validate(str(file))


def test_rows_are_laid_down_in_windows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.snapshot.WINDOW_ROWS", 10)
    config = write(tmp_path / "mine.jsonl", 35, broken=(3, 20, 34))
    taken = take_snapshot(config, None, str(tmp_path / "out"))
    assert (taken.num_rows, taken.num_rejected, len(taken.windows)) == (32, 3, 4)
    ids = taken.table()["id"].to_pylist()
    assert ids == [f"mine:{i + 1}" for i in range(35) if i not in (3, 20, 34)]
    rejected = [
        json.loads(line) for line in rejected_rows(str(tmp_path / "out"), [taken]).splitlines()
    ]
    assert [row["line"] for row in rejected] == [4, 21, 35]
    assert {row["record"].strip() for row in rejected} == {"{broken"}


def test_long_prompts_and_many_views_of_a_row_make_more_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.snapshot.WINDOW_CHARACTERS", 1000)
    file = tmp_path / "mine.jsonl"
    record = {"prompt": "p" * 600, "chosen": "c", "rejected": "r"}
    file.write_text("".join(json.dumps(record) + "\n" for _ in range(6)))
    out = str(tmp_path / "out")
    taken = take_snapshot(BenchmarkConfig.model_validate(str(file)), None, out)
    assert (taken.num_rows, len(taken.windows)) == (6, 3)
    seen = rewrite_snapshot(taken, "m", lambda row: [row] * 4, out)
    assert (seen.num_rows, len(seen.windows)) == (24, 12)
    ids = [id for id in taken.table()["id"].to_pylist() for _ in range(4)]
    assert seen.table()["id"].to_pylist() == ids


def test_many_pairs_make_more_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_cluster.snapshot.WINDOW_CHARACTERS", 10_000)
    file = tmp_path / "mine.jsonl"
    record = {"prompt": "p", "completions": list("abcdefghijklmnop"), "labels": list(range(16))}
    file.write_text("".join(json.dumps(record) + "\n" for _ in range(6)))
    taken = take_snapshot(BenchmarkConfig.model_validate(str(file)), None, str(tmp_path / "out"))
    assert (taken.num_rows, len(taken.windows)) == (6, 3), "120 pairs each"


def test_a_snapshot_replaces_the_one_before(tmp_path: Path) -> None:
    config = write(tmp_path / "mine.jsonl", 30)
    take_snapshot(config, None, str(tmp_path / "out"))
    taken = take_snapshot(config, 5, str(tmp_path / "out"))
    assert taken.table()["id"].to_pylist() == [f"mine:{i}" for i in range(1, 6)]


@pytest.mark.parametrize("limit", [1, 9, 10, 11, 20, 100])
def test_limit_counts_rows_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("rm_cluster.snapshot.WINDOW_ROWS", 10)
    config = write(tmp_path / "mine.jsonl", 30, broken=(0, 5))
    assert take_snapshot(config, limit, str(tmp_path / "out")).num_rows == min(limit, 28)


def test_nothing_that_fits_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    config = write(tmp_path / "mine.jsonl", 3, broken=(0, 1, 2))
    with pytest.raises(DataFormatError, match=r"none of its 3 rows fits; .*mine\.jsonl:1: "):
        take_snapshot(config, None, str(tmp_path / "out"))
    # and what was set aside can still be looked at
    assert len(list((tmp_path / "out" / "rejected" / "mine").iterdir())) == 1


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="'mine' has nothing to judge: it is empty"):
        take_snapshot(write(tmp_path / "mine.jsonl", 0), None, str(tmp_path / "out"))


def test_rows_that_another_run_laid_down_are_told(tmp_path: Path) -> None:
    config = write(tmp_path / "mine.jsonl", 20)
    taken = take_snapshot(config, None, str(tmp_path / "out"))
    take_snapshot(config, 5, str(tmp_path / "out"))
    with pytest.raises(ScoringError, match=r"holds 5 rows and not 20: another run"):
        taken.table()
