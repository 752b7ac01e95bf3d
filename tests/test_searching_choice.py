from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rm_cluster.best_of_n import combine_members, resampled_best_of_n, select, zscore_pools
from rm_cluster.config import SearchConfig
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.parsing import parse_config
from rm_cluster.searching.choice import (
    Choice,
    choice_bonus,
    combinations,
    exact_optimum,
    proxy_rewards,
    try_choice,
)
from rm_cluster.searching.job import _split
from rm_cluster.searching.judging import curves, judge, mean_columns, powers_of_two
from rm_cluster.searching.pool import SearchPool, check_rules
from rm_cluster.searching.reading import read_pool
from tests.search_pools import pool_records, write_pool

RULES = ["bon", "mbr", "rbon_kl", "rbon_wd", "rbon_l"]


def read(folder: Path, records: list[dict[str, Any]], **changes: Any) -> Any:
    path = write_pool(folder / "pool.jsonl", records)
    return read_pool(parse_config(SearchConfig, {"pool": path, **changes}))


@pytest.fixture
def pool(tmp_path: Path) -> SearchPool:
    found: SearchPool = read(tmp_path, pool_records()).pool
    return found


def test_a_pool_is_its_columns(tmp_path: Path) -> None:
    records = pool_records(num_prompts=3, num=4)
    pool, prompts, counts = read(tmp_path, records)
    assert [prompt[-5:-3] for prompt in prompts] == ["q0", "q1", "q2"]
    assert pool.names == ("m0", "m1")
    for k, name in enumerate(pool.names):
        np.testing.assert_array_equal(
            pool.rewards_MPN[k], [record["rewards"][name] for record in records]
        )
    np.testing.assert_array_equal(pool.gold_PN, [record["labels"] for record in records])
    np.testing.assert_array_equal(pool.criterion_PN, pool.gold_PN)
    np.testing.assert_array_equal(pool.ref_logprobs_PN, [r["logprobs"] for r in records])
    np.testing.assert_array_equal(pool.num_tokens_PN, [r["num_tokens"] for r in records])
    assert counts["n_candidates"] == 12
    assert counts["n_candidates_left_out"] == 0


def test_token_counts_that_are_not_all_known_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = pool_records(num_prompts=3, num=4)
    records[1]["num_tokens"] = None
    pool, _, _ = read(tmp_path, records)
    assert pool.num_tokens_PN is None
    assert pool.cost_PN is None
    assert "num_tokens is not known of 4 of the 12 candidates" in caplog.text


def test_what_lacks_a_value_is_left_out_and_counted(tmp_path: Path) -> None:
    records = pool_records(num_prompts=4, num=4)
    records[0]["rewards"]["m0"][1] = None
    records[1]["rewards"]["m1"] = [float("nan")] * 4
    records[2] = {**records[2], "completions": records[2]["completions"][:2]}
    for name in ("labels", "logprobs", "num_tokens"):
        records[2][name] = records[2][name][:2]
    records[2]["rewards"] = {k: v[:2] for k, v in records[2]["rewards"].items()}
    pool, prompts, counts = read(tmp_path, records)
    assert [prompt[-5:-3] for prompt in prompts] == ["q0", "q2", "q3"]
    assert counts["n_candidates_left_out"] == 1 + 4
    assert counts["n_prompts_left_out"] == 1
    assert (counts["smallest_pool"], counts["largest_pool"]) == (2, 4)
    # what is left closes up: the third candidate of p0 is now its second
    rewards = records[0]["rewards"]["m1"]
    np.testing.assert_array_equal(pool.rewards_MPN[1, 0], [rewards[0], *rewards[2:], np.nan])
    labels = records[0]["labels"]
    np.testing.assert_array_equal(pool.gold_PN[0], [labels[0], *labels[2:], np.nan])
    assert np.isnan(pool.rewards_MPN[:, 1, 2:]).all()
    assert (pool.similarity_PNN[1, 2:] == 0).all()
    for rule in RULES:
        outcome = try_choice(pool, Choice(rule, 4, "m0", beta=0.5))
        assert np.isfinite(outcome.value_P).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": {"m0": [1.0], "m1": [1.0] * 4}}, "'p1' has 1 values of 'm0' for 4"),
        ({"rewards": {"m0": [1e999, 0, 0, 0], "m1": [1.0] * 4}}, "infinite value of 'm0'"),
        ({"rewards": [1, 2, 3, 4]}, "must be lists by name"),
        ({"rewards": {"m0": 5, "m1": [1.0] * 4}}, "'m0' must be a list of numbers.*got '5'"),
        ({"rewards": {"m0": "1234", "m1": [1.0] * 4}}, "'m0' must be a list of numbers"),
        ({"rewards": {"m0": [[1]] * 4, "m1": [1.0] * 4}}, "'m0' must be a list of numbers"),
        ({"logprobs": [-1.0]}, "1 values of 'logprobs'"),
        ({"logprobs": ["x"] * 4}, "'p1': 'logprobs' must be a list of numbers"),
        ({"logprobs": [-1, -2, 0.3, -1]}, "'p1' has 0.3 in 'logprobs', .* at most 0"),
        ({"num_tokens": [1, 2, -3, 4]}, "num_tokens must be 0 or more"),
        ({"embeddings": [[1.0, 2.0]] * 3}, "must have one embedding"),
        ({"embeddings": ["words"] * 4}, "'p1' must have one embedding"),
        ({"embeddings": [[1.0], [1.0, 2.0], [1.0], [2.0]]}, "'p1' must have one embedding"),
        ({"embeddings": [[0.0, 0.0]] * 4}, "'p1' must have one embedding"),
    ],
)
def test_a_malformed_pool_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    records = pool_records(num_prompts=3, num=4)
    if "embeddings" in change:
        records = [{**record, "embeddings": [[1.0, 0.5]] * 4} for record in records]
    records[1] = {**records[1], **change}
    with pytest.raises(DataFormatError, match=said):
        read(tmp_path, records)


