from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rm_cluster as rmc
from rm_cluster.engines import vllm_arguments
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.parity import examination
from rm_cluster.report.parity import summary
from tests.families import CAUSAL, FOR_VLLM, save_family
from tests.models import tokenizer
from tests.rows import random_rows
from tests.test_evaluation import write_preferences

ROOT = Path(__file__).parents[1]
WITHOUT_VLLM = pytest.mark.skipif(
    vllm_arguments.version() is not None, reason="vLLM is installed, and slow to start"
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row for row in random_rows(40, seed=1) if len(row["completions"]) > 1]
    return write_preferences(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows[:12])


def config(output_dir: Path, pairs: Path, *models: dict[str, Any], **more: Any) -> dict[str, Any]:
    benchmarks = [{"name": "mine", "path": str(pairs)}]
    return {
        "reward_models": list(models),
        "benchmarks": benchmarks,
        "output_dir": str(output_dir),
        **more,
    }


def save(folder: Path, family: str = "Llama", **options: Any) -> str:
    sizes = FOR_VLLM.get(family, {})
    return str(save_family(family, folder, tokenizer(), **{**sizes, **options}))


def conditions(table: pd.DataFrame, engine: str, dtype: str = "float32") -> pd.DataFrame:
    return table[(table["engine"] == engine) & (table["dtype"] == dtype)]


@WITHOUT_VLLM
def test_our_engine_agrees_and_a_pad_token_that_is_eos_spoils_plain_batches(
    tmp_path: Path, pairs: Path
) -> None:
    model = {"type": "classifier", "model": save(tmp_path / "rm"), "dtype": "bfloat16"}
    result = rmc.doctor(config(tmp_path / "out", pairs, model))
    ours = conditions(result.table, "torch")
    assert result.healthy
    assert list(zip(ours["condition"], ours["pad_token"], strict=True)) == [
        ("one at a time", "own"),
        ("many, packed", "own"),
        ("many, packed", "eos"),
        ("many, padded", "own"),
        ("many, padded", "eos"),
    ]
    assert (ours["max_difference"] <= 1e-5 + 1e-6 * 10).all()
    assert (ours["n_flipped"] == 0).all()
    plain = conditions(result.table, "transformers").set_index("pad_token")
    assert plain.loc["own", "within"]
    # it takes the last token that is no EOS, which is the one before it
    assert not plain.loc["eos", "within"]
    assert plain.loc["eos", "n_beyond"] > 0.9 * plain.loc["eos", "n"]
    rough = conditions(result.table, "torch", "bfloat16")
    assert rough["max_difference"].item() > 1e-4
    assert rough["within"].item() is None
    absent = result.table[result.table["engine"] == "vllm"]
    assert (absent["note"] == "not installed").all()
    assert (absent["n"] == 0).all()


@WITHOUT_VLLM
def test_files_and_counts(tmp_path: Path, pairs: Path) -> None:
    lm = save_family("GPT2", tmp_path / "lm", tokenizer(), CAUSAL)
    model = {"type": "logprob", "name": "lm", "model": str(lm), "max_length": 400}
    result = rmc.doctor(config(tmp_path / "out", pairs, model, num_rows=8))
    assert result.healthy
    assert set(result.table["tolerance"]) == {1e-4}
    failed = result.table["n_failed"].iloc[0]
    assert 0 < failed < 8, "some rows are longer than 400 tokens, and that is counted"
    # GPT-2 adds positions to its embeddings, so that its texts cannot share a row
    assert "many, packed" not in set(result.table["condition"])
    stored = pd.read_csv(tmp_path / "out" / "doctor.csv")
    assert list(stored.columns) == list(result.table.columns)
    np.testing.assert_allclose(stored["max_difference"], result.table["max_difference"])
    assert len(pd.read_parquet(tmp_path / "out" / "doctor.parquet")) == len(stored)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["n_rows"] == 8
    assert run["contracts"]["lm"]["type"] == "logprob"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "agrees with one text at a time" in page
    again = rmc.doctor(str(tmp_path / "out" / "config.yaml"))
    pd.testing.assert_frame_equal(
        again.table.drop(columns="seconds"), result.table.drop(columns="seconds")
    )


