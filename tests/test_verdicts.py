from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rm_cluster.config import JudgeConfig
from rm_cluster.metrics.verdicts import debias, round_robin_rewards
from rm_cluster.scorers.judge_prompt import UNSCORED
from rm_cluster.scorers.questions import answers, question_rows, questions
from tests.rows import row

nan = float("nan")


def judge(**options: Any) -> JudgeConfig:
    return JudgeConfig(**{"model": "m", **options})


def test_both_orders_give_the_preference_and_the_bias() -> None:
    # l_ab = m + b, l_ba = -m + b: 3 = 2 + 1, -1 = -2 + 1; 1 = 0.25 + 0.75, 0.5 = -0.25 + 0.75
    margin, bias, inconsistent = debias(np.array([3.0, 1.0, nan]), np.array([-1.0, 0.5, 1.0]))
    np.testing.assert_array_equal(margin, [2.0, 0.0, nan])
    np.testing.assert_array_equal(bias, [1.0, 0.75, nan])
    assert inconsistent.tolist() == [False, True, False]


def test_a_verdict_that_ties_in_one_order_only_is_inconsistent() -> None:
    found = debias(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert found.inconsistent.tolist() == [False, True, True]
    assert found.margin.tolist() == [0.0, 0.0, 0.0]


def test_swapping_the_replies_mirrors_margins_and_keeps_the_bias() -> None:
    straight, swapped = np.random.default_rng(0).normal(size=(2, 500))
    one, other = debias(straight, swapped), debias(swapped, straight)
    np.testing.assert_array_equal(one.margin + 0.0, -other.margin + 0.0)
    np.testing.assert_array_equal(one.bias, other.bias)
    np.testing.assert_array_equal(one.inconsistent, other.inconsistent)


def test_round_robin_recovers_rewards_from_their_differences() -> None:
    rewards = np.array([2.0, -1.0, 0.5, -1.5])
    pairs = list(itertools.combinations(range(4), 2))
    margins = np.array([rewards[i] - rewards[j] for i, j in pairs])
    found = round_robin_rewards(margins, pairs, 4)
    np.testing.assert_allclose(found, rewards - rewards.mean(), atol=1e-12)
    margins[[0, 3]] = nan  # 0-1 and 1-2 failed; 0-2, 0-3, 1-3, 2-3 still connect all
    np.testing.assert_allclose(
        round_robin_rewards(margins, pairs, 4), rewards - rewards.mean(), atol=1e-12
    )


def test_round_robin_of_a_circle_is_a_tie_and_sums_win_over_k() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert round_robin_rewards(np.array([1.0, -1.0, 1.0]), pairs, 3) == pytest.approx([0, 0, 0])
    # sums of margins over K: (1 + 1) / 3, (-1 + 0) / 3, (-1 + 0) / 3
    found = round_robin_rewards(np.array([1.0, 1.0, 0.0]), pairs, 3)
    np.testing.assert_allclose(found, [2 / 3, -1 / 3, -1 / 3], atol=1e-12)


def test_round_robin_needs_comparisons_that_connect() -> None:
    assert round_robin_rewards(np.array([1.0, nan, nan]), [(0, 1), (0, 2), (1, 2)], 3) is None
    assert round_robin_rewards(np.array([]), [], 1).tolist() == [0.0]


def test_what_is_asked_is_asked_once() -> None:
    pairs: Any = [
        {"chosen": 2, "rejected": 0, "tie": False},
        {"chosen": 0, "rejected": 2, "tie": True},
        {"chosen": 0, "rejected": 1, "tie": False},
    ]
    assert questions(judge(), pairs, 3) == [(0, 1), (0, 2)]
    assert questions(judge(compare="round_robin"), [], 3) == [(0, 1), (0, 2), (1, 2)]
    assert questions(judge(method="rating"), pairs, 3) == [(0,), (1,), (2,)]
    asked = question_rows(judge(), row("p", ["x", "y", "z"], id="r", pairs=pairs))
    assert [(one["id"], one["completions"]) for one in asked] == [
        ("r/0-1", ["x", "y"]), ("r/0-2", ["x", "z"]),
    ]  # fmt: skip


def table(*rows: tuple[list[dict[str, Any]], int]) -> pa.Table:
    return pa.table(
        {"pairs": [pairs for pairs, _ in rows], "num_completions": [num for _, num in rows]}
    )


def stored(*found: list[float] | str) -> pa.Table:
    return pa.table(
        {
            "values": pa.array(
                [None if isinstance(one, str) else one for one in found], pa.list_(pa.float64())
            ),
            "error": pa.array(
                [one if isinstance(one, str) else None for one in found], pa.string()
            ),
        }
    )


def test_answers_become_margins_in_the_direction_of_each_pair() -> None:
    pairs = [
        {"chosen": 2, "rejected": 0, "tie": False},
        {"chosen": 0, "rejected": 1, "tie": False},
    ]
    one = {"chosen": 0, "rejected": 1, "tie": False}
    found = answers(
        judge(),
        table((pairs, 3), ([one], 2), ([], 2)),
        # 0-1: m = 2; 0-2: m = -1, so chosen 2 wins by 1; then no verdict
        stored([3.0, -1.0], [-1.0, 1.0], f"{UNSCORED}gibberish"),
    )
    first, second, third = found.table.to_pylist()
    assert first["margins"] == [1.0, 2.0]
    assert np.isnan(first["values"]).all()
    assert (first["error"], first["num_compared"], first["bias"]) == (None, 2, 1.0)
    assert second["values"] is None
    assert second["error"] == "1 of 1 questions failed; the first: unscored: gibberish"
    assert (third["error"], third["margins"]) == (None, []), "nothing to compare is no failure"
    assert np.isnan(third["values"]).all()
    assert found.counts == {
        "n_questions": 3, "n_unscored": 1, "n_failed_questions": 0, "n_inconsistent": 0,
    }  # fmt: skip


def test_one_lost_rating_leaves_the_others() -> None:
    found = answers(judge(method="rating"), table(([], 3)), stored([7.0], "answers 500", [2.0]))
    (line,) = found.table.to_pylist()
    np.testing.assert_array_equal(line["values"], [7.0, nan, 2.0])
    assert line["error"].startswith("1 of 3 questions failed")
    assert found.counts["n_failed_questions"] == 1