def test_a_candidate_that_is_left_out_needs_no_embedding(tmp_path: Path) -> None:
    records = pool_records(num_prompts=3, num=4)
    for record in records:
        record["embeddings"] = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    records[1]["rewards"]["m0"][1] = records[1]["embeddings"][1] = None
    pool = read(tmp_path, records).pool
    half = np.sqrt(0.5)
    expected = [[1, 1, half, 0], [1, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(pool.similarity_PNN[1], expected, atol=1e-12)


def test_one_candidate_is_nothing_to_pick_from(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="nothing to pick from"):
        read(tmp_path, pool_records(num_prompts=3, num=1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"criterion": "m9"}, "Unknown reward model in criterion 'm9'. Available: m0, m1"),
        ({"gold": "m9"}, "Unknown reward model in gold"),
        ({"space": {"reward_models": ["m"]}}, "Unknown reward model in space.reward_models"),
        ({"ref_logprobs": "m0"}, "Unknown logprob reward model in ref_logprobs.*Available: none"),
        (
            {"criterion": "m1", "space": {"reward_models": ["m0", "m1"]}},
            "criterion: m1 is among space.reward_models",
        ),
        ({"space": {"reward_models": []}}, "space.reward_models is wrong"),
    ],
)
def test_names_that_are_not_there_are_told(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, pool_records(num_prompts=3), **changes)


def test_a_reward_model_is_not_called_as_the_ensemble_of_all_is(tmp_path: Path) -> None:
    records = pool_records(num_prompts=3)
    for record in records:
        record["rewards"]["ensemble"] = record["rewards"].pop("m1")
    with pytest.raises(ConfigError, match="cannot be called 'ensemble'"):
        read(tmp_path, records)


@pytest.mark.parametrize("word", ["gold", "worst_case"])
def test_a_reward_model_is_not_called_as_the_criterion_is(tmp_path: Path, word: str) -> None:
    records = pool_records(num_prompts=3)
    for record in records:
        record["rewards"][word] = record["rewards"].pop("m1")
    with pytest.raises(ConfigError, match=f"cannot be called '{word}'"):
        read(tmp_path, records, criterion=word)
    # that it is the gold reward is said where it is
    if word == "gold":
        assert read(tmp_path, records, gold="gold").pool.names == ("m0",)


def test_names_are_held_against_reward_models_before_these_are_run(tmp_path: Path) -> None:
    models = [{"type": "classifier", "name": "rm", "model": "never/loaded"}]
    with pytest.raises(
        ConfigError, match=r"Unknown reward model in gold 'rn'\. Available: m0, m1, rm"
    ):
        read(tmp_path, pool_records(num_prompts=3), reward_models=models, gold="rn")


