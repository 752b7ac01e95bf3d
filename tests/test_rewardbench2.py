from __future__ import annotations

import math

import numpy as np
import pytest

from rm_cluster.benchmarks.rewardbench2 import cluster, official, parse
from rm_cluster.benchmarks.source import Place
from rm_cluster.errors import DataFormatError
from tests.judging import judge, judge_pairs, values


def parsed(id: str, subset: str, num_correct: int = 1, num_incorrect: int = 3):
    record = {
        "id": id,
        "prompt": "p",
        "chosen": [f"c{i}" for i in range(num_correct)],
        "rejected": [f"r{i}" for i in range(num_incorrect)],
        "subset": subset,
    }
    return parse(record, Place("test.parquet", 1))


def test_best_of_four_gives_tied_winners_their_share() -> None:
    rows = [parsed(str(i), "Math") for i in range(4)]
    rewards = [[2, 1, 1, 1], [2, 2, 1, 1], [1, 1, 1, 1], [1, 2, 0, 0]]
    found = values(official(judge(rows, rewards)))
    assert found["Math", "score"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 0) / 4)


def test_a_judge_of_pairs_has_best_of_four_and_no_ties() -> None:
    rows = [parsed(str(i), "Math") for i in range(4)]
    margins = [[1.0, 2.0, 1.0], [0.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0]]
    found = official(judge_pairs(rows, margins))
    assert values(found)["Math", "score"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert values(found)["overall", "score"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    rows.append(parsed("tied:0", "Ties", 2, 1))
    found = official(judge_pairs(rows, [*margins, [1.0, 1.0]]))
    assert found["Ties", "score"][0].counts.sum() == 0
    assert official(judge_pairs(rows[:1], [[np.nan] * 3])) == {}
    assert ("Math", "score") in found


def test_prompts_with_a_reply_that_was_not_rated_are_left_out() -> None:
    rows = [parsed("ref:0", "Ties", 1, 1), parsed("tied:0", "Ties", 2, 1), parsed("0", "Math")]
    found = values(official(judge(rows, [[1, 0], [1, np.nan, 0], [np.nan, 1, 1, 1]])))
    assert np.isnan(
        found["Ties", "score"]
    )  # 0.30 of the two right ones would look like a low score
    assert ("Math", "score") not in found


def test_overall_is_the_mean_of_domains() -> None:
    rows = [parsed("0", "Math"), parsed("1", "Focus"), parsed("2", "Focus")]
    found = values(official(judge(rows, [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])))
    assert found["overall", "score"] == pytest.approx((1 + 0.5) / 2)


def test_ties_score_by_hand() -> None:
    rows = [parsed("ref:0", "Ties", 1, 2), parsed("tied:0", "Ties", 3, 1)]
    # ref: gap 5 - 2 = 3.  tied: right 4, 5, 4.5, spread 1; wrong 2.5, gap 1.5.
    found = values(official(judge(rows, [[5, 1, 2], [4, 5, 4.5, 2.5]])))
    # both accurate; 1.5 > 1; min(3, 1.5) > 1; margin tanh(1.5 / 1 - 1)
    expected = 0.30 + 0.30 + 0.20 + 0.20 + 0.01 * math.tanh(0.5)
    assert found["Ties", "score"] == pytest.approx(expected)


def reference_ties(rows: list, rewards: list[list[float]]) -> float:
    """The formulas of the benchmark's own code, prompt by prompt."""
    ref, tied = {}, {}
    for row, scores in zip(rows, rewards, strict=True):
        kind, name = row["id"].removeprefix("Ties/").split(":")
        right = [s for s, label in zip(scores, row["labels"], strict=True) if label == 1]
        wrong = [s for s, label in zip(scores, row["labels"], strict=True) if label == 0]
        spread = max(right) - min(right) if len(right) > 1 else None
        gap = min(right) - max(wrong)
        (ref if kind == "ref" else tied)[name] = (gap > 0, spread, gap)
    both = sorted(set(ref) & set(tied))
    pref = [tied[n][2] > tied[n][1] for n in both]
    hard = [min(ref[n][2], tied[n][2]) > tied[n][1] for n in both]
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = [
            np.nan_to_num(np.tanh(np.float64(min(ref[n][2], tied[n][2])) / tied[n][1] - 1))
            for n in both
        ]
    return float(
        0.30 * np.mean([t[0] for t in tied.values()])
        + 0.30 * np.mean([r[0] for r in ref.values()])
        + 0.20 * np.mean(pref)
        + 0.20 * np.mean(hard)
        + 0.01 * np.mean(margins)
    )


def test_ties_score_against_the_published_formulas() -> None:
    rng = np.random.default_rng(0)
    rows, rewards = [], []
    for index in range(60):
        for kind, num_correct in (("ref", 1), ("tied", int(rng.integers(2, 6)))):
            if rng.random() < 0.1:
                continue  # a partner is missing
            rows.append(parsed(f"{kind}:{index}", "Ties", num_correct, int(rng.integers(1, 5))))
            # few levels, so that gaps and spreads of zero occur
            rewards.append(rng.integers(0, 4, len(rows[-1]["completions"])).astype(float).tolist())
    found = values(official(judge(rows, rewards)))
    assert found["Ties", "score"] == pytest.approx(reference_ties(rows, rewards))


def test_the_two_rows_of_a_ties_prompt_are_drawn_together() -> None:
    assert cluster("Ties/ref:3") == cluster("Ties/tied:3") != cluster("Ties/tied:4")
    assert cluster("Math/3") == "Math/3"


def test_a_ties_row_needs_its_kind_of_id() -> None:
    with pytest.raises(DataFormatError, match="ref: or tied:"):
        parsed("3", "Ties")
