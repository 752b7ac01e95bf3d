from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rm_cluster.config import EnsembleConfig, LogprobConfig, LogRatioConfig
from rm_cluster.derived import ensemble_table, log_ratio_table, logprob_table


def table(*rows: list[float] | str, tokens: int = 2, **columns: Any) -> pa.Table:
    """Rows of rewards, or of an error."""
    rated = [row if isinstance(row, list) else None for row in rows]
    return pa.table(
        {
            "values": pa.array(rated, pa.list_(pa.float64())),
            "num_tokens": pa.array(
                [row and [tokens] * len(row) for row in rated], pa.list_(pa.int32())
            ),
            "truncated": pa.array(
                [row and [False] * len(row) for row in rated], pa.list_(pa.bool_())
            ),
            "error": pa.array([row if isinstance(row, str) else None for row in rows]),
            **columns,
        }
    )


def ratio(**options: Any) -> LogRatioConfig:
    return LogRatioConfig(strong="a", weak="b", **options)


def ensemble(*members: str, **options: Any) -> EnsembleConfig:
    return EnsembleConfig(name="team", members=list(members), **options)


def test_a_ratio_subtracts_row_by_row_and_keeps_who_failed() -> None:
    strong = table([-1.0, -2.0], "too long", [-3.0], [-4.0], tokens=2)
    weak = table([-5.0, -1.0], [0.0], "no Jinja", [-6.0], tokens=9)
    found = log_ratio_table(ratio(normalize="mean", beta=10.0), strong, weak)
    # (-1 + 5) / 2 * 10 = 20 and so on: the strong model's two tokens divide
    assert found["values"].to_pylist() == [[20.0, -5.0], None, None, [10.0]]
    assert found["num_tokens"].to_pylist() == [[2, 2], None, None, [2]]
    assert found["error"].to_pylist() == [None, "strong: too long", "weak: no Jinja", None]


def test_the_first_member_that_failed_is_named() -> None:
    found = log_ratio_table(ratio(), table("x", [1.0]), table("y", [1.0]))
    assert found["error"].to_pylist() == ["strong: x", None]


def test_a_mean_over_no_tokens_is_an_error_of_its_row() -> None:
    config = LogprobConfig(model="m", normalize="mean")
    sums = table([-1.0], tokens=0)
    assert "no tokens" in logprob_table(config, sums)["error"][0].as_py()
    assert logprob_table(LogprobConfig(model="m", beta=2.0), sums)["values"][0].as_py() == [-2.0]


def test_plain_sums_are_passed_on_as_they_are() -> None:
    sums = table([-1.0, -2.0], "x")
    assert logprob_table(LogprobConfig(model="m"), sums) is sums


def test_what_any_member_truncated_is_truncated() -> None:
    cut = pa.array([[True, False]], pa.list_(pa.bool_()))
    weak = table([0.0, 0.0]).set_column(2, "truncated", cut)
    assert log_ratio_table(ratio(), table([0.0, 0.0]), weak)["truncated"].to_pylist() == [
        [True, False]
    ]


def test_members_are_z_scored_over_the_completions_that_all_scored() -> None:
    # a: 1, 3 of the shared rows, mean 2, deviation 1; b: 10, 30, mean 20, deviation 10;
    # the 100 stands in a row that b failed
    a, b = table([1.0, 3.0], [100.0]), table([10.0, 30.0], "lost")
    found, scales = ensemble_table(ensemble("a", "b"), {"a": a, "b": b})
    assert found["values"].to_pylist() == [[-1.0, 1.0], None]
    assert found["error"].to_pylist() == [None, "b: lost"]
    assert scales == {"a": (2.0, 1.0, 2), "b": (20.0, 10.0, 2)}


def test_comparable_members_are_taken_as_they_are() -> None:
    a, b = table([1.0, 3.0]), table([10.0, 30.0])
    found, scales = ensemble_table(ensemble("a", "b", scale="none"), {"a": a, "b": b})
    assert found["values"].to_pylist() == [[5.5, 16.5]]
    assert scales == {}


def test_ensembles_equal_brute_force_on_rows_of_many_sizes() -> None:
    rng = np.random.default_rng(1)
    rows = [[rng.normal(size=k).tolist() for k in (1, 4, 2, 7)] for _ in range(3)]
    members = {name: table(*of) for name, of in zip("abc", rows, strict=True)}
    config = ensemble("a", "b", "c", rule="uncertainty_weighted", weight=0.3)
    found, _ = ensemble_table(config, members)
    flat = np.array([np.concatenate(of) for of in rows])
    z = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    expected = [np.mean(c) - 0.3 * np.var(c) for c in z.T]
    np.testing.assert_allclose(np.concatenate(found["values"].to_pylist()), expected)
    assert [len(row) for row in found["values"].to_pylist()] == [1, 4, 2, 7]


def test_a_constant_member_is_an_error_that_names_it() -> None:
    found, _ = ensemble_table(
        ensemble("a", "b"), {"a": table([1.0, 2.0], "x"), "b": table([5.0, 5.0], [5.0])}
    )
    assert found["values"].null_count == 2
    assert found["error"].to_pylist()[0].startswith("b: its 2 rewards do not differ")
    assert found["error"].to_pylist()[1] == "a: x"


def test_judges_of_pairs_have_nothing_to_compute_with() -> None:
    nothing = [[float("nan")] * 2, [1.0, 2.0]]
    margins = pa.array([[1.0], None], pa.list_(pa.float64()))
    judge = table(*nothing, margins=margins)
    found, _ = ensemble_table(
        ensemble("a", "b", scale="none"), {"a": table([0.0, 1.0], [0.0, 1.0]), "b": judge}
    )
    assert found["error"].to_pylist() == [
        "b: only compared pairs, and has no rewards to compute with",
        None,
    ]


def test_a_completion_that_one_member_lacks_has_no_reward() -> None:
    a, b = table([1.0, 2.0, 3.0]), table([1.0, float("nan"), 4.0])
    found, scales = ensemble_table(ensemble("a", "b"), {"a": a, "b": b})
    np.testing.assert_array_equal(np.isnan(found["values"][0].as_py()), [False, True, False])
    assert scales["a"].n == 2


def test_members_of_other_lengths_are_an_error() -> None:
    found = log_ratio_table(ratio(), table([1.0, 2.0]), table([1.0]))
    assert found["error"].to_pylist() == ["weak: 1 rewards, where the first member has 2"]


def test_every_row_may_have_failed() -> None:
    found = log_ratio_table(ratio(), table("x", "y"), table("x", "y"))
    assert found["values"].null_count == 2
    with pytest.raises(KeyError):
        found["margins"]
