from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rm_cluster.benchmarks import rewardbench2, rm_bench
from rm_cluster.benchmarks.rows import all_pairs
from rm_cluster.metrics.estimate import Estimate
from rm_cluster.metrics.table import BenchmarkRewards, compare, measure, p_value
from tests.judging import rows_table, scores_table
from tests.rows import row


def benchmark(**rewards: list[list[float] | None]) -> BenchmarkRewards:
    num_rows = len(next(iter(rewards.values())))
    rows = [row(id=i, domain="xy"[i % 2]) for i in range(num_rows)]
    scores = {name: scores_table(values) for name, values in rewards.items()}
    return BenchmarkRewards("mine", rows_table(rows), scores)


def noisy(num_rows: int, share_right: float, seed: int) -> list[list[float] | None]:
    rng = np.random.default_rng(seed)
    return [[1.0, 0.0] if rng.random() < share_right else [0.0, 1.0] for _ in range(num_rows)]


def test_counts_stand_beside_every_value() -> None:
    table = measure([benchmark(m=[[1, 0], None, [1, 1], [0, 1]])])
    overall = table[table["domain"] == "overall"].iloc[0]
    assert overall[["n", "n_failed", "n_tied", "n_truncated"]].tolist() == [3, 1, 1, 0]
    assert overall["value"] == 0.5
    domain_y = table[table["domain"] == "y"].iloc[0]
    assert domain_y[["n", "n_failed", "n_tied"]].tolist() == [1, 1, 0]


def test_a_group_that_failed_whole_is_reported_without_a_value() -> None:
    table = measure([benchmark(m=[[1, 0], None, [1, 0], None])])
    lost = table[table["domain"] == "y"].iloc[0]
    assert np.isnan(lost["value"])
    assert (lost["n"], lost["n_failed"]) == (0, 2)
    everything = measure([benchmark(m=[None, None])])
    assert everything["n_failed"].tolist() == [2, 1, 1]


def test_truncated_prompts_are_counted() -> None:
    one = benchmark(m=[[1, 0], [1, 0], [0, 1]])
    flags = [[True, False], [False, False], [True, True]]
    scores = one.scores["m"].set_column(1, "truncated", [flags])
    table = measure([one._replace(scores={"m": scores})])
    assert table.set_index("domain")["n_truncated"].to_dict() == {"overall": 2, "x": 2, "y": 0}


def test_a_paired_comparison_is_sharper_than_two_intervals() -> None:
    first = noisy(300, 0.7, seed=0)
    # the other one errs in ten more prompts, and agrees everywhere else
    right = [i for i, values in enumerate(first) if values == [1.0, 0.0]][:10]
    other = [[0.0, 1.0] if i in right else values for i, values in enumerate(first)]
    both = benchmark(first=first, other=other)
    overall = compare([both]).set_index("domain").loc["overall"]
    assert overall["difference"] == pytest.approx(10 / 300)
    assert overall["ci_low"] > 0
    assert overall["p_value"] < 0.01
    alone = measure([both]).query("domain == 'overall'")["stderr"]
    assert overall["stderr"] < alone.min()


def test_equal_reward_models_do_not_differ() -> None:
    table = compare([benchmark(a=noisy(50, 0.6, 1), b=noisy(50, 0.6, 1))])
    assert (table["difference"] == 0).all()
    assert (table["p_value"] == 1).all()


def test_p_values_of_no_difference_are_spread_evenly() -> None:
    p_values = []
    for seed in range(120):
        table = compare([benchmark(a=noisy(100, 0.6, seed), b=noisy(100, 0.6, 1000 + seed))], seed)
        p_values.append(table.set_index("domain").loc["overall", "p_value"])
    # 5 % of 120 is 6; three standard errors of that count are 7
    assert sum(p <= 0.05 for p in p_values) <= 13
    assert 0.35 < np.mean(p_values) < 0.65


def test_only_shared_prompts_are_compared() -> None:
    table = compare([benchmark(a=[[1, 0], None, [0, 1], [1, 0]], b=[[0, 1], [1, 0], [1, 0], None])])
    overall = table.set_index("domain").loc["overall"]
    assert overall["n"] == 2
    assert overall["difference"] == 0.5 - 0.5


def test_who_decided_nothing_in_a_domain_is_compared_in_the_others() -> None:
    decided: list[list[float] | None] = [[1, 0], [1, 0], [0, 1], [1, 0]]
    undecided: list[list[float] | None] = [[1, 0], [np.nan] * 2, [1, 0], [np.nan] * 2]
    for both in ({"a": decided, "b": undecided}, {"a": undecided, "b": decided}):
        assert set(compare([benchmark(**both)])["domain"]) == {"overall", "x"}
    assert compare([benchmark(a=decided, b=[[np.nan] * 2] * 4)]).empty


