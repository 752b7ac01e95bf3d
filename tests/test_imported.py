from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rm_cluster.benchmarks import read_rows
from rm_cluster.config import BenchmarkConfig, ImportedConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.imported import Scores, find_score_files, import_scores
from rm_cluster.store import WINDOW_SCHEMA
from rm_cluster.types import Row
from tests.ppe_data import NUM_SAMPLES, human_records, sample_records, write_ppe

PPE = BenchmarkConfig(name="ppe", type="ppe", path="unused")
ARCHIVE = {
    "human_preference": "human_preference_v1",
    "MMLU-Pro": "mmlu_pro_best_of_k",
    "MATH": "math_best_of_k",
    "GPQA": "gpqa_best_of_k",
    "MBPP-Plus": "mbpp_plus_best_of_k",
    "IFEval": "ifeval_best_of_k",
}
NAME = "Skywork-Reward-Llama-3.1-8B"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = write_ppe(tmp_path_factory.mktemp("ppe"), num_battles=30, num_prompts=6)
    return list(read_rows(PPE.model_copy(update={"path": str(folder)})))


def table(rows: list[Row]) -> pa.Table:
    counted = [{**row, "num_completions": len(row["completions"]), "content": ""} for row in rows]
    return pa.Table.from_pylist(counted, schema=WINDOW_SCHEMA)


def imported(path: Path, rows: list[Row], name: str = NAME, benchmark: Any = PPE) -> Scores:
    return import_scores(ImportedConfig(path=str(path), name=name), benchmark, table(rows))


def score(text: str) -> float:
    return sum(text.encode()) / 100


def archive_records(domain: str) -> list[dict[str, Any]]:
    """What the official archive holds of a reward model that sums bytes."""
    if domain == "human_preference":
        return [
            {
                "question_id": record["question_id"],
                "score_1": [score(record["response_1"])],
                "score_2": score(record["response_2"]),
            }
            for record in human_records(30, 5, 0)
        ]
    number = list(ARCHIVE).index(domain)
    return [
        {
            "question_id": record["question_id"],
            "model_name": record["model_name"],
            "sampled_conflict_pairs": record["sampled_conflict_pairs"],
            **{f"score_{k}": score(record[f"response_{k}"]) for k in range(1, NUM_SAMPLES + 1)},
        }
        for record in sample_records(6, number)
    ]


def write_archive(folder: Path) -> Path:
    for domain, name in ARCHIVE.items():
        (folder / "data" / name).mkdir(parents=True)
        for model in (NAME, "Another-RM"):
            records = archive_records(domain) if model == NAME else []
            (folder / "data" / name / f"{model}.json").write_text(json.dumps(records))
    return folder


def expected(rows: list[Row]) -> list[list[float]]:
    return [[score(text) for text in row["completions"]] for row in rows]


def test_the_official_archive_is_read_by_reward_model(tmp_path: Path, rows: list[Row]) -> None:
    found = imported(write_archive(tmp_path), rows)
    assert found.table["values"].to_pylist() == expected(rows)
    assert found.num_records == len(rows) == 30 + 5 * 6
    assert found.num_unmatched == 0
    assert found.table["error"].null_count == len(rows)


def test_the_archive_may_stay_zipped(tmp_path: Path, rows: list[Row]) -> None:
    folder = write_archive(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in folder.rglob("*.json"):
            archive.write(file, file.relative_to(folder))
    found = imported(tmp_path / "data.zip", rows)
    assert found.table["values"].to_pylist() == expected(rows)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "long.csv"])
def test_plain_tables_by_id(tmp_path: Path, rows: list[Row], kind: str) -> None:
    file = tmp_path / f"scores.{kind}"
    records = [
        {"id": row["id"], **{f"score_{k}": v for k, v in enumerate(values, start=1)}}
        for row, values in zip(rows, expected(rows), strict=True)
    ]
    if kind == "long.csv":
        records = [
            {"id": row["id"], "completion": k, "reward": v}
            for row, values in zip(rows, expected(rows), strict=True)
            for k, v in enumerate(values)
        ]
    frame = pd.DataFrame(records).sample(frac=1, random_state=0)  # any order will do
    if kind == "parquet":
        frame.to_parquet(file)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False)
    found = imported(file, rows)
    for values, wanted in zip(found.table["values"].to_pylist(), expected(rows), strict=True):
        np.testing.assert_allclose(values, wanted)


