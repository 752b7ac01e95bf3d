from __future__ import annotations

from pathlib import Path

import pytest

from rm_cluster.config import EvaluateConfig
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import located_run


def test_paths_are_those_that_a_shell_would_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a shell leaves the tilde of `output_dir=~/run` as it is
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("llama", "data", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir("work")
    models = {"llama": "~/llama", "other": "team/llama"}
    config = {
        "reward_models": [
            {"type": "classifier", "name": name, "model": model} for name, model in models.items()
        ],
        "benchmarks": ["../data", "~/nowhere.jsonl"],
        "output_dir": "~/run",
    }
    run = located_run(parse_config(EvaluateConfig, config))
    assert [model.model for model in run.reward_models] == [str(tmp_path / "llama"), "team/llama"]
    # what is not there may be a name on the hub
    assert [one.path for one in run.benchmarks] == [str(tmp_path / "data"), "~/nowhere.jsonl"]
    assert run.output_dir == str(tmp_path / "run")
    url = run.model_copy(update={"output_dir": "s3://bucket/~/run"})
    assert located_run(url).output_dir == "s3://bucket/~/run"
