from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from rm_cluster.benchmarks import BENCHMARKS, RejectedRow, read_rows
from rm_cluster.benchmarks.ppe import parse
from rm_cluster.benchmarks.source import Place
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.curves import best_of_k_curves
from rm_cluster.metrics.strengths import bradley_terry
from rm_cluster.metrics.table import BenchmarkRewards, measure
from rm_cluster.types import Row
from tests.judging import rows_table, scores_table
from tests.ppe_data import FILES, NUM_SAMPLES, human_records, sample_records, write_ppe
from tests.test_picks import expected_pick

HUMAN_PLACE = Place("data/PPE-Human-Preference-V1/test.parquet", 1)
MATH_PLACE = Place("data/PPE-MATH-Best-of-K/train.parquet", 1)


def read(folder: Path) -> list[Row]:
    rows = list(read_rows(BenchmarkConfig(name="ppe", type="ppe", path=str(folder))))
    assert not any(isinstance(row, RejectedRow) for row in rows)
    return rows


def rewards_for(rows: list[Row], seed: int) -> list[list[float]]:
    """Few different values, so that many rewards tie; some completions have failed."""
    rng = np.random.default_rng(seed)
    rewards = []
    for row in rows:
        values = rng.integers(4, size=len(row["completions"])).astype(float)
        if row["domain"] != "human_preference":
            values[rng.random(len(values)) < 0.05] = np.nan
        rewards.append(values.tolist())
    return rewards


def benchmark(rows: list[Row], **scores: Any) -> BenchmarkRewards:
    ppe = BENCHMARKS["ppe"]
    return BenchmarkRewards(
        name="ppe",
        rows=rows_table(rows),
        scores=scores,
        official=ppe.official,
        cluster=ppe.cluster,
        joint=ppe.joint,
        groups=ppe.groups,
        headlines=ppe.headlines,
    )


def values(table: pd.DataFrame) -> Callable[[str, str], Any]:
    indexed = table.set_index(["domain", "metric"])
    return lambda domain, metric: indexed.loc[(domain, metric)]


def test_a_battle_becomes_a_row() -> None:
    record = human_records(1, 5, 0)[0] | {
        "winner": "model_b", "hard_prompt": True, "easy_prompt": False, "if_prompt": False,
        "is_code": True, "math_prompt": False, "language": "Chinese", "response_1": "a b c d",
        "response_2": "a b c",
    }  # fmt: skip
    row = parse(record, HUMAN_PLACE)
    assert row["completions"] == ["a b c d", "a b c"]
    assert row["policies"] == [record["model_a"], record["model_b"]]
    assert row["pairs"] == [{"chosen": 1, "rejected": 0, "tie": False}]
    # 3 of 4 words shared is at least half: similar; 5 characters less: the shorter won
    assert row["slices"] == [
        "Chinese", "coding", "hard", "non_english", "shorter_won", "similar_response",
    ]  # fmt: skip
    told = parse(record | {"similar_response": False, "length_a": 1, "length_b": 2}, HUMAN_PLACE)
    assert not {"similar_response", "shorter_won"} & set(told["slices"])


@pytest.mark.parametrize("winner", ["tie", "tie (bothbad)", "both", ""])
def test_any_other_winner_is_a_tie(winner: str) -> None:
    row = parse(human_records(1, 5, 0)[0] | {"winner": winner}, HUMAN_PLACE)
    assert row["pairs"] == [{"chosen": 0, "rejected": 1, "tie": True}]


def test_samples_become_a_row_with_conflict_pairs_counted_from_zero() -> None:
    record = sample_records(1, 0)[0] | {"sampled_conflict_pairs": [[1, 0], [0, 1], [0, 1]]}
    row = parse(record, MATH_PLACE)
    assert row["domain"] == "MATH"
    assert row["completions"][0] == record["response_1"]
    assert row["labels"] == [float(score) for score in record["scores"]]
    # scores[0] is true and scores[1] false, whichever stands first; repeats stay
    assert row["pairs"] == [{"chosen": 0, "rejected": 1, "tie": False}] * 3
    assert row["policies"] == ["generator/a"] * NUM_SAMPLES


def test_ten_responses_are_in_the_order_of_their_numbers() -> None:
    record = sample_records(1, 0)[0]
    record |= {f"response_{k}": str(k) for k in range(1, 33)} | {"scores": [True, False] * 16}
    assert parse(record, MATH_PLACE)["completions"] == [str(k) for k in range(1, 33)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": [True]}, "8 responses and 1 scores"),
        ({"scores": [0.5] * 8}, "true or false"),
        ({"scores": None}, "no list of scores"),
        ({"sampled_conflict_pairs": [[0, 8]]}, "positions run from 0 to 7, got 0 and 8"),
        ({"sampled_conflict_pairs": [[0]]}, "two positions"),
        ({"sampled_conflict_pairs": None}, "list of pairs"),
        ({"response_3": None}, "a response must be text"),
    ],
)
def test_samples_that_do_not_fit_say_why(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataFormatError, match=reason):
        parse(sample_records(1, 0)[0] | change, MATH_PLACE)