def test_scores_that_failed_are_nan_and_a_row_without_any_has_failed(
    tmp_path: Path, rows: list[Row]
) -> None:
    chosen = [row for row in rows if row["domain"] == "MATH"][:3]
    records = [
        {"id": chosen[0]["id"], "values": [1.0, "$ERROR$", None, [2.0], 3, 4, 5, 6]},
        {"id": chosen[1]["id"], "values": ["$ERROR$"] * NUM_SAMPLES},
        {"id": "nobody", "values": [1.0]},
    ]
    (tmp_path / "s.json").write_text(json.dumps(records))
    found = imported(tmp_path / "s.json", chosen)
    values = found.table["values"].to_pylist()
    np.testing.assert_array_equal(values[0], [1, np.nan, np.nan, 2, 3, 4, 5, 6])
    assert values[1:] == [None, None]
    errors = found.table["error"].to_pylist()
    assert errors[:2] == [None, "scoring failed"]
    assert "no score for this prompt" in errors[2]
    assert found.num_unmatched == 1


def test_other_benchmarks_need_every_completion(tmp_path: Path, rows: list[Row]) -> None:
    chosen = [row for row in rows if row["domain"] == "MATH"][:1]
    (tmp_path / "s.json").write_text(
        json.dumps([{"id": chosen[0]["id"], "values": [1, 2, None, 4, 5, 6, 7, 8]}])
    )
    mine = BenchmarkConfig(name="mine", type="preferences", path="unused")
    found = imported(tmp_path / "s.json", chosen, benchmark=mine)
    assert found.table["error"].to_pylist() == ["1 of 8 completions have no score"]


def test_a_judge_of_pairs_has_margins(tmp_path: Path, rows: list[Row]) -> None:
    (row,) = [row for row in rows if row["domain"] == "MATH"][:1]
    listed = json.loads(row["metadata"] or "")["sampled_conflict_pairs"]
    records = [
        {
            "benchmark": "math_best_of_k",
            "uid": f"0+{position}",
            "model_name": "generator/a",
            # the side with the lower position wins, the last pair could not be judged
            "score_1": "$ERROR$" if position == 4 else float(pair[0] < pair[1]),
            "score_2": float(pair[1] < pair[0]),
        }
        for position, pair in enumerate(listed)
    ]
    (tmp_path / "judge.json").write_text(json.dumps(records))
    found = imported(tmp_path / "judge.json", [row], name="judge")
    assert np.isnan(found.table["values"][0].as_py()).all()
    wanted = [1.0 if p["chosen"] < p["rejected"] else -1.0 for p in row["pairs"][:4]]
    assert found.table["margins"][0].as_py()[:4] == wanted
    assert np.isnan(found.table["margins"][0].as_py()[4])


def test_records_of_other_reward_models_and_benchmarks_are_passed_by(
    tmp_path: Path, rows: list[Row]
) -> None:
    (row,) = [row for row in rows if row["domain"] == "human_preference"][:1]
    records = [
        {"reward_model": NAME, "benchmark": "ppe", "id": row["id"], "values": [1.0, 2.0]},
        {"reward_model": "other", "benchmark": "ppe", "id": row["id"], "values": [3.0, 4.0]},
        {"reward_model": NAME, "benchmark": "rm-bench", "id": row["id"], "values": [5.0, 6.0]},
    ]
    pd.DataFrame(records).to_parquet(tmp_path / "rewards.parquet")
    found = imported(tmp_path / "rewards.parquet", [row])
    assert found.table["values"].to_pylist() == [[1.0, 2.0]]
    assert found.num_records == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x", "reward": 1}, "no scores: wanted `values`"),
        ({"id": "x", "score_1": "high"}, "a score must be a number, got 'high'"),
        ({"id": "x", "values": "1 2"}, "values must be a list"),
        ({"id": "x", "values": 3}, "values must be a list, got int"),
        ({"question_id": 1, "score_1": 3}, "neither the file's name nor a column"),
    ],
)
def test_a_record_that_cannot_be_understood_is_told_with_its_place(
    tmp_path: Path, rows: list[Row], record: dict[str, Any], message: str
) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataFormatError, match=message) as caught:
        imported(tmp_path / "s.jsonl", rows)
    assert f"{tmp_path}/s.jsonl:1: " in str(caught.value)


