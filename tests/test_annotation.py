"""The annotate job: candidates in, preferences out that TRL trains on as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rm_cluster as rmc
from rm_cluster.config import AnnotateConfig
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.parsing import parse_config
from rm_cluster.report.annotation import terminal_summary
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import row

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

LETTERS = "abcdefghij"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 prompts with 6 completions each; 3 of them with completions that are all alike."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    records = [
        {
            "id": f"p{i}",
            "domain": "xy"[i % 2],
            "prompt": f"prompt {i}",
            "completions": ["same"] * 6
            if i % 17 == 5
            else ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 9))) for _ in range(6)],
            "labels": [0.0] * 6,
        }
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def config(output_dir: Path, pool: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "reward_models": [{"type": "tests.scorers:ByteSum", "name": "sum"}],
        "candidates": str(pool),
        "held_out_fraction": 0.2,
        "output_dir": str(output_dir),
    }
    return {**base, **changes}


def byte_sum(message: list[dict[str, str]]) -> float:
    return float(sum(message[0]["content"].encode()))


def test_preferences_are_of_the_rewards_and_go_on_from_the_store(
    tmp_path: Path, pool: Path
) -> None:
    result = rmc.annotate(config(tmp_path / "out", pool, pair_rule="best_vs_worst"))
    records = {r["id"]: r for r in map(json.loads, pool.read_text().splitlines())}
    pairs = result.everything()
    assert len(pairs) == 37
    for pair in pairs.to_dict("records"):
        sums = [sum(c.encode()) for c in records[pair["id"]]["completions"]]
        assert byte_sum(pair["chosen"]) == pair["chosen_reward"] == max(sums)
        assert byte_sum(pair["rejected"]) == pair["rejected_reward"] == min(sums)
        assert pair["margin"] == max(sums) - min(sums)
        assert pair["domain"] == records[pair["id"]]["domain"]
    counts = result.run["pairs"]
    assert counts["dropped"] == {"tied": 3}
    assert counts["n"] == 40
    assert counts["n_train"] == len(result.preferences) > len(result.held_out) > 0
    again = rmc.annotate(str(tmp_path / "out" / "config.yaml"))
    assert again.run["reward_models"]["sum"]["n_scored"] == 0
    pd.testing.assert_frame_equal(again.everything(), pairs)
    assert "37 pairs of 40 prompts" in terminal_summary(again)
    assert "No pair of 3: chosen and rejected have equal rewards" in terminal_summary(again)


def test_files_hold_the_same_in_parquet_and_json_lines(tmp_path: Path, pool: Path) -> None:
    result = rmc.annotate(config(tmp_path / "out", pool))
    for name, frame in (("preferences", result.preferences), ("held_out", result.held_out)):
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
        assert table == list(map(json.loads, lines)) == frame.to_dict("records")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.yaml", "run.json", "report.html", "rejected_rows.jsonl"} <= written


def test_any_reward_signal_annotates(tmp_path: Path, pool: Path) -> None:
    lms = [
        save_family("Llama", tmp_path / name, tokenizer(), CAUSAL, initializer_range=scale)
        for name, scale in (("strong", 0.2), ("weak", 0.1))
    ]
    models = [
        {"type": "log_ratio", "name": "ratio", "strong": str(lms[0]), "weak": str(lms[1])},
        {"type": "tests.scorers:ByteSum", "name": "sum"},
        {"type": "ensemble", "name": "team", "members": ["ratio", "sum"]},
    ]
    settings = config(tmp_path / "out", pool, reward_models=models, limit=12)
    by_team = rmc.annotate(settings)
    by_ratio = rmc.annotate({**settings, "annotator": "ratio"})
    assert by_team.run["partial"]
    assert by_ratio.run["members"]["ratio/strong"]["n_scored"] == 0
    strong, weak = (rmc.Logprob(model=str(lm)) for lm in lms)
    for pair in by_ratio.everything().to_dict("records"):
        both = row(pair["prompt"], [pair[side][0]["content"] for side in ("chosen", "rejected")])
        ratios = strong.score([both])[0] - weak.score([both])[0]
        np.testing.assert_allclose(
            ratios, [pair["chosen_reward"], pair["rejected_reward"]], rtol=0, atol=1e-4
        )


def test_a_policy_samples_the_candidates(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(5)))
    policy = save_family("Llama", tmp_path / "policy", tokenizer(), CAUSAL)
    settings = config(
        tmp_path / "out",
        prompts,
        policy={"model": str(policy), "n": 4, "max_new_tokens": 6},
        held_out_fraction=0.0,
    )
    result = rmc.annotate(settings)
    pools = pd.read_parquet(tmp_path / "out" / "candidates" / "candidates.parquet")
    pools = pools.set_index("id")["completions"]
    assert result.run["candidates"]["n_completions"] == 20
    assert result.run["pairs"]["n"] == 5
    for pair in result.preferences.to_dict("records"):
        completions = list(pools[pair["id"]])
        assert {pair["chosen"][0]["content"], pair["rejected"][0]["content"]} <= set(completions)
        assert pair["chosen_reward"] == max(sum(c.encode()) for c in completions)
    again = rmc.annotate(str(tmp_path / "out" / "config.yaml"))
    assert again.run["candidates"]["n_sampled"] == 0
    pd.testing.assert_frame_equal(again.preferences, result.preferences)


def test_a_failed_prompt_is_counted_and_ends_the_run_after_saving(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    records = [{"prompt": f"p{i}", "completions": ["a", "b"], "labels": [0, 1]} for i in range(9)]
    records[3]["completions"] = ["a", "poison"]
    pool.write_text("".join(json.dumps(record) + "\n" for record in records))
    failing = {"type": "tests.scorers:ByteSum", "name": "sum", "options": {"fail": "poison"}}
    settings = config(tmp_path / "out", pool, reward_models=[failing])
    with pytest.raises(ScoringError, match="1 of 9 prompts failed"):
        rmc.annotate(settings)
    saved = json.loads((tmp_path / "out" / "run.json").read_text())
    assert saved["pairs"]["dropped"] == {"failed": 1}
    assert saved["pairs"]["n_pairs"] == 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotator": "other"}, "annotator must be one of reward_models, sum"),
        ({"pair_rule": "best_vs_second"}, "pair_rule is wrong"),
        ({"held_out_fraction": 1.0}, "held_out_fraction is wrong"),
        ({"beta": -1}, "beta is wrong"),
        ({"reward_models": [{"type": "judge", "model": "m"}]}, "compare: round_robin"),
        ({"candidates": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"candidates": "prompts"}, "prompts"),
        ({"policy": {"model": "m", "n": 1}}, "policy.n must be 2 or more"),
        ({"similarity": {"model": "./nowhere"}}, "nowhere"),
    ],
)
def test_a_mistake_is_told(
    tmp_path: Path, pool: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises((ConfigError, rmc.RMClusterError), match=reason):
        rmc.annotate(config(tmp_path / "out", pool, **changes))
    assert not (tmp_path / "out" / "run.json").exists()


def test_the_config_survives_yaml(pool: Path) -> None:
    run = parse_config(AnnotateConfig, config(Path("out"), pool, format="standard"))
    assert parse_config(AnnotateConfig, run.model_dump()) == run


@pytest.mark.parametrize("form", ["conversational", "standard"])
def test_trl_trains_on_them_as_they_are(tmp_path: Path, pool: Path, form: str) -> None:
    import datasets
    from trl import DPOConfig, DPOTrainer

    rmc.annotate(config(tmp_path / "out", pool, format=form))
    train, held_out = (
        datasets.load_dataset(
            "parquet",
            data_files=str(tmp_path / "out" / f"{name}.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        for name in ("preferences", "held_out")
    )
    policy = save_family("Llama", tmp_path / "policy", tokenizer(), CAUSAL)
    trainer = DPOTrainer(
        model=str(policy),
        args=DPOConfig(
            output_dir=str(tmp_path / "dpo"),
            max_steps=8,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer(),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3), "policy and reference begin equal"
    assert np.mean(losses[-3:]) < losses[0]
    assert np.isfinite(trainer.evaluate()["eval_loss"])
