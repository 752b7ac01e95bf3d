"""Judges through the cluster: a real server that misbehaves, and a tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rm_cluster as rmc
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.report.terminal import summary
from tests.chat_server import KEY, KEY_VARIABLE, ChatServer, Reply, chat_server, question, said
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.ray_head import ROOT, environment

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

NUM = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose chosen side says good; the first four are compared both ways by turns."""
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    sides = [("a good one", "a bad one") if i % 2 else ("good", "bad") for i in range(NUM)]
    records = [
        {"id": f"r{i}", "prompt": f"question {i}.", "chosen": good, "rejected": bad}
        for i, (good, bad) in enumerate(sides)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def judge(server: ChatServer, **options: Any) -> dict[str, Any]:
    endpoint = {"base_url": server.url, "api_key_env": KEY_VARIABLE, "max_retries": 1}
    endpoint |= {"timeout_s": 5.0, **options.pop("endpoint", {})}
    return {"type": "judge", "name": "judge", "model": "m", "method": "verdict",
            "endpoint": endpoint, **options}  # fmt: skip


def settings(output_dir: Path, data: Path, *models: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "reward_models": list(models),
        "benchmarks": [{"name": "mine", "path": str(data)}],
        "output_dir": str(output_dir),
        **more,
    }


def fair(text: str) -> Reply:
    return said(f"Hm.\nVerdict: {'A' if text.find('good') < text.find('bad') else 'B'}")


def hostile(body: dict[str, Any], _: int) -> Reply:
    """By row: garbage, silence, errors of the server, a preference for the first place."""
    text = question(body)
    found = re.search(r"question (\d+)\.", text)
    if found is None:
        return said("A")
    replies = {
        "0": said("I love both! \u202e\x00"),
        "1": said(""),
        "2": (500, {}, "internal"),
        "3": (200, {}, "<html>"),
        "4": said("Verdict: A"),
        "5": said("Verdict: tie"),
        "6": said(f"Of course: {KEY}"),
    }
    return replies.get(found[1]) or fair(text)


def metric(result: rmc.EvalResult, name: str) -> pd.Series[Any]:
    found = result.metrics.query("domain == 'overall' and metric == @name")
    return found.iloc[0]


def everything_written(*folders: Path) -> str:
    return "".join(
        path.read_bytes().decode("utf-8", errors="replace")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def test_a_hostile_judge_costs_what_it_spoils_and_no_more(tmp_path: Path, data: Path) -> None:
    with chat_server(hostile) as server:
        config = settings(tmp_path / "out", data, judge(server))
        with pytest.raises(ScoringError, match="5 of 12 prompts failed"):
            rmc.evaluate(config)
        first = Counter(re.search(r"question (\d+)", question(b))[1] for b in server.requests[1:])  # type: ignore[index]
        assert first["2"] == first["3"] == 4, "two orders, asked twice each"
        assert first["9"] == 2
        num_asked = len(server.requests)
        result = rmc.evaluate({**config, "scoring": {"max_failed_fraction": 0.5}})
        again = Counter(
            re.search(r"question (\d+)", question(b))[1]  # type: ignore[index]
            for b in server.requests[num_asked + 1 :]
        )
        assert set(again) == {"0", "1", "2", "3", "6"}, "what failed is asked again, no more"
    # 12 comparisons: 5 lost, 1 that the order decides and 1 tie count half, 5 are right
    accuracy = metric(result, "accuracy")
    assert (accuracy["n"], accuracy["n_failed"], accuracy["n_tied"]) == (7, 5, 2)
    assert accuracy["value"] == pytest.approx((5 + 2 * 0.5) / 7)
    inconsistent, bias = metric(result, "inconsistent"), metric(result, "position_bias")
    assert (inconsistent["value"], inconsistent["n"]) == (pytest.approx(1 / 7), 7)
    assert bias["value"] == pytest.approx(1 / 7)
    assert result.run["reward_models"]["judge"]["asked"]["mine"] == {
        "n_questions": 12, "n_unscored": 3, "n_failed_questions": 2, "n_inconsistent": 1,
    }  # fmt: skip
    told = summary(result)
    assert "the order decided 0.143" in told
    assert "of 12 questions to judge 3 had no verdict in the answer and 2 no answer" in told
    assert "Judges: the order of replies" in (tmp_path / "out" / "report.html").read_text()
    errors = result.rewards.set_index("id")["error"].dropna()
    assert "unscored" in errors["r0"]
    assert "answers 500: internal" in errors["r2"]
    assert result.judges_of_pairs() == {"mine": ["judge"]}
    stored = pd.concat(map(pd.read_parquet, (tmp_path / "out" / "rewards").rglob("*.parquet")))
    assert set(stored["kind"]) == {"verdict"}
    assert KEY not in everything_written(tmp_path)
    assert KEY_VARIABLE in (tmp_path / "out" / "config.yaml").read_text()


def test_the_key_is_in_no_file_and_no_log(tmp_path: Path, data: Path) -> None:
    """A whole job with a Ray of its own, whose logs are searched as well."""
    # the path of a socket in it must be short
    with tempfile.TemporaryDirectory(prefix="ray") as logs, chat_server(hostile) as server:
        config = settings(tmp_path / "out", data, judge(server))
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        done = subprocess.run(
            [sys.executable, "jobs/evaluate.py", str(tmp_path / "config.yaml")],
            cwd=ROOT,
            env=environment(RAY_TMPDIR=logs, **{KEY_VARIABLE: KEY}),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        written = done.stdout + done.stderr + everything_written(tmp_path, Path(logs))
        assert list(Path(logs).rglob("*.log")), "there are logs to search"
    assert done.returncode == 1, done.stderr
    assert "5 of 12 prompts failed" in done.stderr
    assert KEY not in written


def test_a_wrong_key_ends_the_run_in_two_lines(tmp_path: Path, data: Path) -> None:
    with chat_server(hostile, key="another") as server:
        config = settings(tmp_path / "out", data, judge(server))
        with pytest.raises(ConfigError, match="answers 401") as caught:
            rmc.evaluate(config)
        assert KEY not in str(caught.value)
        assert len(server.requests) == 1, "nobody asks a hundred times with a wrong key"
        missing = judge(server, endpoint={"api_key_env": "NO_SUCH_VARIABLE"})
        with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE holds no key"):
            rmc.evaluate(settings(tmp_path / "out", data, missing))


def test_round_robin_rates_every_completion_and_annotates(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    completions = ["one", "three", "seventeen", "12"]
    record = {"id": "p", "prompt": "Hi", "completions": completions, "labels": [0, 1, 1, 0]}
    pool.write_text(json.dumps(record) + "\n")

    def longer(body: dict[str, Any], _: int) -> Reply:
        shown = re.findall(r"\[\[begin reply [AB] \w+\]\]\n(.*)\n", question(body))
        return said(f"Verdict: {'A' if len(shown[0]) > len(shown[-1]) else 'B'}" if shown else "A")

    with chat_server(longer) as server:
        model = judge(server, compare="round_robin")
        result = rmc.evaluate(settings(tmp_path / "out", pool, model))
        (rewards,) = result.rewards["values"]
        # wins minus losses over K: lengths 3 < 5 < 9, and 2 is the shortest
        np.testing.assert_allclose(rewards, [-0.25, 0.25, 0.75, -0.75], atol=1e-12)
        assert metric(result, "accuracy")["value"] == 1.0
        assert not result.judges_of_pairs()
        pairs = rmc.annotate(
            {
                "reward_models": [model],
                "candidates": str(pool),
                "pair_rule": "best_vs_worst",
                "held_out_fraction": 0.0,
                "output_dir": str(tmp_path / "pairs"),
            }
        )
    (pair,) = pairs.preferences.to_dict("records")
    assert pair["chosen"][0]["content"] == "seventeen"
    assert pair["rejected"][0]["content"] == "12"


def test_a_model_on_our_own_replicas_judges_as_in_process(tmp_path: Path, data: Path) -> None:
    folder = save_family("Qwen3", tmp_path / "lm", tokenizer(), CAUSAL)
    models = [
        {"type": "judge", "name": "logits", "model": str(folder)},
        {"type": "judge", "name": "yes", "model": str(folder), "method": "yes"},
    ]
    result = rmc.evaluate(settings(tmp_path / "out", data, *models, limit=4))
    rows = [
        {"prompt": [{"role": "user", "content": f"question {i}."}], "completions": list(sides)}
        for i, sides in enumerate([("good", "bad"), ("a good one", "a bad one")] * 2)
    ]
    by_yes = result.rewards.query("reward_model == 'yes'")["values"].tolist()
    for found, expected in zip(by_yes, rmc.Judge(**models[1]).score(rows), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    margins = result.rewards.query("reward_model == 'logits'")["margins"].tolist()
    for found, expected in zip(margins, rmc.Judge(**models[0]).score(rows), strict=True):
        np.testing.assert_allclose(found, [expected[0] - expected[1]], rtol=0, atol=1e-4)
    again = rmc.evaluate(settings(tmp_path / "out", data, *models, limit=4))
    assert [again.run["reward_models"][name]["n_scored"] for name in ("logits", "yes")] == [0, 0]
    assert os.environ[KEY_VARIABLE] == KEY
