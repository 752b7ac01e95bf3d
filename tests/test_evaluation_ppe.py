from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import rm_cluster as rmc
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.report.terminal import summary
from tests.ppe_data import write_ppe
from tests.test_evaluation import byte_sum

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_imported_scores_have_the_same_metrics_as_the_run_that_made_them(tmp_path: Path) -> None:
    data = write_ppe(tmp_path / "ppe", num_battles=120, num_prompts=10)
    settings = {
        "reward_models": [{"type": "length"}, byte_sum()],
        "benchmarks": [{"name": "ppe", "path": str(data)}],
        "output_dir": str(tmp_path / "run"),
    }
    ran = rmc.evaluate(settings)
    source = str(tmp_path / "run" / "rewards.parquet")
    again = rmc.evaluate(
        settings
        | {
            "reward_models": [
                {"type": "imported", "path": source, "name": name} for name in ("length", "sum")
            ],
            "output_dir": str(tmp_path / "again"),
        }
    )
    for name in ("metrics", "comparisons", "best_of_k"):
        pd.testing.assert_frame_equal(getattr(ran, name), getattr(again, name))
    assert again.run["reward_models"]["sum"]["n_imported_records"] == 120 + 5 * 10
    boards = again.leaderboard()
    assert boards[["domain", "rank"]].values.tolist() == [
        ["overall", 1], ["overall", 2], ["mean", 1], ["mean", 2],
    ]  # fmt: skip
    loaded = rmc.load_result(str(tmp_path / "again"))
    pd.testing.assert_frame_equal(loaded.best_of_k, again.best_of_k)


def test_metrics_are_correlated_with_outcomes(tmp_path: Path) -> None:
    data = write_ppe(tmp_path / "ppe", num_battles=120, num_prompts=10)
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("reward_model,outcome,value\nlength,gold,0.5\nsum,gold,0.7\nx,gold,0.1\n")
    result = rmc.evaluate(
        {
            "reward_models": [{"type": "length"}, byte_sum()],
            "benchmarks": [{"name": "ppe", "path": str(data)}],
            "downstream": str(outcomes),
            "output_dir": str(tmp_path / "run"),
        }
    )
    assert result.correlations is not None
    counted = result.correlations.set_index(["domain", "metric"])["n"]
    assert counted["overall", "accuracy"] == counted["mean", "loss"] == 2
    assert result.correlations["pearson"].isna().all()  # two points say nothing
    loaded = rmc.load_result(str(tmp_path / "run"))
    assert loaded.outcomes is not None
    assert len(loaded.outcomes) == 3


def test_outcomes_that_cannot_be_read_are_told_before_anything_runs(tmp_path: Path) -> None:
    settings = {
        "reward_models": [{"type": "length"}],
        "benchmarks": [{"name": "ppe", "path": str(write_ppe(tmp_path / "ppe"))}],
        "downstream": "nowhere.csv",
        "output_dir": str(tmp_path / "out"),
    }
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        rmc.evaluate(settings)
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("reward_model,outcome,value\nfoo,gold,0.5\nbar,gold,0.7\n")
    with pytest.raises(DataFormatError, match=r"no outcome of any reward model.*of foo, bar"):
        rmc.evaluate({**settings, "downstream": str(outcomes)})
    assert not (tmp_path / "out" / "rows").exists()


def test_a_judge_of_pairs_is_said_to_be_one(tmp_path: Path) -> None:
    data = write_ppe(tmp_path / "ppe", num_battles=60, num_prompts=6)
    verdicts = [
        {"benchmark": domain, "uid": f"{question}+{position}", "model_name": f"generator/{name}",
         "score_1": float(position % 2), "score_2": 0.5}
        for domain in ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
        for question in range(3)
        for name in "ab"
        for position in range(5)
    ]  # fmt: skip
    verdicts += [
        {"question_id": f"q{i // 2}", "benchmark": "human_preference_v1", "score_1": 1.0,
         "score_2": 0.0}
        for i in range(60)
    ]  # fmt: skip
    (tmp_path / "judge.json").write_text(json.dumps(verdicts))
    result = rmc.evaluate(
        {
            "reward_models": [{"type": "imported", "name": "judge",
                               "path": str(tmp_path / "judge.json")}],
            "benchmarks": [{"name": "ppe", "path": str(data)}],
            "output_dir": str(tmp_path / "out"),
        }
    )  # fmt: skip
    assert result.judges_of_pairs() == {"ppe": ["judge"]}
    assert result.metrics["n_failed"].eq(0).all()
    found = result.metrics.set_index(["domain", "metric"])["n"]
    assert found["mean", "accuracy"] == 5 * 6 * 5
    assert found["overall", "kendall"] == 60
    assert ("mean", "roc_auc") not in found
    assert "judge only compared pairs" in summary(result)
    assert "judge only compared pairs" in (tmp_path / "out" / "report.html").read_text()
