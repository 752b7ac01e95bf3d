"""Density ratios, ensembles and sweeps through the whole job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import rm_cluster as rmc
from rm_cluster.config import PairSweepConfig
from rm_cluster.report.terminal import summary
from rm_cluster.sweeps import read_gap
from rm_cluster.types import Row
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import random_rows
from tests.test_evaluation import config, rewards_by_id, write_preferences

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

CHATTY = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tok = tokenizer(chat_template=CHATTY)
    return save_family("Llama", tmp_path_factory.mktemp("lm") / "strong", tok, CAUSAL)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "weak"
    return save_family("Qwen2", folder, tokenizer(), CAUSAL, num_hidden_layers=1)


def log_probs(folder: Path, rows: Sequence[Row], writer: Path) -> list[list[float]]:
    """Sums by plain transformers, one text at a time, on text that `writer`'s tokenizer wrote."""
    tok, write = (transformers.AutoTokenizer.from_pretrained(f) for f in (folder, writer))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for row in rows:
        text = write.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = tok(text, add_special_tokens=False)["input_ids"]
        sums = []
        for completion in row["completions"]:
            ids = [*tok(completion, add_special_tokens=False)["input_ids"], tok.eos_token_id]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
            logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            sums.append(float(logprobs[range(len(ids)), ids].sum()))
        found.append(sums)
    return found


def accuracy(result: rmc.EvalResult, name: str) -> Any:
    return result.metrics.query(
        "reward_model == @name and domain == 'overall' and metric == 'accuracy'"
    ).iloc[0]


def test_ratios_and_ensembles_are_algebra_on_three_passes(
    tmp_path: Path, strong: Path, weak: Path
) -> None:
    rows = [row for row in random_rows(30, 3) if len(row["completions"]) > 1]
    data = write_preferences(tmp_path / "data.jsonl", rows)
    ratio = {"type": "log_ratio", "strong": str(strong)}
    result = rmc.evaluate(
        config(
            tmp_path / "out",
            data,
            {**ratio, "weak": "ref", "name": "ratio"},
            {**ratio, "weak": "ref", "name": "dpo", "beta": 0.1, "normalize": "mean"},
            {**ratio, "weak": str(strong), "name": "self"},
            {"type": "log_ratio", "strong": "ref", "weak": str(strong), "name": "swapped",
             "template": CHATTY},
            {"type": "logprob", "model": str(weak), "name": "ref"},
            {"type": "ensemble", "name": "team", "members": ["ratio", "ref"],
             "rule": "worst_case"},
        )
    )  # fmt: skip
    # what the strong model's template writes is what both are asked about
    pairs = ((strong, strong), (weak, strong), (weak, weak))
    sums = [log_probs(folder, rows, writer) for folder, writer in pairs]
    for row, high, low, own in zip(rows, *sums, strict=True):
        expected = np.array(high) - np.array(low)
        tokens = np.array([len(c.encode()) + 1 for c in row["completions"]])
        for name, values in (
            ("ratio", expected),
            ("dpo", 0.1 * expected / tokens),
            ("self", 0 * expected),
            ("swapped", -expected),
            ("ref", np.array(own)),
        ):
            found = rewards_by_id(result, name)[row["id"]]
            np.testing.assert_allclose(found, values, rtol=0, atol=2e-4, err_msg=name)
    assert accuracy(result, "self")["value"] == 0.5
    assert accuracy(result, "self")["n_tied"] == accuracy(result, "self")["n"]
    assert accuracy(result, "swapped")["value"] == 1 - accuracy(result, "ratio")["value"]

    members = [np.concatenate(list(rewards_by_id(result, n).values())) for n in ("ratio", "ref")]  # type: ignore[arg-type]
    z = np.array([(m - m.mean()) / m.std() for m in members])
    team = np.concatenate(list(rewards_by_id(result, "team").values()))  # type: ignore[arg-type]
    np.testing.assert_allclose(team, z.min(axis=0), atol=1e-9)

    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["n_passes"] == 3, "each model under the shared template, and ref under its own"
    assert run["reward_models"]["self"]["members"] == ["ratio/strong", "ratio/strong"]
    assert run["reward_models"]["swapped"]["members"] == ["swapped/ref", "swapped/strong"]
    scored = {name: member["n_scored"] for name, member in run["members"].items()}
    num = len(rows)
    assert scored == {
        "ratio/strong": num, "ratio/ref": num, "swapped/ref": 0, "swapped/strong": 0,
    }  # fmt: skip
    assert run["reward_models"]["team"]["scales"]["mine"]["ref"]["n"] == len(team)
    assert set(result.leaderboard()["reward_model"]) == {
        "ratio", "dpo", "self", "swapped", "ref", "team",
    }  # fmt: skip
    again = rmc.evaluate(str(tmp_path / "out" / "config.yaml"))
    assert again.run["members"]["ratio/strong"]["n_scored"] == 0


