"""The search job: in Python, from a shell, killed half way, and through `ray job submit`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import rm_cluster as rmc
from rm_cluster.config import CallbackConfig
from rm_cluster.errors import ConfigError
from rm_cluster.parsing import parse_config
from rm_cluster.report.search import search_page, terminal_summary
from rm_cluster.searching.tuning import build_callback
from tests.ray_head import environment, wait_until
from tests.search_pools import pool_records, write_pool
from tests.test_job import head

__all__ = ["head"]

ROOT = Path(__file__).parents[1]
JOB = [sys.executable, "jobs/search.py"]
PARAMS = ["rule", "reward_model", "ensemble", "normalize", "n", "beta"]


@pytest.fixture(scope="module")
def done(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> rmc.SearchResult:
    return rmc.search(config(tmp_path_factory.mktemp("search"), num_trials=25))


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    path = write_pool(folder / "pool.jsonl", pool_records(num_prompts=30))
    return {"pool": path, "output_dir": str(folder / "out"), **changes}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*JOB, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def assert_whole(trials: pd.DataFrame, num_trials: int) -> None:
    """As many trials as asked for, each once, plain Best-of-N the first."""
    assert len(trials) == num_trials
    assert trials["trial"].is_unique
    assert (trials["state"] == "complete").all()
    assert not trials.duplicated(PARAMS).any()
    first = trials.iloc[0]
    assert (first["trial"], first["rule"], first["reward_model"], first["n"]) == (0, "bon", "m0", 8)


@pytest.mark.ray
def test_the_folder_holds_a_whole_result(done: rmc.SearchResult) -> None:
    assert_whole(done.trials, 25)
    folder = Path(done.config.output_dir)
    names = {path.name for path in folder.iterdir()}
    tables = ("trials", "curves", "beta_curves", "choices", "hacking", "importances")
    assert {f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")} <= names
    assert {"best.json", "config.yaml", "run.json", "report.html", "study.journal"} <= names
    found = json.loads((folder / "run.json").read_text())
    assert (found["n_dev"], found["n_test"], found["n_trials"]) == (15, 15, 25)
    assert json.loads((folder / "best.json").read_text()) == done.best
    page = (folder / "report.html").read_text()
    for title in ("What the search found", "Where reward models are hacked", "Importances"):
        assert title in page


@pytest.mark.ray
def test_the_best_is_the_best_and_the_exact_optimum_is_no_worse(done: rmc.SearchResult) -> None:
    best, optimum = done.best["best"], done.best["exact_optimum"]
    assert best["dev"]["value"] == pytest.approx(done.trials["value"].max())
    assert best["trial"] == done.trials["trial"][done.trials["value"].idxmax()]
    assert done.best["regret"]["value"] >= -1e-12
    assert done.best["regret"]["value"] == pytest.approx(
        optimum["dev"]["value"] - best["dev"]["value"]
    )
    assert (best["dev"]["n"], best["test"]["n_test"]) == (15, 15)
    plain = done.best["plain_best_of_n"]
    assert plain["test"]["gain"] == 0
    line = done.trials[done.trials["trial"] == best["trial"]].iloc[0]
    assert line["gold"] == pytest.approx(best["test"]["gold"])


@pytest.mark.ray
def test_tables_say_how_many_and_how_sure(done: rmc.SearchResult) -> None:
    trials = done.trials
    assert (trials["gold_low"] <= trials["gold"]).all()
    assert (trials["gold"] <= trials["gold_high"]).all()
    assert (trials["seconds"] > 0).all()
    curves = done.curves
    exact = curves[(curves["rule"] == "bon") & (curves["reward_model"] == "m1")]
    assert exact["n"].tolist() == list(range(1, 9))
    assert (exact["proxy"].diff().dropna() >= 0).all()
    scaled = ", scaled in whole pools"
    assert set(curves["estimator"]) == {
        f"{e}{s}" for e in ("exact", "resampled") for s in ("", scaled)
    }
    assert (curves["num_prompts"] == 15).all()
    assert set(done.importances.columns) == {"parameter", "importance", "ci_low", "ci_high", "n"}
    assert done.importances["importance"].sum() == pytest.approx(1)
    assert len(search_page(done).figures) >= 5
    assert "Regret against the exact optimum" in terminal_summary(done)


@pytest.mark.ray
def test_run_again_nothing_is_tried_and_a_larger_number_extends(
    done: rmc.SearchResult, tmp_path: Path
) -> None:
    again = rmc.search(done.config)
    assert again.run["n_trials_from_storage"] == 25
    pd.testing.assert_frame_equal(again.trials, done.trials)
    extended = rmc.search({**done.config.model_dump(), "num_trials": 32})
    assert extended.run["n_trials_from_storage"] == 25
    assert_whole(extended.trials, 32)
    pd.testing.assert_frame_equal(extended.trials.head(25), done.trials)


@pytest.mark.ray
def test_another_search_in_the_same_folder_is_another_study(cluster: None, tmp_path: Path) -> None:
    small = {"space": {"rules": ["mbr"], "n": [8], "ensembles": []}}
    first = rmc.search(config(tmp_path, **small))
    # bon by two reward models, and mbr: when all is tried, the search ends
    assert len(first.trials) == 3
    assert_whole(first.trials, 3)
    other = rmc.search(config(tmp_path, num_trials=4, seed=1))
    assert other.run["n_trials_from_storage"] == 0
    assert other.run["study_name"] != first.run["study_name"]


@pytest.mark.ray
def test_two_objectives_have_a_front(cluster: None, tmp_path: Path) -> None:
    result = rmc.search(config(tmp_path, num_trials=15, objectives=["value", "tokens"]))
    assert_whole(result.trials, 15)
    front = result.trials[result.trials["trial"].isin(result.best["pareto_front"])]
    for line in front.itertuples():
        better = (result.trials["value"] > line.value) & (result.trials["tokens"] <= line.tokens)
        assert not better.any()


@pytest.mark.ray
def test_asha_stops_trials_on_fewer_prompts(cluster: None, tmp_path: Path) -> None:
    result = rmc.search(config(tmp_path, num_trials=15, scheduler="asha"))
    states = result.trials.groupby("state")["num_prompts"].agg(["min", "max"])
    assert states.loc["complete"].tolist() == [15, 15]
    assert states.loc["pruned", "max"] < 15
    # what was stopped has no part in choosing the best, and is not judged
    assert result.trials[result.trials["state"] == "pruned"]["gold"].isna().all()
    assert result.best["best"]["trial"] in set(
        result.trials[result.trials["state"] == "complete"]["trial"]
    )


@pytest.mark.ray
def test_asha_begins_with_prompts_that_stand_for_all(cluster: None, tmp_path: Path) -> None:
    records = pool_records(num_prompts=60)
    # a file that is sorted, where nothing can be told apart in the first half
    for record in records[:30]:
        record["labels"] = [0.0] * 8
    changes = {"num_trials": 12, "scheduler": "asha", "output_dir": str(tmp_path / "out")}
    result = rmc.search({"pool": write_pool(tmp_path / "pool.jsonl", records), **changes})
    pruned = result.trials[result.trials["state"] == "pruned"]
    assert pruned["value"].nunique() > 1


@pytest.mark.ray
def test_a_database_and_callbacks(cluster: None, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    changes: dict[str, Any] = {"storage": storage, "callbacks": ["tensorboard"]}
    result = rmc.search(config(tmp_path, num_trials=3, **changes))
    assert_whole(result.trials, 3)
    assert list((tmp_path / "out" / "tune").rglob("events.out.tfevents.*"))
    again = rmc.search(config(tmp_path, num_trials=4, **changes))
    assert again.run["n_trials_from_storage"] == 3


def test_a_callback_that_cannot_be_built_is_told() -> None:
    with pytest.raises(ConfigError, match="needs the package wandb, which is not installed"):
        build_callback(CallbackConfig.model_validate("wandb"))
    with pytest.raises(ConfigError, match=r"cannot build 'no.such:Class'"):
        build_callback(CallbackConfig.model_validate("no.such:Class"))
    with pytest.raises(ConfigError, match=r"'collections:OrderedDict' is no ray.tune.Callback"):
        build_callback(CallbackConfig.model_validate("collections:OrderedDict"))


def test_what_lies_where_the_job_is_started_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(tmp_path)))
    (tmp_path / "mine.py").write_text("Nothing = dict\n")
    job = [sys.executable, str(ROOT / "jobs" / "search.py"), "config.yaml"]
    done = subprocess.run(
        [*job, "callbacks=[mine:Nothing]"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("callbacks: 'mine:Nothing' is no ray.tune")


@pytest.mark.ray
def test_reward_models_are_measured_once(cluster: None, tmp_path: Path, tiny_llama: Path) -> None:
    records = [
        {k: v for k, v in r.items() if k != "rewards"} for r in pool_records(num_prompts=6, num=4)
    ]
    path = write_pool(tmp_path / "pool.jsonl", records)
    models = [{"type": "classifier", "name": "tiny", "model": str(tiny_llama)}, {"type": "length"}]
    changed = {"pool": path, "reward_models": models, "output_dir": str(tmp_path / "out")}
    result = rmc.search({**changed, "num_trials": 2})
    assert result.trials["reward_model"].dropna().isin(["tiny", "length", "ensemble"]).all()
    rewards = pd.read_parquet(tmp_path / "out" / "evaluate" / "rewards.parquet")
    expected = rmc.Classifier(model=str(tiny_llama)).score(
        [
            {"prompt": [{"role": "user", "content": r["prompt"]}], "completions": r["completions"]}
            for r in records
        ]  # type: ignore[list-item, typeddict-item]
    )
    found = rewards[rewards["reward_model"] == "tiny"]["values"].tolist()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = json.loads((tmp_path / "out" / "evaluate" / "run.json").read_text())
    assert again["reward_models"]["tiny"]["n_scored"] == 6
    rmc.search({**changed, "num_trials": 3})
    again = json.loads((tmp_path / "out" / "evaluate" / "run.json").read_text())
    assert again["reward_models"]["tiny"]["n_scored"] == 0
    models[0]["model"] = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"The search trains none: train it first"):
        rmc.search({**changed, "reward_models": models})


@pytest.mark.ray
def test_killed_and_run_again_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path, num_trials=60)))
    journal = tmp_path / "out" / "study.journal"

    def num_finished() -> int:
        # op_code 6 of the journal sets a trial's state; 1 is complete
        lines = journal.read_text().splitlines() if journal.exists() else []
        return sum('"op_code":6' in line and '"state":1' in line for line in lines)

    driver = subprocess.Popen([*JOB, str(file)], cwd=ROOT, env=environment())
    wait_until(lambda: num_finished() >= 5, "the first trials")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = num_finished()
    assert before < 60
    assert not (tmp_path / "out" / "run.json").exists()
    done = run(str(file))
    assert done.returncode == 0, done.stderr
    assert_whole(pd.read_csv(tmp_path / "out" / "trials.csv"), 60)
    counts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert counts["n_trials_from_storage"] == before


@pytest.mark.ray
def test_ray_job_submit(tmp_path: Path, head: dict[str, str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path, num_trials=5)))
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    command = [*ray, "job", "submit", "--working-dir", ".", "--", *JOB, str(file)]
    clients = {name: value for name, value in head.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=ROOT, env=clients, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Regret against the exact optimum" in done.stdout
    assert_whole(pd.read_csv(tmp_path / "out" / "trials.csv"), 5)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("num_trials=0", "num_trials is wrong"),
        ("space.rules=[rbon]", "space.rules.0 is wrong"),
        ("objectives=[tokens]", "objectives must begin with value"),
        ("space.beta.low=1000", "low < high must hold"),
        ("criteron=m0", "Did you mean 'criterion'"),
        ("output_dir=s3://bucket/run", "set storage to a database URL"),
        ("reward_models=[{type: judge, model: j}]", "write compare: round_robin"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, argument: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_config(rmc.SearchConfig, config(tmp_path), [argument])


@pytest.mark.ray
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("space.n=[64]", "64 candidates are more than the largest pool has, 8"),
        ("pool=nowhere.jsonl", "No file or folder 'nowhere.jsonl'"),
    ],
)
def test_a_users_mistake_is_told_in_two_lines(tmp_path: Path, argument: str, said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(tmp_path)))
    done = run(str(file), argument)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert said in "\n".join(done.stderr.splitlines()[-2:])
