"""Customized prompts through the cluster: equal to those customized by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rm_cluster as rmc
from rm_cluster.config import CustomizeConfig
from rm_cluster.errors import ConfigError
from rm_cluster.measurement import plan_measurements
from rm_cluster.parsing import parse_config
from rm_cluster.scorers.customization import Customizer
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import row

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_a_router_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    model = save_family("Llama", tmp_path / "lm", tokenizer(), CAUSAL)
    customize = {"router": {"model": "./nowhere"}}
    config = {
        "reward_models": [{"type": "logprob", "model": str(model), "customize": customize}],
        "benchmarks": ["ppe"],
    }
    with pytest.raises(ConfigError, match=r"nowhere.*no such folder"):
        plan_measurements(parse_config(rmc.EvaluateConfig, config))


def test_a_ratio_of_customized_log_probs_is_that_of_prompts_customized_by_hand(
    tmp_path: Path,
) -> None:
    strong, weak = (
        save_family("Llama", tmp_path / name, tokenizer(), CAUSAL, initializer_range=scale)
        for name, scale in (("strong", 0.2), ("weak", 0.1))
    )
    domains = ["math", "safety", "chat", "unheard of"]
    rows = [
        row(f"prompt {i}", ["good", "bad one"], id=f"r{i}", domain=domains[i]) for i in range(4)
    ]
    data = tmp_path / "data.jsonl"
    records = [
        {
            "id": one["id"],
            "domain": one["domain"],
            "prompt": one["prompt"][0]["content"],
            "chosen": one["completions"][0],
            "rejected": one["completions"][1],
        }
        for one in rows
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    ratio = {"type": "log_ratio", "strong": str(strong), "weak": str(weak)}
    customize = {"seed": 3, "num_exemplars": 2}
    routing = {"model": str(weak), "max_new_tokens": 2, "name": "router"}
    config = {
        "reward_models": [
            {**ratio, "name": "told", "customize": customize},
            {
                "type": "logprob",
                "name": "routed",
                "model": str(strong),
                "customize": {**customize, "router": routing},
            },
        ],
        "benchmarks": [{"name": "mine", "path": str(data)}],
        "output_dir": str(tmp_path / "out"),
    }
    result = rmc.evaluate(config)
    by_hand = Customizer(CustomizeConfig(**customize))
    kinds = {"math": "reasoning", "safety": "safety"}
    told = [by_hand.customized(one, kinds.get(one["domain"], "chat")) for one in rows]
    # what a model with random weights says names no domain
    routed = [by_hand.customized(one, "chat") for one in rows]
    above, below = (rmc.Logprob(model=str(folder)) for folder in (strong, weak))
    expected = {
        "told": [a - b for a, b in zip(above.score(told), below.score(told), strict=True)],
        "routed": above.score(routed),
    }
    for name, its in expected.items():
        found = result.rewards[result.rewards["reward_model"] == name].set_index("id")["values"]
        for one, rewards in zip(rows, its, strict=True):
            np.testing.assert_allclose(found[one["id"]], rewards, rtol=0, atol=1e-4)
    members = result.run["members"]
    counts = {"chat": 2, "reasoning": 1, "safety": 1, "n_unrouted": 0}
    assert members["told/strong"]["asked"] == members["told/weak"]["asked"] == {"mine": counts}
    routed_counts = result.run["reward_models"]["routed"]["asked"]["mine"]
    assert routed_counts == {"chat": 4, "n_unrouted": 4}
    again = rmc.evaluate(config)
    assert {one["n_scored"] for one in again.run["members"].values()} == {0}
    assert again.run["reward_models"]["routed"]["n_scored"] == 0