def test_the_gold_reward_model_is_not_searched(tmp_path: Path) -> None:
    changes = {"gold": "m0", "space": {"reward_models": ["m0", "m1"]}}
    with pytest.raises(ConfigError, match=r"gold: m0 is among space\.reward_models"):
        read(tmp_path, pool_records(num_prompts=3), **changes)


def test_rows_of_one_prompt_choose_or_judge_together(tmp_path: Path) -> None:
    records = pool_records(num_prompts=10)
    twice = [{**one, "id": f"{one['id']}/{k}"} for one in records for k in range(2)]
    path = write_pool(tmp_path / "pool.jsonl", twice)
    run = parse_config(SearchConfig, {"pool": path, "dev_fraction": 0.3})
    dev = _split(run, read_pool(run))
    assert dev.sum() == 6
    np.testing.assert_array_equal(dev[::2], dev[1::2])
    alone = parse_config(
        SearchConfig, {"pool": write_pool(tmp_path / "one.jsonl", twice[:2]), "dev_fraction": 0.5}
    )
    with pytest.raises(ConfigError, match="The pool has 1 prompt "):
        _split(alone, read_pool(alone))


def test_a_number_that_is_too_large_is_told(tmp_path: Path) -> None:
    records = pool_records(num_prompts=2)
    records[1]["rewards"]["m0"][0] = 10**400
    with pytest.raises(DataFormatError, match="'p1': 'm0' must be a list of numbers"):
        read(tmp_path, records)


def test_without_labels_a_criterion_must_be_named(tmp_path: Path) -> None:
    records = [{k: v for k, v in r.items() if k != "labels"} for r in pool_records()]
    with pytest.raises(ConfigError, match="the pool has no labels"):
        read(tmp_path, records)
    held_out = read(tmp_path, records, criterion="m1").pool
    assert held_out.names == ("m0",)
    assert held_out.gold_PN is None
    np.testing.assert_array_equal(held_out.criterion_PN, [r["rewards"]["m1"] for r in records])
    worst = read(tmp_path, records, criterion="worst_case").pool
    np.testing.assert_array_equal(
        worst.criterion_PN, combine_members(worst.rewards_MPN, "worst_case")
    )


def test_a_rule_without_its_input_is_told(tmp_path: Path) -> None:
    records = [{k: v for k, v in r.items() if k != "logprobs"} for r in pool_records()]
    pool = read(tmp_path, records).pool
    assert check_rules(pool, None) == ["bon", "mbr", "rbon_wd", "rbon_l"]
    assert check_rules(pool, ["rbon_wd"]) == ["bon", "rbon_wd"]
    with pytest.raises(ConfigError, match="rbon_kl needs logprobs"):
        check_rules(pool, ["rbon_kl"])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_choice_picks_what_select_picks_among_the_first_n(
    pool: SearchPool, rule: str, n: int
) -> None:
    assert pool.ref_logprobs_PN is not None
    assert pool.num_tokens_PN is not None
    outcome = try_choice(pool, Choice(rule, n, "m1", beta=0.3))
    picks = select(
        rule,
        pool.rewards_MPN[1][:, :n],
        0.3,
        pool.ref_logprobs_PN[:, :n],
        pool.similarity_PNN[:, :n, :n],
        pool.num_tokens_PN[:, :n],
    )
    np.testing.assert_array_equal(outcome.law_PN.argmax(axis=1), picks)
    rows = np.arange(len(picks))
    np.testing.assert_array_equal(outcome.value_P, pool.criterion_PN[rows, picks])
    np.testing.assert_allclose(outcome.kl_P, -pool.ref_logprobs_PN[rows, picks])


def test_beta_zero_is_plain_best_of_n(pool: SearchPool) -> None:
    plain = try_choice(pool, Choice("bon", 8, "m0"))
    for rule in ("rbon_kl", "rbon_wd", "rbon_l", "srbon_kl", "soft_bon"):
        np.testing.assert_array_equal(try_choice(pool, Choice(rule, 8, "m0")).law_PN, plain.law_PN)


def test_ensembles_and_z_scores(pool: SearchPool) -> None:
    found = proxy_rewards(pool, Choice("bon", 8, "ensemble", ensemble="worst_case"))
    np.testing.assert_array_equal(found, combine_members(pool.rewards_MPN, "worst_case"))
    scaled = proxy_rewards(pool, Choice("bon", 8, "m1", normalize="pool"))
    np.testing.assert_array_equal(scaled, zscore_pools(pool.rewards_MPN[1]))


