from __future__ import annotations

import numpy as np
import pytest

from rm_cluster.benchmarks.rows import all_pairs, pair
from rm_cluster.metrics.pairwise import accuracy, groups, num_tied
from tests.judging import judge, rows_table, values
from tests.rows import row


def test_accuracy_counts_comparisons_and_half_for_ties() -> None:
    rows = [
        row(id=0, completions=["a", "b"]),
        row(id=1, completions=["a", "b", "c", "d"], pairs=all_pairs(2, 2)),
        row(id=2, completions=["a", "b"], domain="e", slices=["hard"]),
    ]
    judged = judge(rows, [[2, 1], [5, 1, 1, 3], [1, 4]])
    found = values(accuracy(judged))
    # prompt 0: 2>1. prompt 1: 5>1, 5>3, 1=1 (half), 1<3. prompt 2: 1<4.
    assert found["d", "accuracy"] == (1 + 1 + 1 + 0.5 + 0) / 5
    assert found["e", "accuracy"] == found["hard", "accuracy"] == 0
    assert found["overall", "accuracy"] == 3.5 / 6
    assert num_tied(judged).tolist() == [0, 1, 0]


def test_gold_ties_decide_nothing() -> None:
    rows = [row(id=0, pairs=[pair(0, 1, tie=True)]), row(id=1)]
    judged = judge(rows, [[1, 9], [2, 1]])
    assert values(accuracy(judged))["overall", "accuracy"] == 1.0


def test_failed_prompts_are_left_out() -> None:
    rows = [row(id=i) for i in range(3)]
    judged = judge(rows, [[2, 1], None, [1, 2]])
    assert judged.position.tolist() == [0, 2]
    assert values(accuracy(judged))["overall", "accuracy"] == 0.5


def test_swapping_chosen_and_rejected_mirrors_accuracy() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 4, size=(50, 2)).astype(float)
    rows = [row(id=i) for i in range(50)]
    swapped = [row(id=i, pairs=[pair(1, 0)]) for i in range(50)]
    straight = values(accuracy(judge(rows, rewards.tolist())))["overall", "accuracy"]
    mirrored = values(accuracy(judge(swapped, rewards.tolist())))["overall", "accuracy"]
    assert straight + mirrored == pytest.approx(1)


def test_a_slice_that_bears_a_domains_name_joins_it() -> None:
    rows = [row(id=0, domain="math"), row(id=1, domain="chat", slices=["math"])]
    assert groups(rows_table(rows))["math"].tolist() == [True, True]


def test_accuracy_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    rows, rewards = [], []
    for index in range(80):
        chosen, rejected = rng.integers(1, 4, size=2)
        completions = [str(i) for i in range(chosen + rejected)]
        rows.append(row(id=index, completions=completions, pairs=all_pairs(chosen, rejected)))
        rewards.append(rng.integers(0, 5, size=chosen + rejected).astype(float).tolist())
    won, total = 0.0, 0
    for one, scores in zip(rows, rewards, strict=True):
        for p in one["pairs"]:
            a, b = scores[p["chosen"]], scores[p["rejected"]]
            won += 1.0 if a > b else 0.5 if a == b else 0.0
            total += 1
    found = values(accuracy(judge(rows, rewards)))["overall", "accuracy"]
    assert found == pytest.approx(won / total)
