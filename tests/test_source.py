from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.benchmarks.source import Place, Unreadable, find_files, read_hub, read_records
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError

RECORDS = [{"prompt": f"p{i}", "chosen": f"yes, {i}", "rejected": 'no\n"really"'} for i in range(5)]


def write(folder: Path, kind: str) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    file = folder / f"mine{kind}"
    match kind:
        case ".jsonl" | ".ndjson":
            file.write_text(lines)
        case ".lines.json":
            file.write_text(lines)
        case ".json":
            file.write_text("\ufeff" + json.dumps(RECORDS))
        case ".jsonl.gz":
            file.write_bytes(gzip.compress(lines.encode()))
        case ".parquet":
            pd.DataFrame(RECORDS).to_parquet(file)
        case ".csv":
            pd.DataFrame(RECORDS).to_csv(file, index=False)
        case ".tsv":
            pd.DataFrame(RECORDS).to_csv(file, index=False, sep="\t")
    return file


KINDS = (".jsonl", ".ndjson", ".json", ".lines.json", ".jsonl.gz", ".parquet", ".csv", ".tsv")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    (file,) = find_files(str(write(tmp_path, kind)))
    if kind == ".json":
        # a byte order mark before a list
        assert Path(file.removeprefix("file://")).read_bytes()[:3] == b"\xef\xbb\xbf"
    assert [record for _, record in read_records(file)] == RECORDS


def test_any_fsspec_url() -> None:
    with fsspec.open("memory://bucket/mine.jsonl", "w") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in RECORDS)
    rows = list(read_rows(BenchmarkConfig.model_validate("memory://bucket/mine.jsonl")))
    assert [row["prompt"][0]["content"] for row in rows] == [f"p{i}" for i in range(5)]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "notes.md"):
        (tmp_path / name).write_text(json.dumps({**RECORDS[0], "prompt": name}) + "\n")
    rows = list(read_rows(BenchmarkConfig.model_validate(str(tmp_path))))
    assert [row["prompt"][0]["content"] for row in rows] == ["a.jsonl", "b.jsonl"]


def test_csv_cells_may_hold_lists_and_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]
    file = tmp_path / "mine.csv"
    frame = pd.DataFrame([{"messages": json.dumps(messages)}])
    frame.to_csv(file, index=False)
    (row,) = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert row["completions"] == ["a"]


def test_csv_can_hold_a_pool(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    pool = {"prompt": "[1, 2]", "completions": '["a", "b"]', "labels": "[0.5, 1]"}
    pd.DataFrame([pool]).to_csv(file, index=False)
    (row,) = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert row["prompt"][0]["content"] == "[1, 2]"
    assert row["labels"] == [0.5, 1.0]
    pd.DataFrame([{"prompt": "p", "completion": "a", "label": False}]).to_csv(file, index=False)
    (unpaired,) = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert unpaired["labels"] == [0.0]


def test_lines_that_are_no_records_keep_their_place(tmp_path: Path) -> None:
    good = json.dumps(RECORDS[0]).encode()
    lines = [good, b"{broken", b"", b"[1, 2]", b"\xff\xfe", b"null", b"[" * 100_000, good]
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b"\n".join(lines))
    rows = list(read_rows(BenchmarkConfig.model_validate(str(file))))
    rejected = [row for row in rows if isinstance(row, RejectedRow)]
    assert [row.line for row in rejected] == [2, 4, 5, 6, 7]
    assert all(row.file == str(file) and row.reason for row in rejected)
    assert rejected[0].record == "{broken\n"
    assert len(rows) == 7


def test_csv_rows_of_another_width_are_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("prompt,chosen,rejected\nHi,a,b\nHi,a\nHi,a,b,c\nHo,a,b\n")
    found = list(read_records(str(file)))
    assert [isinstance(record, Unreadable) for _, record in found] == [False, True, True, False]
    assert [place.line for place, _ in found] == [2, 3, 4, 5]


def test_csv_rows_with_a_stray_quote_are_set_aside_or_end_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    rows = [f"p{i},c{i},r{i}\n" for i in range(9)]
    rows[4] = 'p4,"c4" she said,r4\n'
    file.write_text("prompt,chosen,rejected\n" + "".join(rows))
    read = list(read_rows(BenchmarkConfig.model_validate(str(file))))
    rejected = [row for row in read if isinstance(row, RejectedRow)]
    assert (len(read), [row.line for row in rejected]) == (9, [6])
    rows[4] = 'p4,"c4 she said,r4\n'
    file.write_text("prompt,chosen,rejected\n" + "".join(rows))
    with pytest.raises(DataFormatError, match="a quote that opens after line 5 is never closed"):
        list(read_rows(BenchmarkConfig.model_validate(str(file))))


