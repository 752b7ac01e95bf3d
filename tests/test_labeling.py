from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rm_cluster.config import AnnotateConfig
from rm_cluster.labeling import Labeled, label, schema
from rm_cluster.pairing import mean_word_overlap
from tests.rows import row

ROWS = [row(f"p{i}", ["good", "bad", "worse one"], id=f"r{i}", pairs=[]) for i in range(100)]
REWARDS = [np.array([3.0, 2.0, 1.0])] * 100


def config(**changes: Any) -> AnnotateConfig:
    base = {"reward_models": [{"type": "length"}], "candidates": "pool.jsonl"}
    return AnnotateConfig(**{**base, "pair_rule": "best_vs_worst", **changes})


def labeled(rows: Any = ROWS, rewards: Any = REWARDS, **changes: Any) -> Labeled:
    return label(config(**changes), rows, rewards, mean_word_overlap)


def test_a_preference_has_the_columns_of_trl() -> None:
    found = labeled(ROWS[:1], REWARDS[:1], held_out_fraction=0.0).train[0]
    assert found == {
        "prompt": [{"role": "user", "content": "p0"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "worse one"}],
        "chosen_reward": 3.0,
        "rejected_reward": 1.0,
        "margin": 2.0,
        "domain": "d",
        "id": "r0",
    }
    assert schema(config()).names == list(found)


def test_the_standard_format_is_plain_text() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    talk = row(turns, ["a", "b", "c"], id="talk")
    found = labeled([ROWS[0], talk], REWARDS[:2], format="standard", held_out_fraction=0.0)
    assert [found.train[0][name] for name in ("prompt", "chosen", "rejected")] == [
        "p0", "good", "worse one",
    ]  # fmt: skip
    assert found.dropped == {"multi_turn": 1}


def test_every_prompt_is_a_pair_or_counted_under_its_reason() -> None:
    nan = np.nan
    rewards = [
        None,
        np.array([nan, nan, nan]),
        np.array([1.0, nan, nan]),
        np.array([1.0, 1.0, 1.0]),
        np.array([1.0, nan, 0.9]),
        np.array([5.0, 1.0, 4.0]),
        np.array([5.0, nan, 1.0]),
    ]
    found = labeled(ROWS[:7], rewards, min_margin=0.5, max_words=1)
    assert found.dropped == {"failed": 2, "single": 1, "tied": 1, "min_margin": 1, "max_words": 1}
    assert len(found.train) + len(found.held_out) == 1
    assert found.num_lost == 2  # of the prompts that have two rewards or more


def test_equal_texts_are_no_pair() -> None:
    twins = row("p", ["same", "same"], id="twins")
    assert labeled([twins], [np.array([1.0, 0.0])]).dropped == {"equal_texts": 1}


def test_a_long_against_a_short_completion_is_left_out() -> None:
    rows = [row("p", ["one", " ".join(["word"] * length)], id=str(length)) for length in (2, 3)]
    found = labeled(rows, [np.array([1.0, 0.0])] * 2, max_length_ratio=2.0)
    assert found.dropped == {"max_length_ratio": 1}


def test_the_split_is_by_prompt_whatever_else_is_there() -> None:
    whole = labeled(held_out_fraction=0.3)
    ids = {record["id"] for record in whole.held_out}
    assert 15 < len(ids) < 45
    half = labeled(ROWS[::2], REWARDS[::2], held_out_fraction=0.3)
    assert {record["id"] for record in half.held_out} == ids & {row["id"] for row in ROWS[::2]}
    larger = labeled(held_out_fraction=0.5)
    assert ids < {record["id"] for record in larger.held_out}
    twice = [{**one, "id": f"{one['id']}/{k}"} for one in ROWS for k in range(2)]
    both = labeled(twice, REWARDS * 2, held_out_fraction=0.3)
    assert {record["id"] for record in both.held_out} == {f"{id}/{k}" for id in ids for k in "01"}


@pytest.mark.parametrize("rule", ["best_vs_random", "best_vs_uniform_rank", "mbr_bon_vs_worst"])
def test_the_same_seed_makes_the_same_pairs(rule: str) -> None:
    first = labeled(pair_rule=rule, seed=3)
    assert first == labeled(pair_rule=rule, seed=3)
    if rule != "mbr_bon_vs_worst":
        assert first != labeled(pair_rule=rule, seed=4)


def test_mbr_bon_compares_what_has_a_reward_only() -> None:
    texts = ["x y", "a b", "a b c", "z"]
    rewards = np.array([1.0, 0.9, 0.0, np.nan])
    pool = row("p", texts, id="p", pairs=[])
    # among the first three: x y 1/3, a b (0 + 1 + 4/5) / 3, so any beta > 0.1 / 0.27 takes a b
    found = labeled([pool], [rewards], pair_rule="mbr_bon_vs_worst", beta=0.5)
    kept = (found.train + found.held_out)[0]
    assert kept["chosen"][0]["content"] == "a b"
    assert kept["rejected"][0]["content"] == "a b c"
