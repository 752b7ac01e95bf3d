from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rm_cluster.sandbox.base_models import BASE_RECIPES
from rm_cluster.sandbox.policies import POLICIES
from rm_cluster.sandbox.reward_models import Recipe
from rm_cluster.sandbox.tasks import FAMILIES, verify_row
from rm_cluster.sandbox.tokenizer import byte_tokenizer, tokenize_prompts, tokenize_replies
from rm_cluster.sandbox.world import Plan, _capped, build_world
from rm_cluster.scorers import Classifier

TINY = Plan(
    bases=[recipe._replace(width=16, num_layers=1, num_steps=12) for recipe in BASE_RECIPES],
    reward_models=[Recipe("base-m", (48, 96), noise=0.3)],
    num_ballots=16,
    num_battles=60,
    num_prompts=2,
    max_rows=2,
    num_pool_prompts=2,
    num_mistakes=3,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(folder, TINY, seed=0)
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_file_of_the_world_is_there(world: Path) -> None:
    assert {path.name for path in (world / "ppe").iterdir()} == {
        "PPE-Human-Preference-V1.jsonl",
        *(f"PPE-{family}-Best-of-K.jsonl" for family in FAMILIES),
    }
    assert {path.name for path in (world / "base_models").iterdir()} == {
        policy.base for policy in POLICIES
    }
    assert {path.name for path in (world / "reward_models").iterdir()} == {
        "base-m-48-votes-noise30",
        "base-m-96-votes-noise30",
    }


def test_there_are_as_many_battles_as_planned_and_no_reply_is_empty(world: Path) -> None:
    battles = records(world / "ppe" / "PPE-Human-Preference-V1.jsonl")
    assert len(battles) == 60
    assert all(battle["response_1"] and battle["response_2"] for battle in battles)


def test_the_pool_shares_no_prompt_with_the_ppe_files(world: Path) -> None:
    pool = records(world / "pool.jsonl")
    assert Counter(record["domain"] for record in pool) == dict.fromkeys(FAMILIES, 2)
    assert {len(record["completions"]) for record in pool} == {16}
    judged = {row["prompt"] for path in (world / "ppe").iterdir() for row in records(path)}
    assert not judged & {record["prompt"] for record in pool}


def test_mistakes_are_right_answers_against_wrong_ones(world: Path) -> None:
    pairs = records(world / "mistakes.jsonl")
    assert set(Counter(pair["domain"] for pair in pairs)) == set(FAMILIES)
    assert 12 <= len(pairs) <= 15, (
        "three of each family, less where the mistake happens to be right"
    )
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    assert not {pair["prompt"] for pair in pairs} & {
        r["prompt"] for r in records(world / "pool.jsonl")
    }


def test_every_reward_model_has_an_outcome(world: Path) -> None:
    with (world / "outcomes.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["reward_model"] for line in lines} == {
        *(path.name for path in (world / "reward_models").iterdir()),
        "length",
    }
    for line in lines:
        assert 0 <= float(line["ci_low"]) <= float(line["value"]) <= float(line["ci_high"]) <= 1
        assert line["n"] == "10"


def test_reward_models_are_classifiers_that_tell_replies_apart(world: Path) -> None:
    classifier = Classifier(model=str(world / "reward_models" / "base-m-96-votes-noise30"))
    prompt = [{"role": "user", "content": "52 plus 10"}]
    (rewards,) = classifier.score([{"prompt": prompt, "completions": ["62", "42"]}])  # type: ignore[list-item, typeddict-item]
    assert rewards[0] != rewards[1]


def test_the_tokens_are_those_of_the_chat_template(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "base_models" / "base-s")
    chat = [{"role": "user", "content": "52 plus 10"}, {"role": "assistant", "content": "62"}]
    for ids, turns, prompted in (
        (tokenize_replies(tokenizer, [("52 plus 10", "62")]), chat, False),
        (tokenize_prompts(tokenizer, ["52 plus 10"]), chat[:1], True),
    ):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompted)
        assert ids[0].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompts_are_padded_on_the_left_and_replies_on_the_right() -> None:
    tokenizer = byte_tokenizer()
    pad = tokenizer.pad_token_id
    prompts = tokenize_prompts(tokenizer, ["a", "abc"])
    replies = tokenize_replies(tokenizer, [("a", "b"), ("a", "bcd")])
    assert prompts[0, :2].tolist() == [pad, pad]
    assert replies[0, -2:].tolist() == [pad, pad]


def test_each_generator_keeps_its_first_rows() -> None:
    rows = [{"model_name": name, "i": i} for i, name in enumerate("aabab")]
    assert [row["i"] for row in _capped([*rows, None], 2)] == [0, 1, 2, 4]


def test_prompts_to_sample_on_come_with_answers(world: Path) -> None:
    prompts = records(world / "prompts.jsonl")
    assert Counter(record["domain"] for record in prompts) == dict.fromkeys(FAMILIES, 48)
    assert len({record["prompt"] for record in prompts}) == 240
    row: Any = {"metadata": json.dumps({"answer": prompts[0]["answer"]})}
    assert verify_row(row, f"It is {prompts[0]['answer']}.")
    assert not verify_row(row, "It is nothing.")