def test_tokens_are_those_generated_and_those_read(pool: SearchPool) -> None:
    assert pool.cost_PN is not None
    generated = pool.cost_PN[:, :3].sum(axis=1)
    for choice, times in (
        (Choice("mbr", 3), 1),
        (Choice("bon", 3, "m0"), 2),
        (Choice("bon", 3, "ensemble", "mean"), 3),
    ):
        np.testing.assert_array_equal(try_choice(pool, choice).tokens_P, times * generated)


def test_combinations_come_once() -> None:
    rules, scales = ["bon", "mbr", "rbon_l"], ["none", "pool"]
    found = list(combinations(["a", "b"], ["mean"], rules, [2, 4], scales))
    # per n: bon by a, b and the ensemble; mbr; rbon_l by a and b, scaled or not, and the ensemble
    assert len(found) == len(set(found)) == 2 * (3 + 1 + 5)


def test_the_exact_optimum_is_that_of_a_dense_grid(pool: SearchPool) -> None:
    choices = list(combinations(pool.names, ["mean"], RULES, [4], ["none", "pool"]))
    best, value, count = exact_optimum(pool, iter(choices))
    assert count == len(choices)
    assert value == pytest.approx(try_choice(pool, best).value_P.mean())
    grid = [0.0, *np.geomspace(1e-3, 1e3, 120)]
    tried = [
        try_choice(pool, choice._replace(beta=float(beta))).value_P.mean()
        for choice in choices
        for beta in (grid if choice.rule.startswith("rbon") else [0.0])
    ]
    assert max(tried) <= value + 1e-12


def test_curves_of_pool_rules_are_those_of_each_alone(pool: SearchPool) -> None:
    choices = [Choice("mbr", 8), Choice("rbon_wd", 8, "m0", beta=2.0), Choice("bon", 8, "m1")]
    choices.append(Choice("rbon_wd", 8, "ensemble", "worst_case", beta=0.5))
    table = curves(pool, choices, seed=3)
    for choice in choices:
        proxy = proxy_rewards(pool, choice)
        for line in table[table["estimator"].str.startswith("resampled")].to_dict("records"):
            if (line["rule"], line["ensemble"]) != (choice.rule, choice.ensemble):
                continue
            for name, of in (("gold", pool.judged_PN), ("proxy", proxy)):
                expected = resampled_best_of_n(
                    choice.rule, proxy, of, line["n"], pool.similarity_PNN, choice.beta, seed=3
                )
                assert line[name] == pytest.approx(expected.value_P.mean(), abs=1e-12)
    assert table["estimator"].str.startswith("resampled").sum() == 3 * 4


def test_a_choice_judged_against_itself_gains_nothing(pool: SearchPool) -> None:
    plain, other = Choice("bon", 8, "m0"), Choice("rbon_kl", 8, "m1", beta=0.2)
    table = judge(pool, [plain, other], [plain, plain], seed=0)
    assert table["gain"][0] == table["gain_low"][0] == table["gain_high"][0] == 0
    assert table["win_rate"][0] == 0.5
    assert table["changed"][0] == 0
    gold = try_choice(pool, other).judged_P
    base = try_choice(pool, plain).judged_P
    assert table["gain"][1] == pytest.approx((gold - base).mean())
    assert table["win_rate"][1] == pytest.approx((np.sign(gold - base) + 1).mean() / 2)
    assert table["n_test"].tolist() == [24, 24]


def test_means_leave_out_what_is_not_known() -> None:
    found = mean_columns(np.array([[1.0, np.nan], [3.0, 5.0]]), seed=0)
    assert found.value.tolist() == [2.0, 5.0]
    assert found.n.tolist() == [2, 1]
    assert (found.low[0], found.high[0]) == (1.0, 3.0)
    assert np.isnan(found.low[1])


def test_powers_of_two() -> None:
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(11) == [1, 2, 4, 8, 11]


def test_the_bonus_is_that_of_the_first_n(pool: SearchPool) -> None:
    some = pool.first(3)
    found = choice_bonus(some, Choice("rbon_wd", 3, "m0"))
    np.testing.assert_allclose(found, some.similarity_PNN.mean(axis=2))
