"""vLLM where users meet it: on a replica of the main job, and beside our engine in the doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rm_cluster as rmc
from rm_cluster.engines import vllm_arguments
from rm_cluster.scorers.scorer import contract_id
from tests.families import CAUSAL, CLASSIFIER, FOR_VLLM, save_family
from tests.models import tokenizer
from tests.rows import random_rows, row
from tests.test_evaluation import config, rewards_by_id, write_preferences

pytestmark = pytest.mark.skipif(vllm_arguments.version() is None, reason="vLLM is not installed")


def save(folder: Path, kind: Any = CLASSIFIER) -> str:
    return str(save_family("Llama", folder, tokenizer(), kind, **FOR_VLLM["Llama"]))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_run_on_vllm_gives_what_torch_gives(tmp_path: Path) -> None:
    rows = [one for one in random_rows(30, seed=1) if len(one["completions"]) > 1]
    rows.append(row("long", ["x" * 900, "short"], id=1000))
    data = write_preferences(tmp_path / "data.jsonl", rows)
    model, lm = save(tmp_path / "rm"), save(tmp_path / "lm", CAUSAL)
    common: dict[str, Any] = {"max_length": 800}
    result = rmc.evaluate(
        config(
            tmp_path / "out",
            data,
            {"type": "classifier", "name": "vllm", "model": model, "engine": "vllm", **common},
            {"type": "logprob", "name": "lm", "model": lm, "engine": "vllm", **common},
            scoring={"max_failed_fraction": 0.2},
        )
    )
    torch_scorers = {
        "vllm": rmc.Classifier(model=model, **common),
        "lm": rmc.Logprob(model=lm, **common),
    }
    for name, tolerance in (("vllm", 2e-5), ("lm", 3e-4)):
        found = rewards_by_id(result, name)
        assert found["1000"] is None, "it is longer than 800 tokens"
        for one, expected in zip(rows, torch_scorers[name].score(rows), strict=True):
            values = found[one["id"]]
            if values is None:
                assert np.isnan(expected).all()
            else:
                np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
        told = result.run["reward_models"][name]
        assert told["contract"]["engine"] == "vllm"
        # so a store keeps their rewards apart
        assert told["contract_id"] != contract_id(torch_scorers[name].contract)
    assert result.run["versions"]["vllm"] == vllm_arguments.version()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_vllm_cannot_run_is_told_and_not_tried_again(tmp_path: Path) -> None:
    data = write_preferences(tmp_path / "data.jsonl", random_rows(6, seed=2))
    model = {"type": "classifier", "model": save(tmp_path / "rm"), "engine": "vllm"}
    model["max_length"] = 100_000
    with pytest.raises(rmc.RMClusterError, match=r"vLLM .* cannot run 'rm'"):
        rmc.evaluate(config(tmp_path / "out", data, model))


SLEEPS = """
import sys, time
import rm_cluster as rmc
rmc.Classifier(model=sys.argv[1], engine="vllm").load()
print("loaded", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPS, save(tmp_path / "rm")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "loaded\n" in process.stdout, "it ended before the model was in memory"
        assert members(process.pid) == [process.pid]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(process.pid) == []


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return sorted(found)


def test_the_doctor_with_both_engines(tmp_path: Path) -> None:
    rows = [one for one in random_rows(20, seed=3) if len(one["completions"]) > 1]
    data = write_preferences(tmp_path / "data.jsonl", rows)
    result = rmc.doctor(
        {
            "reward_models": [
                {"type": "classifier", "model": save(tmp_path / "rm")},
                {"type": "logprob", "model": save(tmp_path / "lm", CAUSAL)},
            ],
            "benchmarks": [{"name": "mine", "path": str(data)}],
            "num_rows": 8,
            "output_dir": str(tmp_path / "out"),
        }
    )
    assert result.healthy
    vllm = result.table[result.table["engine"] == "vllm"]
    assert len(vllm) == 6
    assert (vllm["note"] == "").all()
    assert (vllm["n"] > 0).all()
    assert vllm["max_difference"].max() < 3e-4
    assert vllm["n_flipped"].sum() == 0