def test_more_scores_than_completions_are_an_error_of_the_row(
    tmp_path: Path, rows: list[Row]
) -> None:
    (row,) = [row for row in rows if row["domain"] == "human_preference"][:1]
    (tmp_path / "s.json").write_text(json.dumps([{"id": row["id"], "values": [1, 2, 3]}]))
    found = imported(tmp_path / "s.json", [row])
    assert "more than the 2 completions" in found.table["error"][0].as_py()


def test_a_path_that_is_not_there_is_told() -> None:
    with pytest.raises(DataFormatError, match="No file or folder"):
        find_score_files(ImportedConfig(path="nowhere/scores", name="x"))


def test_our_own_rewards_keep_what_stands_beside_them(tmp_path: Path, rows: list[Row]) -> None:
    first, second = [row for row in rows if row["domain"] == "human_preference"][:2]
    records = [
        {"id": first["id"], "values": [1.0, 2.0], "truncated": [True, False],
         "num_tokens": [9, 3], "error": "", "margins": None},
        {"id": second["id"], "values": [None, None], "truncated": [False, False],
         "num_tokens": None, "error": "1 of 2 questions failed", "margins": [0.5]},
    ]  # fmt: skip
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    one, other = imported(tmp_path / "s.jsonl", [first, second]).table.to_pylist()
    assert (one["truncated"], one["num_tokens"], one["error"]) == ([True, False], [9, 3], None)
    assert other["margins"] == [0.5]
    assert other["error"] == "1 of 2 questions failed"


def test_scores_of_other_models_alone_are_told(tmp_path: Path, rows: list[Row]) -> None:
    record = {"reward_model": "skywork", "id": rows[0]["id"], "values": [1.0, 2.0]}
    (tmp_path / "rewards.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataFormatError, match=r"no scores of 'ours', but of skywork; set `name`"):
        imported(tmp_path / "rewards.jsonl", rows, name="ours")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{"id": "a", "completion": 0, "reward": 1}, {"id": "a", "completion": 0, "reward": 2}],
            r":2: a second score of completion 0 of 'a'",
        ),
        ([{"id": "a", "completion": 0.5, "reward": 1}], r"must be a whole number from 0, got 0.5"),
    ],
)
def test_a_completion_has_one_score(
    tmp_path: Path, rows: list[Row], records: list[dict[str, Any]], message: str
) -> None:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(DataFormatError, match=message):
        imported(tmp_path / "s.jsonl", rows)


@pytest.mark.parametrize("name", ["id", "prompt_id", "question_id", "uid"])
def test_ones_own_preferences_are_found_by_any_id(tmp_path: Path, name: str) -> None:
    record = {name: "q7", "prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"})
        + "\n" + json.dumps(record))  # fmt: skip
    mine = BenchmarkConfig(name="mine", type="preferences", path=str(tmp_path / "mine.jsonl"))
    its = list(read_rows(mine))
    (tmp_path / "s.jsonl").write_text(json.dumps({name: "q7", "score_1": 3, "score_2": 1}))
    found = imported(tmp_path / "s.jsonl", its, benchmark=mine)
    assert found.table["values"].to_pylist() == [None, [3.0, 1.0]]
    judged = {"uid": "q7+0", "score_1": 3, "score_2": 1}
    (tmp_path / "s.jsonl").write_text(json.dumps(judged))
    found = imported(tmp_path / "s.jsonl", its, benchmark=mine)
    assert found.table["margins"].to_pylist() == [None, [2.0]]


