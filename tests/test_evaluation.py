from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rm_cluster as rmc
from rm_cluster.config import EvaluateConfig
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.measurement import looked_up
from rm_cluster.store import RewardStore
from rm_cluster.types import ROW_SCHEMA, Row
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import random_rows
from tests.test_classifier import one_at_a_time

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def write_preferences(file: Path, rows: Sequence[Row]) -> Path:
    """Write rows as lists of chosen and rejected: the first completion against the others."""
    records = [
        {
            "id": row["id"],
            "domain": "abc"[int(row["id"]) % 3],
            "prompt": row["prompt"],
            "chosen": row["completions"][:1],
            "rejected": row["completions"][1:],
        }
        for row in rows
        if len(row["completions"]) > 1
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def config(output_dir: Path, data: Path, *models: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "reward_models": list(models),
        "benchmarks": [{"name": "mine", "path": str(data)}],
        "output_dir": str(output_dir),
        **more,
    }


def rewards_by_id(result: rmc.EvalResult, model: str) -> dict[str, list[float] | None]:
    table = result.rewards[result.rewards["reward_model"] == model]
    return {
        row.id: None if row.values_ is None else [float(v) for v in row.values_]
        for row in table.rename(columns={"values": "values_"}).itertuples()
    }


def byte_sum(**options: Any) -> dict[str, Any]:
    return {"type": "tests.scorers:ByteSum", "name": "sum", "options": options}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_preferences(tmp_path / "many.jsonl", random_rows(80, seed=7))


def test_rewards_equal_one_text_at_a_time_whatever_the_requests(
    tmp_path: Path, tiny_llama: Path
) -> None:
    rows = [row for row in random_rows(40, seed=1) if len(row["completions"]) > 1]
    data = write_preferences(tmp_path / "data.jsonl", rows)
    result = rmc.evaluate(
        config(
            tmp_path / "out",
            data,
            {"type": "classifier", "name": "llama", "model": str(tiny_llama),
             "tokens_per_batch": 700},
            serving={"min_replicas": 2, "max_replicas": 2},
            scoring={"tokens_per_request": 1100},
        )
    )  # fmt: skip
    expected = one_at_a_time(tiny_llama, rows)
    found = rewards_by_id(result, "llama")
    assert list(found) == [row["id"] for row in rows]
    for row, rewards in zip(rows, expected, strict=True):
        np.testing.assert_allclose(found[row["id"]], rewards, rtol=0, atol=1e-5)
    wins = [np.mean((r[0] > r[1:]) + 0.5 * (r[0] == r[1:])) * (len(r) - 1) for r in expected]
    accuracy = result.metrics.query("domain == 'overall' and metric == 'accuracy'")["value"].item()
    assert accuracy == pytest.approx(sum(wins) / sum(len(r) - 1 for r in expected))


def test_several_models_and_benchmarks_and_all_files(tmp_path: Path) -> None:
    first = write_preferences(tmp_path / "first.jsonl", random_rows(20, 1))
    second = write_preferences(tmp_path / "second.jsonl", random_rows(10, 2))
    hostile = {
        "id": "<script>alert(2)</script>",
        "prompt": "<script>alert(3)</script>",
        "chosen": "</script><script>alert(4)</script>",
        "rejected": "<img src=x onerror=alert(5)>",
    }
    with first.open("a") as stream:
        stream.write(json.dumps(hostile) + "\n{broken\n")
    settings = config(
        tmp_path / "out",
        first,
        {"type": "length"},
        {**byte_sum(), "name": "<script>alert(1)</script>"},
    )
    settings["benchmarks"].append(str(second))
    result = rmc.evaluate(settings)
    out = tmp_path / "out"
    tables = ("metrics", "leaderboard", "comparisons")
    written = {f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")}
    written |= {"config.yaml", "run.json", "report.html", "rejected_rows.jsonl", "rewards.parquet"}
    assert written <= {path.name for path in out.iterdir()}
    assert set(result.metrics["benchmark"]) == {"mine", "second"}
    (rejected,) = (out / "rejected_rows.jsonl").read_text().splitlines()
    assert json.loads(rejected)["line"] == len(first.read_text().splitlines())
    run = json.loads((out / "run.json").read_text())
    assert run["benchmarks"]["mine"]["n_rejected_rows"] == 1
    assert not run["partial"]
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "onerror=alert" not in page
    loaded = rmc.load_result(str(out))
    pd.testing.assert_frame_equal(loaded.metrics, result.metrics)
    assert loaded.config == result.config
    assert loaded.run == run


def test_a_limited_run_is_partial_and_what_is_stored_is_not_scored_again(
    tmp_path: Path, many: Path
) -> None:
    limited = rmc.evaluate(config(tmp_path / "out", many, {"type": "length"}, limit=10))
    assert limited.run["partial"]
    assert len(limited.rewards) == 10
    whole = rmc.evaluate(config(tmp_path / "out", many, {"type": "length"}))
    counts = whole.run["reward_models"]["length"]
    assert (counts["n_from_store"], counts["n_scored"]) == (10, len(whole.rewards) - 10)
    again = rmc.evaluate(str(tmp_path / "out" / "config.yaml"))
    counts = again.run["reward_models"]["length"]
    assert (counts["n_from_store"], counts["n_scored"]) == (len(whole.rewards), 0)
    pd.testing.assert_frame_equal(whole.rewards, again.rewards)
    pd.testing.assert_frame_equal(whole.metrics, again.metrics)


def test_only_what_a_new_limit_concerns_is_measured_again(tmp_path: Path, tiny_llama: Path) -> None:
    data = write_preferences(tmp_path / "data.jsonl", random_rows(30, 5))
    model = {"type": "classifier", "name": "llama", "model": str(tiny_llama)}

    def run(max_length: int) -> rmc.EvalResult:
        settings = config(tmp_path / "out", data, {**model, "max_length": max_length})
        return rmc.evaluate({**settings, "scoring": {"max_failed_fraction": 1.0}})

    whole = run(8192)
    assert whole.rewards["error"].isna().all()
    assert not any(map(any, whole.rewards["truncated"]))
    short = run(250)
    num_failed = int(short.rewards["error"].notna().sum())
    assert 0 < num_failed < len(short.rewards)
    counts = short.run["reward_models"]["llama"]
    assert counts["n_failed"] == counts["n_scored"] == num_failed
    assert short.rewards["error"].dropna().str.endswith("max_length is 250").all()
    back = run(8192)
    assert back.run["reward_models"]["llama"]["n_scored"] == 0
    pd.testing.assert_frame_equal(back.rewards, whole.rewards)


def test_a_row_that_fails_is_data_and_the_others_are_scored(tmp_path: Path) -> None:
    records = [{"prompt": "p", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
    records[7]["rejected"] = "a poison here"
    records[9]["rejected"] = "a nan here"
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = config(tmp_path / "out", data, byte_sum(fail="poison nan"))
    with pytest.raises(ScoringError, match="2 of 20 prompts failed"):
        rmc.evaluate(settings)
    result = rmc.evaluate({**settings, "scoring": {"max_failed_fraction": 0.1}})
    # the failed prompts were tried again, the others were not
    assert result.run["reward_models"]["sum"]["n_scored"] == 2
    failed = result.rewards[result.rewards["error"].notna()].set_index("id")
    assert failed["values"].isna().all()
    assert sorted(failed.index) == ["data:10", "data:8"]
    assert "cannot score poison" in failed.loc["data:8", "error"]
    assert "reward of completion 1 is nan" in failed.loc["data:10", "error"]
    overall = result.metrics.query("domain == 'overall'").iloc[0]
    assert (overall["n"], overall["n_failed"]) == (18, 2)


def test_a_killed_replica_changes_nothing(tmp_path: Path, many: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    store = tmp_path / "out" / "rewards"

    def kill_one() -> None:
        while len(list(store.rglob("*.parquet"))) < 3:
            time.sleep(0.05)
        os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    slow = byte_sum(seconds=0.2, pids=str(pids))
    settings = config(tmp_path / "out", many, slow, scoring={"tokens_per_request": 500})
    disturbed = rmc.evaluate(settings)
    killer.join()
    assert len(list(pids.iterdir())) > 1, "another replica took over"
    assert disturbed.run["reward_models"]["sum"]["n_retries"] > 0
    assert rewards_by_id(disturbed, "sum") == {
        row["id"]: [float(sum(text.encode())) for text in row["completions"]]
        for row in random_rows(80, seed=7)
        if len(row["completions"]) > 1
    }


def test_a_prompt_that_kills_replicas_is_found_and_a_row_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.scoring.MAX_TRIES", 2)
    records = [{"prompt": "p", "chosen": good, "rejected": "bad"} for good in ("good", "die")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = config(tmp_path / "out", data, byte_sum(fail="die"))
    result = rmc.evaluate({**settings, "scoring": {"max_failed_fraction": 0.5}})
    assert result.run["reward_models"]["sum"]["n_failed"] == 1
    failed = result.rewards[result.rewards["error"].notna()]
    assert failed["id"].tolist() == ["data:2"]
    assert failed["error"].item().startswith("2 replicas died with it: ActorDiedError")
    assert result.run["reward_models"]["sum"]["n_retries"] == 3, "once together and twice alone"


def test_replicas_that_keep_dying_end_the_run_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.scoring.MAX_TRIES", 1)
    records = [{"prompt": f"p{i}", "chosen": "die", "rejected": "b"} for i in range(5)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = config(tmp_path / "out", data, byte_sum(fail="die"))
    with pytest.raises(ScoringError, match="failed 1 times"):
        rmc.evaluate({**settings, "scoring": {"tokens_per_request": 1}})


def test_answers_that_went_astray_are_told(tmp_path: Path) -> None:
    run = EvaluateConfig.model_validate(config(tmp_path, tmp_path / "none.jsonl", byte_sum()))
    store = RewardStore(str(tmp_path), "contract")
    known = {"key": "a", "id": "1", "benchmark": "mine", "model": "sum", "error": "broken"}
    store.append([known])
    stored = store.read(None, "error")
    content = pa.array(["a", "b", "c"])
    assert len(looked_up(stored, content.slice(0, 1), "sum", run)) == 1
    with pytest.raises(ScoringError, match=r"sum: 2 prompts were answered.* every node"):
        looked_up(stored, content, "sum", run)


def test_a_replica_that_lost_its_gpu_is_replaced(tmp_path: Path) -> None:
    records = [{"prompt": "p", "chosen": f"lost {i}", "rejected": f"bad {i}"} for i in range(20)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = rmc.evaluate(config(tmp_path / "out", data, byte_sum(fail="lost", pids=str(tmp_path))))
    assert (tmp_path / "lost").exists()
    assert result.rewards["error"].isna().all()
    assert result.run["reward_models"]["sum"]["n_retries"] >= 1


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        ("load", "sum cannot be loaded: RuntimeError: no memory"),
        ("weights", "sum lacks a head"),
    ],
)
def test_whatever_keeps_a_model_from_loading_is_told(
    tmp_path: Path, many: Path, fail: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        rmc.evaluate(config(tmp_path / "out", many, byte_sum(fail=fail)))


@pytest.mark.parametrize(
    ("serving", "reason"),
    [
        ({"num_gpus": 1}, "cannot get more"),
        ({"num_cpus": 64}, "need 64.35 CPUs, but the cluster has 2"),
        ({"num_cpus": 1, "min_replicas": 2}, "2 replicas and Ray Data need 2.35 CPUs"),
        ({"autoscaling": {"upscale_dealy_s": 1}}, "no 'upscale_dealy_s'"),
        ({"autoscaling": {"upscale_delay_s": -1}}, "upscale_delay_s"),
    ],
)
def test_what_the_cluster_cannot_give(
    tmp_path: Path, many: Path, serving: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        rmc.evaluate(config(tmp_path / "out", many, {"type": "length"}, serving=serving))


def test_load_benchmark_is_a_dataset_of_rows(many: Path) -> None:
    rows = rmc.load_benchmark(str(many), limit=5)
    assert rows.schema().names == ROW_SCHEMA.names
    taken = rows.take_all()
    assert len(taken) == 5
    assert taken[0]["benchmark"] == "many"


def test_log_probs_through_the_cluster_equal_those_in_process(tmp_path: Path) -> None:
    folder = save_family("Qwen3", tmp_path / "lm", tokenizer(), CAUSAL)
    rows = [row for row in random_rows(20, 3) if len(row["completions"]) > 1]
    data = write_preferences(tmp_path / "data.jsonl", rows)
    model = {"type": "logprob", "name": "lm", "model": str(folder)}
    result = rmc.evaluate(config(tmp_path / "out", data, model))
    found = rewards_by_id(result, "lm")
    expected = rmc.Logprob(model=str(folder)).score(rows)
    for row, sums in zip(rows, expected, strict=True):
        np.testing.assert_allclose(found[row["id"]], sums, rtol=0, atol=1e-4)
    contract = result.run["reward_models"]["lm"]["contract"]
    assert contract["batching"] == "packed, prefixes shared"
    again = rmc.evaluate(config(tmp_path / "out", data, model))
    assert again.run["reward_models"]["lm"]["n_scored"] == 0
