from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from rm_cluster.downstream import predict
from tests.test_correlation import metrics_of, outcomes_of


def predict_one(values: dict[str, list[float]], outcome: list[float]):
    return predict(metrics_of(values), outcomes_of(outcome))["arena"]


@pytest.fixture(scope="module")
def informative() -> dict[str, dict]:
    """Three noisy copies of the outcome, and one metric that has nothing to do with it."""
    rng = np.random.default_rng(0)
    y = rng.random(12)
    values = {f"good{i}": list(y + 0.05 * rng.standard_normal(12)) for i in range(3)}
    return predict_one({**values, "noise": list(rng.random(12))}, list(y))


def test_baseline_is_the_mean_of_the_others() -> None:
    found = predict_one({"d": [0.1, 0.4, 0.3, 0.2, 0.6]}, [1.0, 2.0, 3.0, 4.0, 10.0])
    baseline = found["models"]["mean_of_others"]
    # of 20 in all: (20 - 1) / 4, (20 - 2) / 4, ...
    assert list(baseline["predicted"].values()) == [4.75, 4.5, 4.25, 4.0, 2.5]
    # |3.75| + |2.5| + |1.25| + 0 + |-7.5| = 15, over 5
    assert baseline["mae"] == 3.0
    assert baseline["r2"] == 0.0
    assert baseline["mae_difference"] == 0.0


@pytest.mark.parametrize("model", ["ridge", "elastic_net"])
def test_metrics_that_tell_beat_the_baseline(informative, model: str) -> None:
    found = informative["models"][model]
    assert found["r2"] > 0.8
    assert found["ci_high"] < 0
    assert found["mae_difference"] == pytest.approx(
        found["mae"] - informative["models"]["mean_of_others"]["mae"]
    )


def test_metrics_without_a_relation_do_not_beat_the_baseline() -> None:
    rng = np.random.default_rng(1)
    found = predict_one({f"d{i}": list(rng.random(9)) for i in range(20)}, list(rng.random(9)))
    for name in ("ridge", "elastic_net"):
        assert found["models"][name]["r2"] < 0.3
        assert found["models"][name]["ci_high"] > 0


def test_a_prediction_does_not_see_what_it_predicts() -> None:
    rng = np.random.default_rng(2)
    x, y = {"a": list(rng.random(6)), "b": list(rng.random(6))}, rng.random(6)
    changed = y.copy()
    changed[3] += 100.0
    for name in ("ridge", "elastic_net", "mean_of_others"):
        first, second = (
            predict_one(x, list(values))["models"][name]["predicted"]["m3"]
            for values in (y, changed)
        )
        assert first == pytest.approx(second)


def test_metrics_that_cannot_be_used_are_counted() -> None:
    values = {
        "whole": [0.1, 0.4, 0.3, 0.2, 0.6],
        "missing": [0.1, np.nan, 0.3, 0.2, 0.6],
        "constant": [0.5] * 5,
    }
    found = predict_one(values, [1.0, 2.0, 3.0, 4.0, 5.0])
    counts = (found["n_features"], found["n_dropped_missing"], found["n_dropped_constant"])
    assert counts == (1, 1, 1)


def test_reward_models_without_an_outcome_take_no_part() -> None:
    x = {"d": [0.1, 0.4, 0.3, 0.2, 0.6, 0.9]}
    found = predict_one(x, [1.0, 2.0, 3.0, np.nan, 4.0, 5.0])
    assert found["n"] == 5
    assert "m3" not in found["observed"]


def test_too_few_reward_models_are_skipped_in_words() -> None:
    found = predict_one({"d": [0.1, 0.4, 0.3, 0.2]}, [1.0, 2.0, 3.0, 4.0])
    assert "models" not in found
    assert "got 4" in found["skipped"]


def test_the_scale_of_a_metric_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random((2, 8)), list(rng.random(8))
    small = predict_one({"a": list(x[0]), "b": list(x[1])}, y)
    large = predict_one({"a": list(1000 * x[0]), "b": list(x[1] - 7)}, y)
    for name in ("ridge", "elastic_net"):
        assert large["models"][name]["mae"] == pytest.approx(small["models"][name]["mae"], rel=1e-3)


def test_the_result_is_json(informative) -> None:
    assert json.loads(json.dumps(informative, allow_nan=False)) == informative
    constant = predict_one({"d": [0.1, 0.4, 0.3, 0.2, 0.6]}, [1.0] * 5)
    assert constant["models"]["ridge"]["r2"] is None
    json.dumps(constant, allow_nan=False)


def test_each_outcome_is_predicted_on_its_own() -> None:
    metrics = metrics_of({"d": [0.1, 0.4, 0.3, 0.2, 0.6]})
    one, two = [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 2.0]
    both = predict(metrics, pd.concat([outcomes_of(one, "one"), outcomes_of(two, "two")]))
    assert both["two"] == predict(metrics, outcomes_of(two, "two"))["two"]
