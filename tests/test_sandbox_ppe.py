from __future__ import annotations

import random

import numpy as np
import pytest

from rm_cluster.sandbox.outcomes import OUTCOME, outcomes, picked_gold, pool_record
from rm_cluster.sandbox.policies import POLICIES, Ask
from rm_cluster.sandbox.ppe import Battle, K, battle_record, best_of_k_record, draw_battles
from rm_cluster.sandbox.tasks import Task, draw_tasks

TASK = Task("MATH", "English", "52 plus 10", "62", "42", hard=False)
BATTLE = Battle(TASK, (POLICIES[0], POLICIES[7]))


def best_of_k(num_right: int) -> dict[str, object] | None:
    replies = ["It is 62."] * num_right + ["42"] * (K - num_right)
    return best_of_k_record(Ask(TASK, POLICIES[0], K), replies, random.Random(0))


def test_twenty_policies_have_names_of_their_own() -> None:
    assert len({policy.name for policy in POLICIES}) == len(POLICIES) == 20


def test_battles_are_between_two_different_policies() -> None:
    rng = random.Random(0)
    battles = draw_battles(draw_tasks(rng, "ppe"), 400, rng)
    assert all(battle.policies[0] != battle.policies[1] for battle in battles)
    assert {policy for battle in battles for policy in battle.policies} == set(POLICIES)


def test_a_battle_has_the_columns_of_ppe() -> None:
    record = battle_record("battle-0", BATTLE, ("It is 62.", "42"), random.Random(0))
    assert set(record) == {
        *("question_id", "model_a", "model_b", "winner", "prompt", "response_1", "response_2"),
        *("language", "is_code", "is_refusal", "hard_prompt", "easy_prompt", "if_prompt"),
        *("math_prompt", "similar_response", "length_a", "length_b"),
    }
    assert (record["model_a"], record["model_b"]) == (POLICIES[0].name, POLICIES[7].name)
    assert (record["length_a"], record["length_b"]) == (9, 2)
    assert record["math_prompt"]
    assert not record["is_code"]
    assert record["easy_prompt"] != record["hard_prompt"]


@pytest.mark.parametrize(
    ("reply", "winner"), [("62", "tie"), ("42", "tie (bothbad)"), ("Sorry, no.", "tie (bothbad)")]
)
def test_a_tie_says_whether_both_are_bad(reply: str, winner: str) -> None:
    record = battle_record("battle-0", BATTLE, (reply, reply), random.Random(0))
    assert record["winner"] == winner
    assert record["similar_response"]
    assert record["is_refusal"] == (reply == "Sorry, no.")


@pytest.mark.parametrize(
    ("num_right", "kept"),
    [(0, False), (3, False), (4, True), (16, True), (28, True), (29, False), (32, False)],
)
def test_prompts_outside_the_pass_rates_are_dropped(num_right: int, kept: bool) -> None:
    # of 32: 10 % is 3.2 and 90 % is 28.8
    assert (best_of_k(num_right) is not None) == kept


def test_a_best_of_k_row_has_the_columns_of_ppe() -> None:
    record = best_of_k(5)
    assert record is not None
    assert set(record) == {
        *("question_id", "prompt", "scores", "sampled_conflict_pairs", "model_name"),
        *(f"response_{number}" for number in range(1, K + 1)),
    }
    assert record["scores"] == [True] * 5 + [False] * 27


def test_conflict_pairs_are_one_right_and_one_wrong_in_either_order() -> None:
    record = best_of_k(16)
    assert record is not None
    scores, orders = record["scores"], set()
    for seed in range(20):
        replies = ["62"] * 16 + ["42"] * 16
        row = best_of_k_record(Ask(TASK, POLICIES[0], K), replies, random.Random(seed))
        assert row is not None
        assert len(row["sampled_conflict_pairs"]) == 5
        for i, j in row["sampled_conflict_pairs"]:
            assert scores[i] != scores[j]  # type: ignore[index]
            orders.add(row["scores"][i])
    assert orders == {True, False}


def test_the_pool_is_labeled_by_the_verifier() -> None:
    record = pool_record("pool-0", Ask(TASK, POLICIES[0], 3), ["62", "It is 62.", "42"])
    assert record["labels"] == [1.0, 1.0, 0.0]
    assert record["policies"] == [POLICIES[0].name] * 3


def test_the_pick_is_the_highest_reward_and_ties_share() -> None:
    labels = np.array([1.0, 0.0, 0.0, 1.0])
    assert picked_gold(np.array([3.0, 2.0, 1.0, 0.0]), labels) == 1.0
    # the last three tie: (0 + 0 + 1) / 3
    assert picked_gold(np.array([0.0, 2.0, 2.0, 2.0]), labels) == pytest.approx(1 / 3)


def test_outcomes_average_the_picks_over_prompts() -> None:
    pool = [pool_record(f"pool-{i}", Ask(TASK, POLICIES[0], 2), ["62", "42"]) for i in range(40)]
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    rewards = {"oracle": [right] * 40, "half": [right, wrong] * 20, "ties": [np.zeros(2)] * 40}
    lines = {line["reward_model"]: line for line in outcomes(pool, rewards, seed=0)}
    assert {line["outcome"] for line in lines.values()} == {OUTCOME}
    assert {line["n"] for line in lines.values()} == {40}
    assert [lines[name]["value"] for name in rewards] == [1.0, 0.5, 0.5]
    # a proportion of 0.5 over 40 prompts: half width about 1.96 * sqrt(0.25 / 40) = 0.155
    assert lines["half"]["ci_high"] - 0.5 == pytest.approx(0.155, abs=0.04)
    # every prompt gives 0.5, so nothing varies
    assert (lines["ties"]["ci_low"], lines["ties"]["ci_high"]) == (0.5, 0.5)