def test_a_score_that_nothing_tells_has_no_interval_and_is_not_compared() -> None:
    options = {"domain": "Ties", "completions": list("abc"), "pairs": all_pairs(2, 1)}
    names = [f"Ties/{kind}:{i}" for kind in ("ref", "tied") for i in range(5)]
    rows = [row(id=name, labels=[1.0, 1.0, 0.0], **options) for name in names]
    unrated = scores_table([[np.nan] * 3] * 10)
    stated = unrated.append_column("margins", pa.array([[1.0, 1.0]] * 10, pa.list_(pa.float64())))
    scores = {"rated": scores_table([[2, 1, 0]] * 10), "compared": stated}
    one = BenchmarkRewards("rewardbench2", rows_table(rows), scores, rewardbench2.official)
    table = measure([one]).set_index(["reward_model", "domain", "metric"])
    found = table.loc[("compared", "overall", "score")]
    assert np.isnan([found["value"], found["stderr"], found["ci_low"]]).all()
    assert found["n"] == 0
    assert table.loc[("rated", "overall", "score"), "value"] > 0
    assert set(compare([one])["metric"]) == {"accuracy"}


def test_official_metrics_have_intervals_and_are_compared() -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(id=i, domain=("chat", "code")[i % 2], completions=list("abcdef"), pairs=all_pairs(3, 3))
        for i in range(60)
    ]
    scores = {name: scores_table(rng.random((60, 6)).tolist()) for name in ("a", "b")}
    one = BenchmarkRewards("rm-bench", rows_table(rows), scores, rm_bench.official)
    table = measure([one]).query("reward_model == 'a'").set_index(["domain", "metric"])
    for level in ("hard", "normal", "easy", "score"):
        found = table.loc[("overall", level)]
        assert found["ci_low"] < found["value"] < found["ci_high"]
        assert found["n"] == 60
    assert table.loc[("overall", "accuracy"), "n"] == 540
    assert set(compare([one])["metric"]) == {"accuracy", "score"}


def test_prompts_without_comparisons_have_no_metrics() -> None:
    rows = rows_table([row(id=0, completions=["a"], pairs=[])])
    assert measure([BenchmarkRewards("mine", rows, {"m": scores_table([[1.0]])})]).empty


def test_one_decided_prompt_of_a_domain_compares_without_an_interval() -> None:
    nan = float("nan")
    some = benchmark(full=noisy(10, 0.6, 2), judge=[*noisy(2, 1.0, 0), *[[1.0, nan]] * 8])
    for one in (some, some._replace(scores=dict(reversed(some.scores.items())))):
        table = compare([one]).set_index("domain")
        assert table["n"].to_dict() == {"overall": 2, "x": 1, "y": 1}
        assert table.loc[["x", "y"], ["stderr", "p_value"]].isna().all(axis=None)


def test_what_one_side_left_undecided_is_compared_on_neither() -> None:
    nan = float("nan")
    rows = [row(completions=["a", "b", "c"], id=i, pairs=all_pairs(1, 2)) for i in range(40)]
    rewards = {"model": [[1.0, 0.0, 2.0]] * 40, "judge": [[1.0, 0.0, nan]] * 40}
    scores = {name: scores_table(values) for name, values in rewards.items()}
    found = compare([BenchmarkRewards("mine", rows_table(rows), scores)])
    assert (found["difference"] == 0).all()
    assert (found["n"] == 40).all()


def test_whoever_failed_everywhere_stays_on_a_board_of_scores() -> None:
    rows = [
        row(completions=list("abcdef"), id=f"{domain}/{i}", domain=domain, pairs=all_pairs(3, 3))
        for domain in ("chat", "math")
        for i in range(3)
    ]  # fmt: skip
    rewards = {"dead": [None] * 6, "alive": [[3.0, 2.0, 1.0, 0.0, 0.0, 0.0]] * 6}
    scores = {name: scores_table(values) for name, values in rewards.items()}
    mine = BenchmarkRewards("rm-bench", rows_table(rows), scores, official=rm_bench.official)
    table = measure([mine]).query("metric == 'score' and domain == 'overall'")
    dead = table.set_index("reward_model").loc["dead"]
    assert np.isnan(dead["value"])
    assert (dead["n"], dead["n_failed"]) == (0, 6)


def test_draws_without_a_value_decide_nothing() -> None:
    draws = np.array([np.nan] * 60 + [-1.0] * 20 + [1.0] * 20)
    assert p_value(Estimate(0.0, draws, 9)) == 1.0


def test_scores_of_picks_are_compared_where_both_decided_all() -> None:
    options = {"domain": "Math", "completions": list("abcd"), "pairs": all_pairs(1, 3)}
    rows = [row(id=f"Math/{i}", **options) for i in range(20)]
    right, wrong = [3.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 3.0]
    whole = [right if i % 2 else wrong for i in range(20)]
    # the other one is alike, and left a comparison open wherever it would have been wrong
    part = [right if i % 2 else [0.0, 2.0, 1.0, float("nan")] for i in range(20)]
    scores = {"whole": scores_table(whole), "part": scores_table(part)}
    one = BenchmarkRewards("rewardbench2", rows_table(rows), scores, rewardbench2.official)
    found = compare([one]).query("metric == 'score' and domain == 'Math'").iloc[0]
    assert (found["difference"], found["n"]) == (0, 10)