@pytest.mark.parametrize(
    ("file", "domain"),
    [
        ("lmarena-ai/PPE-MATH-Best-of-K:train", "MATH"),
        ("lmarena-ai/PPE-MBPP-Plus-Best-of-K:train", "MBPP-Plus"),
        ("/math/gpqa_best_of_k/train-00000-of-00001.parquet", "GPQA"),
        ("zip://data/mmlu_pro_best_of_k/Athene-RM-8B.json::/x/math.zip", "MMLU-Pro"),
        ("ifeval.jsonl.gz", "IFEval"),
    ],
)
def test_the_file_says_which_benchmark(file: str, domain: str) -> None:
    assert parse(sample_records(1, 0)[0], Place(file, 1))["domain"] == domain


def test_a_file_of_unknown_name_needs_a_column() -> None:
    record = sample_records(1, 0)[0]
    with pytest.raises(DataFormatError, match="MMLU-Pro, MATH"):
        parse(record, Place("data.jsonl", 1))
    assert parse(record | {"benchmark": "math_best_of_k"}, Place("d.jsonl", 1))["domain"] == "MATH"


def test_ids_are_unique_and_samples_of_a_question_are_drawn_together(tmp_path: Path) -> None:
    rows = read(write_ppe(tmp_path))
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids) == 200 + 5 * 12
    cluster = BENCHMARKS["ppe"].cluster
    assert cluster is not None
    assert len({cluster(id) for id in ids}) == 200 + 5 * 6
    assert cluster("MBPP-Plus/Mbpp/2 by gpt") == "MBPP-Plus/Mbpp/2"


def test_parquet_and_json_of_the_same_columns_are_the_same_rows(tmp_path: Path) -> None:
    folder = write_ppe(tmp_path / "jsonl")
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    for file in folder.iterdir():
        pd.read_json(file, lines=True).to_parquet(parquet / f"{file.stem}.parquet")
    assert read(folder) == read(parquet)
    assert pq.read_table(parquet / f"{FILES['MATH']}.parquet").num_rows == 12


@pytest.mark.parametrize("seed", range(2))
def test_all_metrics_agree_with_plain_loops(tmp_path: Path, seed: int) -> None:
    rows = read(write_ppe(tmp_path, seed=seed))
    rewards = rewards_for(rows, seed)
    found = values(measure([benchmark(rows, rm=scores_table(rewards))]))
    human = [
        (r, v) for r, v in zip(rows, rewards, strict=True) if r["domain"] == "human_preference"
    ]
    for name in ("overall", "hard", "easy", "instruction_following", "coding", "math"):
        chosen = [(r, v) for r, v in human if name == "overall" or name in r["slices"]]
        _check_human(found, name, chosen)
    accuracies = []
    for domain in list(FILES)[1:]:
        chosen = [(r, v) for r, v in zip(rows, rewards, strict=True) if r["domain"] == domain]
        accuracies.append(_check_correctness(found, domain, chosen))
    assert found("mean", "accuracy")["value"] == pytest.approx(np.mean(accuracies))
    for metric in ("roc_auc", "max_score", "end_score", "loss"):
        each = [found(domain, metric)["value"] for domain in list(FILES)[1:]]
        assert found("mean", metric)["value"] == pytest.approx(np.mean(each))
        assert found("mean", metric)["n"] == 60


def _check_human(found: Any, name: str, chosen: list[tuple[Row, list[float]]]) -> None:
    won = []
    tallies = np.zeros((2, 10, 3))  # people and model, pairs of 5 policies
    pairs = {pair: i for i, pair in enumerate(itertools.combinations(range(5), 2))}
    for row, reward in chosen:
        a, b = (int(policy.removeprefix("policy-")) for policy in row["policies"] or ())
        (p,) = row["pairs"]
        human = 0.5 if p["tie"] else float(p["chosen"] == 0)
        model = (np.sign(reward[0] - reward[1]) + 1) / 2
        if not p["tie"]:
            won.append(model if p["chosen"] == 0 else 1 - model)
        for side, worth in enumerate((human, model)):
            first = worth if a < b else 1 - worth
            tallies[side, pairs[min(a, b), max(a, b)], {1.0: 0, 0.0: 1, 0.5: 2}[first]] += 1
    assert found(name, "accuracy")["value"] == pytest.approx(np.mean(won))
    assert found(name, "accuracy")["n"] == len(won)
    strengths = bradley_terry(tallies)
    assert found(name, "kendall")["value"] == pytest.approx(scipy.stats.kendalltau(*strengths)[0])
    assert found(name, "spearman")["value"] == pytest.approx(scipy.stats.spearmanr(*strengths)[0])
    assert found(name, "kendall")["n"] == len(chosen)
    separated = found(name, "separability")["value"] * 10
    assert separated == pytest.approx(round(separated))
    low, high = (found(name, "spearman")[column] for column in ("ci_low", "ci_high"))
    assert low < found(name, "spearman")["value"] < high


