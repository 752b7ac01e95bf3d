"""Points with intervals: the leaderboard, a metric against an outcome, a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from rm_cluster.downstream.prediction import BASELINE
from rm_cluster.report.figure import (
    ROW_HEIGHT,
    Figure,
    by_order,
    counted,
    drop_down,
    tooltips,
    with_ends,
    with_order,
)
from rm_cluster.report.wording import interval

MAX_POINTS = 10_000

_KEYS = ["benchmark", "domain", "metric"]


def leaderboard(board: pd.DataFrame, benchmark: str, domain: str) -> Figure:
    """Reward models, best first, with 95 % intervals.

    Args:
        board: The rows of one headline: reward_model, metric, value, ci_low, ci_high, n, n_tied,
            n_failed, n_truncated; best first.
        benchmark: For the title.
        domain: For the title.
    """
    metric = str(board["metric"].iloc[0])
    columns = ["reward_model", "value", "ci_low", "ci_high"]
    columns += ["n", "n_tied", "n_failed", "n_truncated"]
    rows = with_order(board[columns], "reward_model")
    rows = with_ends(rows, "value", "ci_low", "ci_high")
    ends = rows[["ci_low", "value", "ci_high"]].to_numpy(float)
    within = not ((ends < 0) | (ends > 1)).any()
    scale = alt.Scale(zero=False)
    axis = alt.Axis(tickCount=6, labelFlush=False)
    title = f"{metric}, from 0 to 1" if within else metric
    base = alt.Chart().encode(
        y=alt.Y("reward_model:N", title="reward model", sort=by_order("reward_model")),
        tooltip=tooltips(rows, ["reward_model"], metric),
    )
    ranges = base.mark_rule(strokeWidth=3, opacity=0.45).encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=axis)
    )
    chart = alt.layer(ranges, points, data=alt.NamedData("board"))
    return Figure(
        f"leaderboard {benchmark} {domain}",
        f"{benchmark}, {domain}: {metric} with 95 % intervals, best first ({counted(rows['n'])})",
        chart.properties(width="container", height=ROW_HEIGHT * len(rows)),
        {"board": rows},
    )


def metric_against_outcome(
    metrics: pd.DataFrame, outcomes: pd.DataFrame, correlations: pd.DataFrame
) -> Figure:
    """One metric and domain against one outcome, one point per reward model.

    Args:
        metrics: As of a result.
        outcomes: reward_model, outcome, value, and ci_low and ci_high if they are known.
        correlations: As of `correlate`, with n > 0 somewhere; the first such is shown first.
    """
    num_models = max(1, outcomes["reward_model"].nunique())
    distinct = correlations[correlations["n"] > 0].drop_duplicates(_KEYS)
    kept = distinct.head(MAX_POINTS // num_models)
    features = kept[_KEYS].reset_index(drop=True).rename_axis("choice").reset_index()
    names = [" / ".join(map(str, row)) for row in features[_KEYS].itertuples(index=False)]
    targets = outcomes["outcome"].unique().tolist()
    notes = _notes(correlations.merge(features, on=_KEYS), targets)
    more = len(distinct) - len(kept)
    params = [
        drop_down("choice_feature", "metric", names),
        drop_down("choice_target", "outcome", targets),
    ]
    points = _points(metrics.merge(features, on=_KEYS), outcomes, targets)
    marks = _labelled(
        "metric, in its own units",
        targets[0] if len(targets) == 1 else "outcome, in its own units",
    )
    bars = alt.Chart(alt.NamedData("points")).mark_rule(opacity=0.35)
    marks += [
        bars.encode(x="x_low:Q", x2="x_high:Q", y="y:Q"),
        bars.encode(x="x:Q", y="y_low:Q", y2="y_high:Q"),
    ]
    text = alt.Chart(alt.NamedData("notes")).mark_text(align="left", fontWeight="bold").encode(
        x=alt.value(4), y=alt.value(-10), text="text:N"
    )  # fmt: skip
    layers = [
        layer.transform_filter("datum.choice == choice_feature && datum.target == choice_target")
        for layer in (*marks, text)
    ]
    note = "Bars are 95 % intervals where they are known; the correlation is over these n points."
    return Figure(
        "metric against outcome",
        f"Metric against outcome, one point per reward model ({counted(correlations['n'])})",
        alt.layer(*layers).add_params(*params).properties(width="container", height=380),
        {"points": points, "notes": notes},
        note + (f" {more:,} further metrics are in metrics.csv." if more else ""),
        f"{names[0]}, {targets[0]}",
    )


def _notes(correlations: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    """The sentence above the points of each choice and target."""
    columns = ("pearson", "pearson_low", "pearson_high", "n", "flipped")
    numbers = zip(*(correlations[name].tolist() for name in columns), strict=True)
    return pd.DataFrame(
        {
            "choice": correlations["choice"],
            "target": correlations["outcome"].map({name: i for i, name in enumerate(targets)}),
            "text": [
                f"Pearson {interval(r, low, high)}, n = {n}"
                + (" (sign turned: lower is better)" if flipped else "")
                for r, low, high, n, flipped in numbers
            ],
        }
    )


def predictions(prediction: Mapping[str, Any]) -> Figure | None:
    """The outcome that was predicted without a reward model against its own, per predictor.

    Args:
        prediction: As of `downstream.prediction.predict`.

    Returns:
        None where nothing could be predicted.
    """
    rows = [
        (f"{outcome} / {model}", name, predicted, found["observed"][name])
        for outcome, found in prediction.items()
        for model, fitted in found.get("models", {}).items()
        for name, predicted in fitted["predicted"].items()
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: row[0].endswith(f"/ {BASELINE}"))  # what was fitted comes first
    points = pd.DataFrame(rows, columns=["model", "reward_model", "y", "x"])
    points = _sided(points.assign(choice=pd.factorize(points["model"])[0], target=0))
    names = points["model"].unique().tolist()
    ends = points.melt(id_vars="choice", value_vars=["x", "y"])
    ends = ends.groupby("choice")["value"].agg(["min", "max"]).reset_index()
    diagonal = alt.Chart(alt.NamedData("ends")).mark_rule(strokeDash=[5, 4], opacity=0.7).encode(
        x="min:Q", x2="max:Q", y="min:Q", y2="max:Q"
    )  # fmt: skip
    marks = _labelled("observed outcome, in its own units", "predicted outcome, same units")
    layers = [
        layer.transform_filter("datum.choice == choice_model") for layer in (diagonal, *marks)
    ]
    params = [drop_down("choice_model", "outcome / predictor", names)]
    n = points.groupby("choice").size()
    return Figure(
        "predictions",
        f"The outcome predicted from the metrics of the other reward models ({counted(n)})",
        alt.layer(*layers).add_params(*params).properties(width="container", height=380),
        {"points": points.drop(columns="model"), "ends": ends},
        "Each point was left out of the fit that predicts it; dashed: predicted as observed.",
        names[0],
    )


def _points(metrics: pd.DataFrame, outcomes: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    """Metric (x) and outcome (y) of each reward model that has both, with the ends of intervals."""
    x = {"value": "x", "ci_low": "x_low", "ci_high": "x_high"}
    y = {"value": "y", "ci_low": "y_low", "ci_high": "y_high"}
    known = outcomes.reindex(columns=["reward_model", "outcome", *y]).rename(columns=y)
    measured = metrics.reindex(columns=["reward_model", "choice", *x]).rename(columns=x)
    points = measured.merge(known, "inner")
    positions = {name: i for i, name in enumerate(targets)}
    points = points.assign(target=points["outcome"].map(positions)).drop(columns="outcome")
    points = points.dropna(subset=["x", "y"]).reset_index(drop=True)
    ends = {"x_low": "x", "x_high": "x", "y_low": "y", "y_high": "y"}
    drawn = {end: points[end].fillna(points[value]) for end, value in ends.items()}
    return _sided(points.assign(**drawn))  # without an interval a bar has no length


def _sided(points: pd.DataFrame) -> pd.DataFrame:
    """Add where names go: left of points at the right, and neighbors above and below in turn."""
    groups = points.groupby(["choice", "target"])
    middle = (groups["x"].transform("min") + groups["x"].transform("max")) / 2
    below = groups["y"].rank(method="first") % 2 == 0
    return points.assign(right=points["x"] > middle, below=below)


def _labelled(x_title: str, y_title: str) -> list[alt.Chart]:
    """Points with names, from `points`: x, y, reward_model, right, below."""
    axis = alt.Axis(tickCount=6, labelFlush=False)
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, padding=24), axis=axis)
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False, padding=24))
    tips = [
        alt.Tooltip("reward_model:N", title="reward model"),
        alt.Tooltip("x:Q", title=x_title, format=".4~g"),
        alt.Tooltip("y:Q", title=y_title, format=".4~g"),
    ]
    base = alt.Chart(alt.NamedData("points")).encode(x=x, y=y, tooltip=tips)
    points = base.mark_point(filled=True, size=60, opacity=1)
    names = base.mark_text(
        align=alt.ExprRef("datum.right ? 'right' : 'left'"),
        dx=alt.ExprRef("datum.right ? -8 : 8"),
        dy=alt.ExprRef("datum.below ? 9 : -7"),
        limit=alt.ExprRef("width * 0.4"),
        opacity=alt.ExprRef("width < 400 ? 0 : 1"),  # on a phone they would lie on each other
    ).encode(text="reward_model:N")
    return [points, names]
