from __future__ import annotations

import numpy as np
import pytest

from rm_cluster.metrics.estimate import Joint, Mean, Resampling, estimate, estimate_joint

KEY = ("overall", "accuracy")


def one_mean(values: list[float], clusters: list[str] | None = None, seed: int = 0):
    names = clusters or [str(i) for i in range(len(values))]
    resampling = Resampling.of(names, ["d"] * len(values))
    mean = Mean.of(np.array(values), np.ones(len(values), dtype=bool))
    return estimate({KEY: [mean]}, np.arange(len(values)), resampling, seed)[KEY]


def test_value_is_the_weighted_sum_of_means() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    first = Mean.of(values, np.array([True, True, False, False]))  # 1/2
    second = Mean.of(values, np.array([False, False, True, True]))  # 2/2
    resampling = Resampling.of(list("abcd"), list("xxyy"))
    found = estimate({KEY: [first.scaled(0.25), second.scaled(0.75)]}, np.arange(4), resampling, 0)
    assert found[KEY].value == 0.25 * 0.5 + 0.75 * 1.0
    assert found[KEY].n == 4


def test_stderr_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).random(400)
    # sd / sqrt(n), and the bootstrap's own noise at 1000 draws is about 2 %
    assert one_mean(values.tolist()).stderr == pytest.approx(values.std() / 20, rel=0.1)


def test_prompts_of_one_cluster_are_drawn_together() -> None:
    values = [1.0, 0.0] * 100
    alone = one_mean(values).stderr
    # every cluster holds a 1 and a 0: whatever is drawn, the mean is 1/2
    together = one_mean(values, [str(i // 2) for i in range(200)]).stderr
    assert alone > 0.03
    assert together == 0


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        sample = (rng.random(150) < 0.7).astype(float)
        low, high = one_mean(sample.tolist(), seed=seed).interval
        covered += low <= 0.7 <= high
    # 95 % of 200 is 190; three standard errors of that count are 9
    assert 178 <= covered <= 200


def test_same_seed_same_draws_whatever_is_estimated() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    assert np.array_equal(one_mean(values).draws, one_mean(values).draws)
    shifted = one_mean([value + 1 for value in values])
    assert np.allclose(shifted.draws - one_mean(values).draws, 1)


def test_strata_keep_their_size_in_every_draw() -> None:
    strata = ["a"] * 13 + ["b"] * 17 + ["c"] * 9 + ["d"]
    resampling = Resampling.of([f"{i:02}" for i in range(40)], strata)
    for drawn in resampling.draws(seed=0):
        assert (drawn[:, :13].sum(axis=1) == 13).all()
        assert (drawn[:, 13:30].sum(axis=1) == 17).all()
        assert (drawn[:, 30:].sum(axis=1) == 10).all(), "small ones are drawn as one"
        assert drawn[:, 39].max() > 1


@pytest.mark.parametrize("size", [1, 2, 5, 50])
def test_stderr_does_not_shrink_with_the_size_of_domains(size: int) -> None:
    values = np.tile([1.0, 0.0], 100)
    domains = [str(i // size) for i in range(200)]
    mean = Mean.of(values, np.ones(200, dtype=bool))
    resampling = Resampling.of([f"{i:03}" for i in range(200)], domains)
    (found,) = estimate({KEY: [mean]}, np.arange(200), resampling, 0).values()
    assert found.stderr == pytest.approx(0.5 / np.sqrt(200), rel=0.1)


def test_one_cluster_for_every_mean_has_no_interval() -> None:
    terms = [Mean.of(np.eye(4)[i], np.eye(4, dtype=bool)[i]).scaled(0.25) for i in range(4)]
    resampling = Resampling.of(list("abcd"), list("wxyz"))
    (found,) = estimate({KEY: terms}, np.arange(4), resampling, 0).values()
    assert found.value == 1
    assert np.isnan([found.stderr, *found.interval]).all()


def test_n_of_shares_is_rounded() -> None:
    thirds = Mean(np.full(6, 1 / 3), np.full(6, 1 / 3))
    resampling = Resampling.of(list("abcdef"), ["d"] * 6)
    assert estimate({KEY: [thirds]}, np.arange(6), resampling, 0)[KEY].n == 2


def test_one_prompt_has_a_value_and_no_interval() -> None:
    found = one_mean([1.0])
    assert found.value == 1.0
    assert np.isnan(found.stderr)
    assert np.isnan(found.interval).all()


def test_draws_come_in_chunks_for_large_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(30).tolist()
    whole = one_mean(values).draws
    monkeypatch.setattr("rm_cluster.metrics.estimate._CHUNK_ELEMENTS", 100)
    assert np.allclose(one_mean(values).draws, whole)


def test_an_interval_stays_within_the_values_that_there_are() -> None:
    rng = np.random.default_rng(0)
    joint = Joint(
        keys=[KEY, ("overall", "kendall")],
        values=np.array([0.97, 0.97]),
        redrawn=lambda drawn: np.repeat(rng.normal(0.9, 0.1, (len(drawn), 1)), 2, axis=1),
        n=[9, 9],
        bounds=[(0.0, 1.0), (-np.inf, np.inf)],
    )
    resampling = Resampling.of([str(i) for i in range(9)], ["d"] * 9)
    inside, free = estimate_joint([joint], np.arange(9), resampling, 0).values()
    assert inside.interval[1] == 1 < free.interval[1]
    assert inside.interval[0] == free.interval[0]