def test_csv_cells_may_hold_what_pandas_writes_of_lists(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    turns = [{"role": "user", "content": 'It\'s "me"'}, {"role": "assistant", "content": "a\n"}]
    frame = pd.DataFrame([{"messages": turns}])
    frame.to_csv(file, index=False)
    (row,) = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert row["completions"] == ["a\n"]
    pool = {"prompt": "['a'], ['b']", "completions": ["it's", "b"], "labels": [0.5, 1]}
    pd.DataFrame([pool]).to_csv(file, index=False)
    (row,) = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert (row["prompt"][0]["content"], row["completions"]) == ("['a'], ['b']", ["it's", "b"])
    # arrays, as they come out of parquet, are printed without commas
    frame = pd.DataFrame([{"messages": np.array(turns)}, {"messages": json.dumps(turns)}])
    frame.to_csv(file, index=False)
    broken, row = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert isinstance(broken, RejectedRow)
    assert "messages as Python prints them" in broken.reason
    assert row["completions"] == ["a\n"]


def test_what_editors_keep_is_no_data_and_endings_may_be_capitals(tmp_path: Path) -> None:
    hidden = tmp_path / ".ipynb_checkpoints"
    hidden.mkdir()
    for file in (tmp_path / "A.JSONL", hidden / "a-checkpoint.jsonl"):
        file.write_text(json.dumps(RECORDS[0]) + "\n")
    assert len(list(read_rows(BenchmarkConfig.model_validate(str(tmp_path))))) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.parquet", b"not parquet at all"),
        ("mine.parquet", b"PAR1 but no more PAR1"),
        ("mine.json", b"[1, 2"),
        ("mine.csv", "prompt,chosen,rejected\nÜ,a,b\n".encode("utf-16")),
        ("mine.json", b"[" * 100_000),
        ("mine.json", b"[\xff\xfe]"),
        ("mine.jsonl.gz", b"not gzip"),
        ("mine.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 10_000, mtime=0)[:-20]),
        ("mine.jsonl.xz", b"not xz"),
        ("mine.jsonl.bz2", b"not bz2"),
    ],
)
def test_a_file_that_is_not_what_it_says(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataFormatError, match=name) as caught:
        list(read_records(str(file)))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.jsonl", "No file or folder"),
        ("rm_bench", "Did you mean 'rm-bench'"),
        ("notes.md", "no known ending"),
        ("empty", "No data file"),
        ("nosuch://bucket/x.jsonl", "Cannot open"),
    ],
)
def test_a_path_that_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFormatError, match=said):
        find_files(name)


def test_a_split_is_a_word_in_the_path_below_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "train of thought"
    for name in ("data/train-00000-of-00001", "data/test-00000-of-00001", "latest_train", "test"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder, ".jsonl").rename(folder / f"{name}.jsonl")
    (folder / "data" / "TEST").mkdir()
    write(folder / "data" / "TEST", ".csv")

    def names(split: str | None) -> list[str]:
        return [file.rsplit("thought/", 1)[-1] for file in find_files(str(folder), split)]

    tests = ["data/TEST/mine.csv", "data/test-00000-of-00001.jsonl", "test.jsonl"]
    assert names("test") == tests
    assert names("train") == ["data/train-00000-of-00001.jsonl", "latest_train.jsonl"]
    assert len(names(None)) == 5
    with pytest.raises(DataFormatError, match=r"No file of the split 'dev' in .*has mine.csv, te"):
        find_files(str(folder), "dev")
    only = str(folder / "test.jsonl")
    assert find_files(only, "test") == find_files(only)
    with pytest.raises(DataFormatError, match="split 'train'"):
        find_files(only, "train")
    rows = read_rows(BenchmarkConfig(name="mine", type="preferences", path=only, split="test"))
    assert len(list(rows)) == len(RECORDS)


def test_a_data_set_loads_as_datasets_does(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl")
    assert [record for _, record in read_hub(str(tmp_path), "train")] == RECORDS
    with pytest.raises(DataFormatError, match=r"Cannot load .*from the hub"):
        list(read_hub(str(tmp_path), "test"))


def test_ids_are_unique_whatever_the_source_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    ids = ["a", "a#2", "a", "a", "b", "", None]
    file.write_text("".join(json.dumps({**RECORDS[0], "id": id}) + "\n" for id in ids))
    rows = list(read_rows(BenchmarkConfig.model_validate(str(file))))
    assert [row["id"] for row in rows] == ["a", "a#2", "a#3", "a#4", "b", "mine:6", "mine:7"]


def test_place_names_the_file() -> None:
    assert Place("/data/chat_filtered.json.gz", 1).stem == "chat_filtered"