def test_a_sweep_measures_each_model_once_and_stays_out_of_the_leaderboard(
    tmp_path: Path, strong: Path, weak: Path
) -> None:
    rows = [row for row in random_rows(30, 4) if len(row["completions"]) > 1]
    data = write_preferences(tmp_path / "data.jsonl", rows)
    other = write_preferences(tmp_path / "other.jsonl", random_rows(10, 5))
    gap = tmp_path / "gap.csv"
    gap.write_text("model,mmlu\nstrong,60\nweak,45\nref,50\nelse,1\n")
    sweep = {
        "type": "pair_sweep", "name": "all", "template": "plain", "gap": str(gap),
        "gap_column": "mmlu", "models": [str(strong), str(weak), "ref"], "benchmarks": ["mine"],
    }  # fmt: skip
    ref = {"type": "logprob", "model": str(weak), "name": "ref", "template": "plain"}
    settings = config(tmp_path / "out", data, sweep, ref)
    settings["benchmarks"].append(str(other))
    result = rmc.evaluate(settings)
    assert result.run["n_passes"] == 2, "ref is the weak model"
    assert result.run["reward_models"]["all"]["n_pairs"] == 9
    assert result.run["reward_models"]["all"]["n_passes"] == 2
    assert result.run["members"]["all/strong"]["n_scored"] == len(rows), "not on the other one"
    assert set(result.leaderboard()["reward_model"]) == {"ref"}
    assert result.pair_sweep is not None
    overall = result.pair_sweep.query("domain == 'overall'").set_index(["strong", "weak"])
    assert len(overall) == 9
    assert overall.loc[("weak", "ref"), "accuracy"] == 0.5
    assert overall.loc[("weak", "ref"), "n_tied"] == overall.loc[("weak", "ref"), "n"]
    there, back = (overall.loc[pair, "accuracy"] for pair in (("strong", "ref"), ("ref", "strong")))
    assert there == pytest.approx(1 - back, abs=1e-15)
    assert overall.loc[("strong", "weak"), "gap"] == 15
    assert set(result.pair_sweep["benchmark"]) == {"mine"}
    found = result.pair_sweep_correlations
    assert found is not None
    assert set(found["gap"]) == {"mmlu"}
    assert found["n_models"].eq(3).all()
    loaded = rmc.load_result(str(tmp_path / "out"))
    pd.testing.assert_frame_equal(loaded.pair_sweep, result.pair_sweep)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "pair_sweep_correlations.csv").exists()
    assert "gap (mmlu) and accuracy" in summary(result)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mine: all, strong over weak" in page

    alone = rmc.evaluate({**settings, "reward_models": [{**sweep, "models": sweep["models"][:2]}]})
    assert alone.run["members"]["all/strong"]["n_scored"] == 0, "all is stored"
    assert not len(alone.leaderboard())
    assert not len(rmc.load_result(str(tmp_path / "out")).metrics)
    assert "4 ordered pairs of 2 models" in summary(alone)


def test_a_gap_without_a_model_is_told_before_anything_runs(tmp_path: Path, strong: Path) -> None:
    gap = tmp_path / "gap.csv"
    sweep = {"type": "pair_sweep", "models": [str(strong), "other/weak"], "gap": str(gap)}
    for lines in ("strong,60\n", "strong,60\nweak,\n", "strong,60\nweak,inf\n"):
        gap.write_text(f"model,value\n{lines}")
        with pytest.raises(rmc.RMClusterError, match="no value for 'weak'"):
            read_gap(PairSweepConfig.model_validate(sweep))
