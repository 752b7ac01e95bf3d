from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rm_cluster.metrics.gains import GAIN_COLUMNS, ensemble_gains
from rm_cluster.metrics.table import BenchmarkRewards, compare
from tests.test_pair_sweep import rows, sums


def members(num: int, noise: list[float], seed: int = 0) -> BenchmarkRewards:
    """Members that see the same quality through noise of their own, and their mean `team`."""
    rng = np.random.default_rng(seed)
    table = rows(num, seed, sizes=(2,))
    quality = np.stack([np.ones(num), np.zeros(num)], axis=1)
    rewards = {f"m{i}": quality + of * rng.normal(size=(num, 2)) for i, of in enumerate(noise)}
    rewards["team"] = np.mean(list(rewards.values()), axis=0)
    blank = sums(table, 0)
    scores = {
        name: blank.set_column(0, "values", pa.array(values.tolist()))
        for name, values in rewards.items()
    }
    return BenchmarkRewards("b", table, scores)


def overall(found: BenchmarkRewards, *names: str) -> dict[str, dict[str, float]]:
    table = ensemble_gains([found], {"team": list(names)}, seed=1)
    assert table.columns.tolist() == list(GAIN_COLUMNS)
    kept = table.query("domain == 'overall' and metric == 'accuracy'").set_index("chosen_on")
    return kept.to_dict("index")


def test_on_the_same_prompts_it_is_the_paired_comparison_with_the_best() -> None:
    found = members(300, [1.0, 2.0])
    gain = overall(found, "m0", "m1")["same"]
    pair = compare([found], seed=1).query(
        "reward_model == 'm0' and other == 'team' and domain == 'overall'"
    )
    assert gain["best_member"] == "m0"
    assert gain["gain"] == pytest.approx(-pair["difference"].item())
    assert gain["ci_low"] == pytest.approx(-pair["ci_high"].item())
    assert gain["n"] == pair["n"].item()


def test_halves_that_agree_choose_the_same_member() -> None:
    gains = overall(members(400, [0.3, 5.0]), "m0", "m1")
    assert gains["other half"]["best_member"] == "m0"
    assert gains["other half"]["gain"] == pytest.approx(gains["same"]["gain"])


def test_choosing_on_the_same_prompts_hides_some_of_the_gain() -> None:
    # five members that are equally good: the best of them on these prompts is best by luck
    same, other = [], []
    for seed in range(30):
        found = members(60, [2.0] * 5, seed)
        gains = overall(found, *(f"m{i}" for i in range(5)))
        same.append(gains["same"]["gain"])
        other.append(gains["other half"]["gain"])
    assert np.mean(other) > np.mean(same) + 0.03


def test_an_ensemble_that_failed_everywhere_has_no_gain() -> None:
    found = members(20, [1.0, 1.0])
    lost = found.scores["team"].set_column(0, "values", pa.nulls(20, pa.list_(pa.float64())))
    found = found._replace(scores={**found.scores, "team": lost})
    assert not len(ensemble_gains([found], {"team": ["m0", "m1"]}))


def test_a_member_that_decided_nothing_somewhere_is_no_error() -> None:
    for seed in range(5):
        found = members(40, [1.0, 1.0], seed)
        rows = found.rows.select(["domain", "pairs"]).to_pylist()
        chat = [i for i, one in enumerate(rows) if one["domain"] == "chat"]
        kept = next(i for i in chat if not rows[i]["pairs"][0]["tie"])
        lost = {name: found.scores[name]["values"].to_pylist() for name in ("m1", "team")}
        for i in set(chat) - {kept}:
            for values in lost.values():
                values[i] = [1.0, float("nan")]
        scores = {
            name: table.set_column(0, "values", pa.array(lost[name])) if name in lost else table
            for name, table in found.scores.items()
        }
        table = ensemble_gains([found._replace(scores=scores)], {"team": ["m0", "m1"]}, seed)
        gains = table.query("metric == 'accuracy'").set_index("domain")
        # a member cannot be chosen on the half where there is nothing
        assert gains.loc[["chat"], "n"].tolist() == [1]
        assert gains.loc[["chat"], "stderr"].isna().all()
        assert gains.loc["overall", "stderr"].notna().all()


def test_a_member_is_not_chosen_on_prompts_that_are_not_there() -> None:
    found = overall(members(1, [1.0, 2.0]), "m0", "m1")
    assert list(found) == ["same"], "one half of a single prompt is empty"