@WITHOUT_VLLM
def test_an_encoder_pools_itself_and_needs_its_pad_token(tmp_path: Path, pairs: Path) -> None:
    model = {"type": "classifier", "model": save(tmp_path / "rm", "Roberta")}
    result = rmc.doctor(config(tmp_path / "out", pairs, model))
    assert result.healthy
    assert set(result.table["pad_token"]) == {"own"}


@WITHOUT_VLLM
def test_the_reference_adds_the_biases_of_alibi_once(tmp_path: Path, pairs: Path) -> None:
    # transformers' eager attention of Falcon adds them twice
    model = {"type": "classifier", "model": save(tmp_path / "rm", "Falcon")}
    assert rmc.doctor(config(tmp_path / "out", pairs, model, num_rows=6)).healthy


@WITHOUT_VLLM
def test_an_engine_that_is_wrong_is_found(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm_cluster.engines.torch_engine import ClassifierEngine

    exact = ClassifierEngine.rewards
    monkeypatch.setattr(ClassifierEngine, "rewards", lambda self, texts: exact(self, texts) + 1e-3)
    model = {"type": "classifier", "model": save(tmp_path / "rm")}
    result = rmc.doctor(config(tmp_path / "out", pairs, model))
    assert not result.healthy
    assert conditions(result.table, "torch")["median_difference"].to_numpy() == pytest.approx(
        1e-3, rel=0.1
    )


@WITHOUT_VLLM
def test_the_attention_that_the_user_chose_is_examined(tmp_path: Path, pairs: Path) -> None:
    # transformers' SDPA leaves out the soft caps of Gemma 2
    model = {"type": "classifier", "model": save(tmp_path / "rm", "Gemma2")}
    result = rmc.doctor(
        config(tmp_path / "out", pairs, {**model, "attn_implementation": "sdpa"}, num_rows=6)
    )
    ours = conditions(result.table, "torch").set_index("condition")
    assert not ours.loc["many, sdpa", "within"].any()
    assert ours.drop("many, sdpa")["within"].all()
    assert not result.healthy


def test_whatever_vllm_raises_is_a_note(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once below the table."""

    def compute(config: Any, condition: Any, *others: Any) -> Any:
        if condition.engine == "vllm":
            raise ValueError("extrapolate goes\nwith torch")
        return exact(config, condition, *others)

    exact = examination.compute
    monkeypatch.setattr(examination, "compute", compute)
    monkeypatch.setattr(examination.vllm_arguments, "version", lambda: "1.0")
    model = {"type": "classifier", "model": save(tmp_path / "rm")}
    result = rmc.doctor(config(tmp_path / "out", pairs, model, num_rows=4))
    assert set(conditions(result.table, "vllm")["note"]) == {"extrapolate goes with torch"}
    assert summary(result).count("vllm, one at a time, many: extrapolate goes with torch\n") == 1
    assert result.healthy
    assert (tmp_path / "out" / "run.json").exists()


def test_mistakes(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ({"type": "length"}, {"model": "x"}):
        with pytest.raises(ConfigError, match=r"models\.0 must have a type: classifier or logprob"):
            rmc.doctor(config(tmp_path, pairs, model))
    with pytest.raises(ConfigError, match="num_rows"):
        rmc.doctor(config(tmp_path, pairs, {"type": "classifier", "model": "x"}, num_rows=0))
    models = [{"type": "classifier", "model": save(tmp_path / "rm"), "name": n} for n in "ab"]
    monkeypatch.setattr(examination, "_examine", None)  # nothing is computed before that is told
    with pytest.raises(DataFormatError, match="none of the rows"):
        rmc.doctor(config(tmp_path / "out", pairs, models[0], {**models[1], "max_length": 1}))


@WITHOUT_VLLM
def test_the_job_without_a_config(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "jobs/doctor.py", f"output_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Our engine in float32 agrees with one text at a time." in done.stdout
    assert "not installed" in done.stdout
    bad = subprocess.run(
        [sys.executable, "jobs/doctor.py", "num_row=3"], cwd=ROOT, capture_output=True, text=True
    )
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("Unknown key 'num_row'")
