"""The correlate job: from files to files, in Python and from a shell."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rm_cluster import published
from rm_cluster.correlation import CorrelationResult, correlate_files, published_config
from rm_cluster.downstream import correlate, read_metrics, read_outcomes
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.report.correlation_terminal import summary
from tests.test_correlation import metrics_of, outcomes_of

ROOT = Path(__file__).parents[1]
FIVE = {"d": [0.1, 0.4, 0.3, 0.2, 0.6], "e": [0.5, 0.1, 0.2, 0.3, 0.3]}


@pytest.fixture(scope="module")
def of_published(tmp_path_factory: pytest.TempPathFactory) -> CorrelationResult:
    output_dir = str(tmp_path_factory.mktemp("published"))
    return correlate_files({**published_config(), "output_dir": output_dir})


def write_files(folder: Path) -> dict[str, object]:
    metrics_of(FIVE).to_csv(folder / "metrics.csv", index=False)
    outcomes_of([1.0, 2.0, 3.0, 4.0, 5.0]).to_csv(folder / "outcomes.csv", index=False)
    return {
        "metrics": [str(folder)],
        "downstream": str(folder / "outcomes.csv"),
        "output_dir": str(folder / "out"),
    }


def test_files_give_what_tables_give(tmp_path: Path) -> None:
    found = correlate_files(write_files(tmp_path))
    expected = correlate(metrics_of(FIVE), outcomes_of([1.0, 2.0, 3.0, 4.0, 5.0]))
    pd.testing.assert_frame_equal(found.correlations, expected)
    written = pd.read_parquet(tmp_path / "out" / "correlations.parquet")
    pd.testing.assert_frame_equal(written, expected)
    assert found.base_models is None
    assert found.published is None


def test_the_folder_holds_a_whole_result(tmp_path: Path) -> None:
    correlate_files(write_files(tmp_path))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"correlations.csv", "correlations.parquet", "quantiles.csv", "prediction.json"} <= names
    assert {"config.yaml", "run.json"} <= names
    assert "published.csv" not in names
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["n_reward_models"] == 5
    assert run["seed"] == 0
    assert set(run["versions"]) >= {"python", "numpy", "scipy"}


def test_tables_of_an_earlier_result_do_not_stay(tmp_path: Path) -> None:
    config = write_files(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("published.csv", "selection.parquet"):
        (out / name).write_text("of another run")
    correlate_files(config)
    assert not {"published.csv", "selection.parquet"} & {path.name for path in out.iterdir()}


def test_the_written_config_runs_again_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = correlate_files(
        {"metrics": ["metrics.csv"], "downstream": "outcomes.csv", "output_dir": "out"}
    )
    monkeypatch.chdir("/")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    pd.testing.assert_frame_equal(correlate_files(config).correlations, first.correlations)


def test_metrics_of_several_runs_are_put_together(tmp_path: Path) -> None:
    config = write_files(tmp_path)
    metrics_of({"f": [0.3, 0.1, 0.2]}, benchmark="other").to_parquet(tmp_path / "more.parquet")
    found = correlate_files({**config, "metrics": [str(tmp_path), str(tmp_path / "more.parquet")]})
    assert found.correlations["benchmark"].tolist() == ["b", "b", "other"]
    assert found.correlations["n"].tolist() == [5, 5, 3]


def test_names_without_a_partner_are_recorded(tmp_path: Path) -> None:
    config = write_files(tmp_path)
    outcomes = outcomes_of([1.0, 2.0, 3.0, 4.0]).replace({"m1": "Model 1"})
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    run = correlate_files(config).run
    assert run["n_reward_models"] == 3
    assert run["only_in_metrics"] == ["m1", "m4"]
    assert run["only_in_downstream"] == ["Model 1"]


@pytest.mark.parametrize("name", ["o.csv", "o.csv.gz", "o.tsv", "o.parquet", "o.json", "o.jsonl"])
def test_outcomes_come_in_every_format(tmp_path: Path, name: str) -> None:
    table, path = outcomes_of([1.0, 2.5]), tmp_path / name
    if ".parquet" in name:
        table.to_parquet(path)
    elif ".json" in name:
        table.to_json(path, orient="records", lines=name.endswith("jsonl"))
    else:
        table.to_csv(path, sep="\t" if ".tsv" in name else ",", index=False)
    found = read_outcomes(str(path))
    assert found["reward_model"].tolist() == ["m0", "m1"]
    assert found["value"].tolist() == [1.0, 2.5]


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("reward_model,outcome,value\n007,arena,1\n010,arena,2\n")
    assert read_outcomes(str(tmp_path / "o.csv"))["reward_model"].tolist() == ["007", "010"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("nowhere.csv", None, ConfigError, "nowhere.csv"),
        ("o.xlsx", "", ConfigError, "formats are .csv"),
        ("o.csv", "", DataFormatError, "is not a csv table"),
        ("o.json", "{", DataFormatError, "is not a json table"),
        ("o.parquet", "x", DataFormatError, "is not a parquet table"),
        ("o.csv", "reward_model,value\na,1\n", DataFormatError, "lacks 'outcome'"),
        ("o.csv", "reward_model,outcome,value\n", DataFormatError, "no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, name: str, content: str | None, kind: type[Exception], said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(kind) as error:
        read_outcomes(str(tmp_path / name))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_metrics_and_an_unknown_url_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.parquet is missing"):
        read_metrics(str(tmp_path))
    with pytest.raises(ConfigError, match="nosuch"):
        read_metrics("nosuch://bucket/metrics.csv")
    for name in (
        "config.yaml",
        "metrics.csv",
    ):  # as a run that goes on has them from an earlier one
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="no finished result: run it again"):
        read_metrics(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "outcomes.csv.gz",
            gzip.compress(b"reward_model,outcome,value\na,b,1\n" * 999, mtime=0)[:-20],
        ),
        ("outcomes.csv.gz", gzip.compress(b"x" * 9999, mtime=0)[:30] + b"x" * 30),
        ("outcomes.csv.xz", b"not xz"),
        ("outcomes.parquet", b"not parquet"),
    ],
)
def test_damaged_tables_are_told(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises((ConfigError, DataFormatError), match=name) as caught:
        read_outcomes(str(file))
    assert len(str(caught.value).splitlines()) <= 2


def test_rows_that_end_in_a_separator_are_read_by_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text("reward_model,outcome,value\nm1,elo,1.5,\nm2,elo,2.5,\n")
    assert read_outcomes(str(file))["reward_model"].tolist() == ["m1", "m2"]


def test_published_tables_are_compared_with_what_was_printed(
    of_published: CorrelationResult,
) -> None:
    table = of_published.published
    assert table is not None
    counts = table["status"].value_counts().to_dict()
    # 25 of 170 correlations, 25 deltas, 4 ends of gains, 1 critical r
    assert counts["recomputed"] == 55
    compared = table[table["status"] == "recomputed"]
    assert compared[["ours", "printed", "difference"]].notna().all(axis=None)
    assert np.allclose(compared["ours"] - compared["printed"], compared["difference"])
    # nothing printed passes for ours
    assert (
        table[table["status"] == "not recomputable"][["ours", "difference"]].isna().all(axis=None)
    )
    assert (table[table["status"] == "not recomputable"]["note"] != "").all()
    assert table[table["status"] == "derived"]["printed"].isna().all()
    assert of_published.run["n_reward_models"] == 9


def test_quantiles_over_correctness_run_against_the_printed_human_ones(
    of_published: CorrelationResult,
) -> None:
    table = of_published.quantiles
    assert set(table["over"]) == {"correctness_benchmarks"}  # no human slices are published
    ours, printed = (
        curve[curve["metric"] == "accuracy"].set_index("quantile")["pearson"]
        for curve in (table, published.ppe_quantiles())
    )
    # "the worst category predicts best" holds of human categories, and not of these benchmarks
    assert printed[0.0] > printed[1.0]
    assert ours[0.0] < ours[1.0]


def test_the_summary_names_n_intervals_and_both_sides(of_published: CorrelationResult) -> None:
    text = summary(of_published)
    assert "9 reward models have metrics and an outcome" in text
    assert "55 recomputed" in text
    row = of_published.correlations.query("domain == 'overall' and metric == 'accuracy'").iloc[0]
    interval = f"{row.pearson:+.2f} [{row.pearson_low:+.2f}, {row.pearson_high:+.2f}]"
    assert interval in text
    assert "0.640" in text


def run_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/correlate.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


def test_the_job_runs_without_ray(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(write_files(tmp_path)))
    done = run_job(str(tmp_path / "run.yaml"), "seed=3")
    assert done.returncode == 0, done.stderr
    assert "5 reward models have metrics and an outcome" in done.stdout
    code = "import sys, rm_cluster.correlation; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"ray", "torch", "sklearn"} & set(loaded)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("metrics=here.csv", "metrics is wrong"),
        ("downstreem=x", "Did you mean 'downstream'"),
        ("downstream=nowhere.csv", "nowhere.csv"),
    ],
)
def test_a_users_mistake_is_told_in_two_lines(tmp_path: Path, argument: str, said: str) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(write_files(tmp_path)))
    done = run_job(str(tmp_path / "run.yaml"), argument)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_tables_without_a_shared_reward_model_are_told(tmp_path: Path) -> None:
    config = write_files(tmp_path)
    outcomes = outcomes_of([1.0, 2.0]).replace({"m0": "a", "m1": "b"})
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    with pytest.raises(DataFormatError, match=r"m0, m1, m2 and 2 more.*a, b"):
        correlate_files(config)
