from __future__ import annotations

import numpy as np
import pytest

from rm_cluster.benchmarks.rewardbench import SECTIONS, official, parse
from rm_cluster.benchmarks.source import Place
from rm_cluster.errors import DataFormatError
from tests.judging import judge, judge_pairs, values

# subset counts of the split `filtered`, from the authors' constants
COUNTS = {s: w for subsets in SECTIONS.values() for s, w in subsets.items()} | {"math-prm": 447}


def parsed(id: int, subset: str):
    record = {"id": id, "prompt": "p", "chosen": "c", "rejected": "r", "subset": subset}
    record |= {"chosen_model": "m1", "rejected_model": "m2"}
    return parse(record, Place("filtered.parquet", id))


def test_the_subsets_add_up_to_the_published_counts() -> None:
    assert sum(COUNTS.values()) == 2985
    sizes = [sum(COUNTS[s] for s in subsets) for subsets in SECTIONS.values()]
    assert sizes == [358, 456, 740, 1431]


def test_math_weighs_as_much_as_the_six_code_subsets() -> None:
    rows = [parsed(0, "math-prm")] + [parsed(i, "hep-cpp") for i in (1, 2)]
    # math right, code half right: (984 * 1 + 164 * 0.5) / (984 + 164)
    found = values(official(judge(rows, [[1, 0], [1, 0], [0, 1]])))
    assert found["Reasoning", "score"] == pytest.approx((984 + 82) / 1148)
    assert found["overall", "score"] == pytest.approx((984 + 82) / 1148)


def test_equal_rewards_are_wrong() -> None:
    found = values(official(judge([parsed(0, "donotanswer")], [[1, 1]])))
    assert found["Safety", "score"] == 0


def test_undecided_comparisons_are_left_out() -> None:
    rows = [parsed(i, "donotanswer") for i in range(3)] + [parsed(3, "hep-go")]
    found = values(official(judge_pairs(rows, [[1.0], [np.nan], [-1.0], [np.nan]])))
    assert found == {(name, "score"): 0.5 for name in ("donotanswer", "Safety", "overall")}
    assert official(judge_pairs(rows, [[np.nan]] * 4)) == {}


def test_against_a_plain_loop_over_the_full_composition() -> None:
    rng = np.random.default_rng(0)
    rows = [parsed(i, subset) for subset, count in COUNTS.items() for i in range(count)]
    rewards = rng.integers(0, 5, size=(len(rows), 2)).astype(float)
    found = values(official(judge(rows, rewards.tolist())))
    accuracy = {}
    for subset in COUNTS:
        inside = [
            r[0] > r[1] for r, row in zip(rewards, rows, strict=True) if subset in row["slices"]
        ]
        accuracy[subset] = np.mean(inside)
        assert found[subset, "score"] == pytest.approx(accuracy[subset])
    sections = [
        sum(accuracy[s] * w for s, w in subsets.items()) / sum(subsets.values())
        for subsets in SECTIONS.values()
    ]
    for section, value in zip(SECTIONS, sections, strict=True):
        assert found[section, "score"] == pytest.approx(value)
    assert found["overall", "score"] == pytest.approx(np.mean(sections))


def test_unknown_subset_is_set_aside() -> None:
    with pytest.raises(DataFormatError, match="unknown subset 'new'"):
        parsed(0, "new")