def _check_correctness(found: Any, domain: str, chosen: list[tuple[Row, list[float]]]) -> float:
    won = [
        (np.sign(v[p["chosen"]] - v[p["rejected"]]) + 1) / 2
        for r, v in chosen
        for p in r["pairs"]
        if not np.isnan(v[p["chosen"]] - v[p["rejected"]])
    ]
    labels, rewards = np.array([r["labels"] for r, _ in chosen]), np.array([v for _, v in chosen])
    scored = ~np.isnan(rewards)
    curve = [
        np.mean([expected_pick(v, g, k) for v, g in zip(rewards, labels, strict=True)])
        for k in range(1, NUM_SAMPLES + 1)
    ]
    oracle = [np.mean([expected_pick(g, g, k) for g in labels]) for k in range(1, NUM_SAMPLES + 1)]
    assert found(domain, "accuracy")["value"] == pytest.approx(np.mean(won))
    assert found(domain, "accuracy")["n"] == len(won)
    auc = roc_auc_score(labels[scored], rewards[scored])
    assert found(domain, "roc_auc")["value"] == pytest.approx(auc)
    assert found(domain, "max_score")["value"] == pytest.approx(max(curve))
    assert found(domain, "end_score")["value"] == pytest.approx(curve[-1])
    assert found(domain, "loss")["value"] == pytest.approx(np.mean(np.subtract(oracle, curve)))
    assert found(domain, "end_score")["n"] == len(chosen)
    assert found(domain, "accuracy")["n_failed"] == (~scored).any(axis=1).sum()
    return float(np.mean(won))


def test_every_value_has_an_interval_and_an_n(tmp_path: Path) -> None:
    rows = read(write_ppe(tmp_path))
    table = measure([benchmark(rows, rm=scores_table(rewards_for(rows, 0)))])
    assert len(table) == 7 * 7 + 6 * 5 + 4  # 12 domains and the mean, and four further slices
    known = table[table["value"].notna()]
    # random voters separate no two policies with confidence, so nothing can be agreed with
    assert set(table[table["value"].isna()]["metric"]) == {"confidence_agreement"}
    assert (known["ci_low"] <= known["value"]).all()
    assert (known["value"] <= known["ci_high"]).all()
    assert (known["n"] > 0).all()


def test_best_of_one_is_the_base_rate_for_every_reward_model(tmp_path: Path) -> None:
    rows = read(write_ppe(tmp_path))
    scores = {f"rm-{seed}": scores_table(rewards_for(rows, seed)) for seed in range(3)}
    curves = best_of_k_curves([benchmark(rows, **scores)])
    assert set(curves["domain"]) == set(FILES) - {"human_preference"}
    for domain, table in curves.groupby("domain"):
        rate = np.mean([row["labels"] for row in rows if row["domain"] == domain])
        np.testing.assert_allclose(table[table["k"] == 1]["value"], rate)
        assert (table["value"] <= table["oracle"] + 1e-12).all()


def test_a_row_without_labels_is_in_no_curve_and_costs_no_other_its_own(tmp_path: Path) -> None:
    rows = [row for row in read(write_ppe(tmp_path)) if row["domain"] == "MATH"]
    without = [{**rows[0], "labels": None}, *rows[1:]]
    rewards = rewards_for(rows, 0)
    found = best_of_k_curves([benchmark(without, rm=scores_table(rewards))])
    others = best_of_k_curves([benchmark(rows[1:], rm=scores_table(rewards[1:]))])
    assert (found["n"] == len(rows) - 1).all()
    np.testing.assert_array_equal(found[["value", "oracle"]], others[["value", "oracle"]])


def test_a_judge_of_pairs_has_accuracy_and_rankings_and_nothing_else(tmp_path: Path) -> None:
    rows = read(write_ppe(tmp_path))
    rewards = [
        v if r["domain"] == "human_preference" else [np.nan] * NUM_SAMPLES
        for r, v in zip(rows, rewards_for(rows, 0), strict=True)
    ]
    margins = [
        None if row["domain"] == "human_preference" else [1.0, -1.0, 0.0, 1.0, np.nan]
        for row in rows
    ]
    scores = scores_table(rewards).append_column(
        "margins", pa.array(margins, pa.list_(pa.float64()))
    )
    bench = benchmark(rows, judge=scores)
    table = measure([bench])
    # per prompt: two won, one lost, one tied, one failed
    assert values(table)("MATH", "accuracy")["value"] == (2 + 0.5) / 4
    assert values(table)("MATH", "accuracy")["n"] == 12 * 4
    assert values(table)("MATH", "accuracy")["n_failed"] == 12
    assert values(table)("overall", "kendall")["n"] == 200
    assert not set(table["metric"]) & {"roc_auc", "max_score", "end_score", "loss"}
    assert best_of_k_curves([bench]).empty


def test_one_kind_alone_is_enough(tmp_path: Path) -> None:
    folder = write_ppe(tmp_path)
    for rows, present, absent in (
        (read(folder / f"{FILES['human_preference']}.jsonl"), "overall", "mean"),
        (read(folder / f"{FILES['GPQA']}.jsonl"), "mean", "overall"),
    ):
        table = measure([benchmark(rows, rm=scores_table(rewards_for(rows, 0)))])
        assert present in set(table["domain"])
        assert absent not in set(table["domain"])