@pytest.mark.parametrize(
    ("kept", "records", "wanted"),
    [
        ("abc", "abc", [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]),
        ("ac", "abc", [None, None]),  # the second was set aside among the rows
        ("abc", "ac", [None, None, None]),  # and here among the scores
    ],
)
def test_ids_that_repeat_are_matched_where_there_are_as_many_rows_as_scores(
    tmp_path: Path, kept: str, records: str, wanted: list[list[float] | None]
) -> None:
    lines = [
        {"id": "x", "prompt": "p", "chosen": text if text in kept else 1, "rejected": "r"}
        for text in "abc"
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mine = BenchmarkConfig(name="mine", type="preferences", path=str(file))
    its = [row for row in read_rows(mine) if isinstance(row, dict)]
    scores = [{"id": "x", "values": ["abc".index(text) + 1.0, 0.0]} for text in records]
    (tmp_path / "s.json").write_text(json.dumps(scores))
    found = imported(tmp_path / "s.json", its, benchmark=mine)
    assert found.table["values"].to_pylist() == wanted
    if len(kept) != len(records):
        (error,) = set(found.table["error"].to_pylist())
        assert error.startswith(f"{len(records)} scores for the id 'x', which {len(kept)} rows")


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"num_tokens": [3, 0.5]}, "num_tokens must be a whole number"),
        ({"num_tokens": [3, -1]}, "num_tokens must be a whole number"),
        ({"num_tokens": [3, {}]}, "num_tokens must be a finite number, got dict"),
        ({"error": "\ud800"}, "error is not valid Unicode"),
    ],
)
def test_what_stands_beside_scores_is_told_where_it_cannot_be_kept(
    tmp_path: Path, rows: list[Row], beside: dict[str, Any], message: str
) -> None:
    record = {"id": rows[0]["id"], "values": [1.0, 2.0], **beside}
    (tmp_path / "s.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataFormatError, match=message):
        imported(tmp_path / "s.jsonl", rows)


def test_a_count_of_tokens_that_is_no_list_is_of_no_concern(
    tmp_path: Path, rows: list[Row]
) -> None:
    (row,) = [row for row in rows if row["domain"] == "human_preference"][:1]
    record = {"id": row["id"], "score_1": 1.0, "score_2": 2.0, "num_tokens": 7, "truncated": False}
    (tmp_path / "s.jsonl").write_text(json.dumps(record))
    assert imported(tmp_path / "s.jsonl", [row]).table["values"].to_pylist() == [[1.0, 2.0]]


def test_the_folder_of_a_run_is_its_rewards(tmp_path: Path, rows: list[Row]) -> None:
    (row,) = [row for row in rows if row["domain"] == "human_preference"][:1]
    record = {"reward_model": NAME, "benchmark": "ppe", "id": row["id"], "values": [1.0, 2.0]}
    pd.DataFrame([record]).to_parquet(tmp_path / "rewards.parquet")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "leaderboard.csv").write_text("benchmark,value\nppe,0.5\n")
    assert imported(tmp_path, [row]).table["values"].to_pylist() == [[1.0, 2.0]]


def test_a_runs_store_says_whose_its_rewards_are(tmp_path: Path, rows: list[Row]) -> None:
    (row,) = [row for row in rows if row["domain"] == "human_preference"][:1]
    records = [
        {"key": f"k{i}", "kind": "x", "id": row["id"], "benchmark": "ppe", "model": name,
         "values": [float(i), 2.0]}
        for i, name in enumerate(("ours", "theirs"))
    ]  # fmt: skip
    pd.DataFrame(records).to_parquet(tmp_path / "store.parquet")
    found = imported(tmp_path / "store.parquet", [row], name="theirs")
    assert found.table["values"].to_pylist() == [[1.0, 2.0]]
    with pytest.raises(DataFormatError, match="but of ours, theirs"):
        imported(tmp_path / "store.parquet", [row], name="nobody")
