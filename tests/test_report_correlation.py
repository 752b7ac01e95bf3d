from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rm_cluster.correlation import CorrelateConfig, CorrelationResult
from rm_cluster.downstream.base_models import BaseModelTables
from rm_cluster.report.correlation import correlation_page, write_report
from rm_cluster.report.page import render
from rm_cluster.store import Folder
from tests.reports import NAMES, PPE_CELLS, correlation_rows, metric_rows, outcome_rows


def quantile_rows() -> pd.DataFrame:
    table = pd.DataFrame({"quantile": [0.0, 0.5, 1.0], "pearson": [0.8, 0.5, 0.2]})
    table = table.assign(benchmark="ppe", over="human_categories", num_domains=6, metric="accuracy")
    low, high = table["pearson"] - 0.3, table["pearson"] + 0.1
    return table.assign(outcome="arena", n=9, pearson_low=low, pearson_high=high, pearson_p=0.01)


def predicted(names: tuple[str, ...]) -> dict[str, Any]:
    fitted = {
        "predicted": {name: 1150.0 + i for i, name in enumerate(names)},
        "mae": 4.0, "rmse": 5.0, "r2": None, "mae_difference": -1.0, "ci_low": -3.0,
        "ci_high": 1.0, "n_not_converged": 0,
    }  # fmt: skip
    observed = {name: 1150.0 + 2 * i for i, name in enumerate(names)}
    return {
        "arena_score": {"n": len(names), "observed": observed, "models": {"ridge": fitted}},
        "few": {"n": 2, "observed": {}, "skipped": "needs 5 reward models, got 2"},
    }


def base_model_tables() -> BaseModelTables:
    coverage = pd.DataFrame({"k": [5, 6, 7], "coverage": [0.4, 0.5, 0.6], "random": 0.2})
    coverage = coverage.assign(method="bt", predictor="elastic_net", validation="10_fold", n=40)
    board = pd.DataFrame({"method": ["bt"], "rank": [1], "base_model": ["<i>b</i>"], "n": [40]})
    return BaseModelTables(board, board, board[:0], coverage, board)


@pytest.fixture
def result() -> CorrelationResult:
    names = NAMES[:9]
    metrics = metric_rows(names, "ppe", PPE_CELLS)
    outcomes = outcome_rows(names)
    return CorrelationResult(
        correlations=correlation_rows(metrics, outcomes),
        quantiles=quantile_rows(),
        prediction=predicted(names),
        base_models=base_model_tables(),
        published=pd.DataFrame({"name": ["mean"], "ours": [0.6], "printed": [0.64]}),
        metrics=metrics,
        outcomes=outcomes,
        config=CorrelateConfig(metrics=["a.csv"], downstream="b.csv"),
        run={
            "n_reward_models": 9, "only_in_metrics": ["judge"], "only_in_downstream": [],
            "n_metric_values": 711, "n_metric_values_missing": 4,
        },
    )  # fmt: skip


def test_the_page_shows_every_part_of_a_result(result: CorrelationResult, tmp_path: Path) -> None:
    write_report(result, Folder(str(tmp_path)))
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [
        "01-correlations-ppe.svg",
        "02-metric-against-outcome.svg",
        "03-quantiles.svg",
        "04-predictions.svg",
        "05-coverage.svg",
    ]
    for name in pictures:
        ElementTree.parse(tmp_path / "figures" / name)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "9 reward models have both metrics and an outcome. With metrics only, 1: judge." in html
    assert "4 of 711 values are empty" in html
    assert "few: needs 5 reward models, got 2." in html
    assert "<i>b</i>" not in html


def test_points_are_those_that_have_both_and_the_note_has_their_n(
    result: CorrelationResult,
) -> None:
    figure = correlation_page(result).figures[1]
    first = figure.tables["points"].query("choice == 0")
    assert sorted(first["reward_model"]) == sorted(NAMES[:9])
    told = figure.tables["notes"]["text"].str.partition(", n = 9")
    assert (told[1] != "").all()
    turned = np.where(result.correlations["flipped"], " (sign turned: lower is better)", "")
    assert told[2].tolist() == turned.tolist()
    assert (turned != "").any()
    # no interval is known for the first: its bar has no length
    bare = dataclasses.replace(result, metrics=result.metrics.assign(ci_low=np.nan, ci_high=np.nan))
    points = correlation_page(bare).figures[1].tables["points"]
    assert (points["x_low"] == points["x"]).all()


def test_what_is_too_few_is_said_and_not_drawn(result: CorrelationResult) -> None:
    nothing = result.correlations.assign(n=2)
    for name in ("pearson", "spearman", "kendall"):
        nothing[[name, f"{name}_low", f"{name}_high", f"{name}_p", f"{name}_q"]] = np.nan
    few = dataclasses.replace(
        result,
        correlations=nothing,
        quantiles=result.quantiles.assign(pearson=np.nan),
        prediction={"few": result.prediction["few"]},
        base_models=None,
        published=None,
    )
    page = correlation_page(few)
    assert [figure.name for figure in page.figures] == [
        "correlations ppe",
        "metric against outcome",
    ]
    assert "needs 5 reward models, got 2" in render(page)
    assert "n = 2" in page.figures[0].title
