from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.benchmarks.rm_bench import official, parse
from rm_cluster.benchmarks.source import Place
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError
from tests.judging import judge, judge_pairs, values


def record(id: int, **fields: object) -> dict[str, object]:
    sides = {"chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"]}
    return {"id": id, "prompt": "p", **sides, **fields}


def parsed(id: int, domain: str):
    return parse(record(id, domain=domain), Place("total_dataset.json", id + 1))


def test_hard_normal_easy_by_hand() -> None:
    # chosen 3, 2, 1; rejected 2.5, 2, 0.5.  chosen[i] > rejected[j]:
    #   c0=3: 1 1 1 / c1=2: 0 0 1 (2 > 2 is no win) / c2=1: 0 0 1
    # hard (0,1) (0,2) (1,2) = 1 1 1; normal (0,0) (1,1) (2,2) = 1 0 1;
    # easy (1,0) (2,0) (2,1) = 0 0 0
    first = [3, 2, 1, 2.5, 2, 0.5]
    # all chosen above all rejected: everything 1
    second = [9, 9, 9, 0, 0, 0]
    found = values(official(judge([parsed(0, "chat"), parsed(1, "code")], [first, second])))
    assert found["chat", "hard"] == 1
    assert found["chat", "normal"] == pytest.approx(2 / 3)
    assert found["chat", "easy"] == 0
    assert found["chat", "score"] == pytest.approx(5 / 9)
    assert found["code", "score"] == 1
    assert found["overall", "hard"] == 1
    assert found["overall", "easy"] == 0.5
    assert found["overall", "score"] == pytest.approx((5 / 9 + 1) / 2)


def test_a_judge_of_pairs_is_judged_by_its_margins() -> None:
    rng = np.random.default_rng(1)
    rows = [parsed(i, ("chat", "code")[i % 2]) for i in range(30)]
    rewards = rng.integers(0, 6, size=(30, 6)).astype(float)
    margins = (rewards[:, :3, None] - rewards[:, None, 3:]).reshape(30, 9)
    expected = values(official(judge(rows, rewards.tolist())))
    assert values(official(judge_pairs(rows, margins.tolist()))) == pytest.approx(expected)


def test_undecided_comparisons_are_left_out() -> None:
    # of the hard ones (0, 1), (0, 2), (1, 2) one is won and one undecided; all others are won
    margins = [[1, 1, math.nan, 1, 1, -1, 1, 1, 1], [math.nan] * 9]
    rows = [parsed(0, "chat"), parsed(1, "code")]
    found = values(official(judge_pairs(rows, margins)))
    assert found["chat", "hard"] == 0.5
    assert found["overall", "score"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert ("code", "score") not in found
    assert official(judge_pairs(rows, [[math.nan] * 9] * 2)) == {}


def test_domains_weigh_alike_and_safety_pools_its_files_by_row() -> None:
    good, bad = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    rows = [parsed(0, "chat"), parsed(1, "safety-refuse"), parsed(2, "safety-refuse")]
    rows.append(parsed(3, "safety-response"))
    found = values(official(judge(rows, [good, good, bad, bad])))
    assert found["safety", "score"] == pytest.approx(1 / 3)
    assert found["overall", "score"] == pytest.approx((1 + 1 / 3) / 2)


def test_against_the_authors_arithmetic_on_random_rewards() -> None:
    rng = np.random.default_rng(0)
    domains = ["chat", "math", "code", "safety-refuse", "safety-response"]
    rows = [parsed(i, domains[rng.integers(5)]) for i in range(200)]
    rewards = rng.integers(0, 6, size=(200, 6)).astype(float)
    found = values(official(judge(rows, rewards.tolist())))
    by_domain = {}
    for domain in ("chat", "math", "code", "safety"):
        inside = [r for r, row in zip(rewards, rows, strict=True) if row["domain"] == domain]
        matrix = np.zeros((3, 3))
        for r in inside:
            for i in range(3):
                for j in range(3):
                    matrix[i, j] += r[i] > r[3 + j]
        matrix /= len(inside)
        hard = (matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3
        normal = (matrix[0, 0] + matrix[1, 1] + matrix[2, 2]) / 3
        easy = (matrix[1, 0] + matrix[2, 0] + matrix[2, 1]) / 3
        by_domain[domain] = (hard, normal, easy)
        assert found[domain, "score"] == pytest.approx((hard + normal + easy) / 3)
    overall = np.mean(list(by_domain.values()), axis=0)
    for name, value in zip(("hard", "normal", "easy"), overall, strict=True):
        assert found["overall", name] == pytest.approx(value)


def test_the_files_name_says_the_domain(tmp_path: Path) -> None:
    file = tmp_path / "safety-response_filtered.json"
    file.write_text(json.dumps([record(7), record(7), {"id": 1}, "text"]))
    config = BenchmarkConfig.model_validate({"name": "rm-bench", "path": str(tmp_path)})
    first, second, no_texts, no_object = read_rows(config)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["domain"], first["slices"]) == ("safety", ["safety-response"])
    assert (first["id"], second["id"]) == ("safety-response/7", "safety-response/7#2")
    assert isinstance(no_texts, RejectedRow)
    assert isinstance(no_object, RejectedRow)
    assert (no_texts.line, no_object.line) == (3, 4)


def test_the_authors_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "chat_filtered.json").write_text(json.dumps([record(1)]))
    (tmp_path / "total_dataset.json").write_text(json.dumps([record(1, domain="chat")]))
    config = BenchmarkConfig.model_validate({"name": "rm-bench", "path": str(tmp_path)})
    assert [row["id"] for row in read_rows(config)] == ["chat/1"]


def test_a_row_without_domain_is_set_aside() -> None:
    with pytest.raises(DataFormatError, match="chat, code, math, safety"):
        parse(record(0), Place("mine.json", 1))


def test_the_authors_files(shared_data: Path) -> None:
    path = str(shared_data / "rm_bench")
    rows = list(read_rows(BenchmarkConfig.model_validate({"name": "rm-bench", "path": path})))
    assert len(rows) == 129 + 157
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["domain"] for row in rows} == {"chat", "safety"}
    assert all(len(row["completions"]) == 6 and len(row["pairs"]) == 9 for row in rows)
