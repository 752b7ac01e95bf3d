"""The main job as its users run it: from a shell, killed half way, and through `ray job submit`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml

import rm_cluster as rmc
from tests.ray_head import RAY, ROOT, environment, ray_head, wait_until

pytestmark = pytest.mark.ray

JOB = [sys.executable, "jobs/evaluate.py"]


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


def write_config(folder: Path, seconds: float = 0.0, limit: int | None = None) -> Path:
    data = folder / "pairs.jsonl"
    records = [
        {"prompt": f"p{i}", "chosen": "b" * (i % 7), "rejected": "a" * (i % 5)} for i in range(40)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {
        "reward_models": [
            {"type": "tests.scorers:ByteSum", "name": "sum", "options": {"seconds": seconds}}
        ],
        "benchmarks": [str(data)],
        "limit": limit,
        "scoring": {"tokens_per_request": 20},
        "output_dir": str(folder / "out"),
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["a.yaml", "b.yaml"], "One CONFIG at most"),
        (["pyproject.toml"], "is not YAML"),
        (["{config}", "limit=-1"], "limit is wrong"),
        (["lmit=5"], "Unknown key 'lmit'. Did you mean 'limit'"),
        (["{config}", "reward_models.0.type=no.such:Scorer"], "Cannot build 'sum'"),
        (["{config}", "benchmarks.0=rm_bench"], "Did you mean 'rm-bench'"),
        (["{config}", "benchmarks.0={broken}"], "none of its 2 rows fits"),
        (["{config}", "serving.num_gpus=1"], "cannot get more"),
        (["{config}", "output_dir={empty}/x"], "Cannot write to output_dir"),
        (["{config}", "output_dir=nosuch://x"], "Cannot use 'nosuch://x' as a folder"),
    ],
)
def test_a_users_mistake_is_told_in_two_lines(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text("{}\n{\n")
    names = {
        "config": write_config(tmp_path),
        "empty": tmp_path / "empty.jsonl",
        "broken": tmp_path / "broken.jsonl",
    }
    done = run(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    (at,) = [i for i, line in enumerate(lines) if said in line]
    assert len(lines) - at <= 2, "what is wrong comes last, in two lines at most"


class Killed(NamedTuple):
    """A run that was killed half way, and run again."""

    num_files: int
    had_ended: bool
    again: subprocess.CompletedProcess[str]
    result: rmc.EvalResult


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    config, store = write_config(folder, seconds=0.2, limit=20), folder / "out" / "rewards"
    driver = subprocess.Popen(
        [*JOB, str(config)], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(store.rglob("*.parquet"))) >= 4, "the first scores")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    num_files, had_ended = len(list(store.rglob("*.parquet"))), (folder / "out/run.json").exists()
    again = run(str(config))
    assert again.returncode == 0, again.stderr
    return Killed(num_files, had_ended, again, rmc.load_result(str(folder / "out")))


class Undisturbed(NamedTuple):
    """The same from Python, and what it says 12 s after it: `up` or `gone`."""

    said: str
    result: rmc.EvalResult


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    # 12 s: Serve's threads, if any were left, would start Ray again within 10
    code = (
        "import sys, time, ray, rm_cluster as rmc; rmc.evaluate(sys.argv[1]); time.sleep(12); "
        "print('up' if ray.is_initialized() else 'gone')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write_config(folder, limit=20))],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    return Undisturbed(done.stdout.split()[-1], rmc.load_result(str(folder / "out")))


def test_a_local_cluster_is_gone_after_the_run(undisturbed: Undisturbed) -> None:
    assert undisturbed.said == "gone"


def test_killed_and_run_again_equals_uninterrupted(
    killed: Killed, undisturbed: Undisturbed
) -> None:
    assert not killed.had_ended
    counts = killed.result.run["reward_models"]["sum"]
    assert counts["n_from_store"] >= killed.num_files >= 4
    assert counts["n_from_store"] + counts["n_scored"] == 20
    pd.testing.assert_frame_equal(killed.result.rewards, undisturbed.result.rewards)
    pd.testing.assert_frame_equal(killed.result.metrics, undisturbed.result.metrics)


def test_the_summary_says_what_was_found(killed: Killed) -> None:
    told = killed.again.stdout
    assert "PARTIAL" in told
    assert "pairs (20 prompts, 20 pairs)" in told
    value = killed.result.leaderboard()["value"].item()
    assert f"{value:.3f} [" in told


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    with ray_head() as clients:
        yield clients


def submit(clients: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAY, "job", "submit", "--working-dir", ".", "--", *JOB, *arguments],
        cwd=ROOT,
        env={name: value for name, value in clients.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=False,
    )


def apps(clients: dict[str, str]) -> dict[str, Any]:
    """The Serve apps of a cluster, asked by a driver of its own."""
    code = (
        "import json, ray; from ray import serve; ray.init(log_to_driver=False); "
        "print('apps', json.dumps(list(serve.status().applications)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clients, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.split("apps ")[-1])
    return found


def test_ray_job_submit(tmp_path: Path, head: dict[str, str]) -> None:
    config = write_config(tmp_path, seconds=0.2)
    store = tmp_path / "out" / "rewards"
    # a driver that is killed on a lasting cluster leaves its app behind ...
    driver = subprocess.Popen([*JOB, str(config)], cwd=ROOT, env=head, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(store.rglob("*.parquet"))) >= 4, "the first scores")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(apps(head)) == 1
    # ... and the next run, here a submitted job, goes on from what is stored and clears it away
    done = submit(head, str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pairs (40 prompts, 40 pairs)" in done.stdout
    counts = rmc.load_result(str(tmp_path / "out")).run["reward_models"]["sum"]
    assert counts["n_from_store"] >= 4
    assert apps(head) == []
    wrong = submit(head, str(config), "limit=none")
    assert wrong.returncode != 0
    assert "limit is wrong" in wrong.stdout
    assert "Traceback" not in wrong.stdout.split("limit is wrong")[0]
