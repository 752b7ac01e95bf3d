"""Lines with intervals: best of K, correlation by quantile, coverage at k."""

from __future__ import annotations

import altair as alt
import pandas as pd

from rm_cluster.report.figure import (
    Figure,
    by_order,
    counted,
    drop_down,
    tooltips,
    with_ends,
    with_order,
)

# Readable on white and on black; lines beyond them are gray.
_COLORS = (
    "#4c8bf5", "#f28e2b", "#e15759", "#42a5a0", "#59a14f", "#c79a00", "#b07aa1", "#e377a2",
    "#9c755f", "#6b8e23",
)  # fmt: skip

_ELSE = "all others"


def best_of_k(curves: pd.DataFrame) -> Figure:
    """The share of prompts whose pick among K is right, reward models as lines.

    Args:
        curves: reward_model, benchmark, domain, k, value, ci_low, ci_high, oracle, n.
    """
    curves = curves[curves["value"].notna()]
    keys = curves[["benchmark", "domain"]].astype(str).agg(" / ".join, axis=1)
    rows = colored(curves.assign(choice=pd.factorize(keys)[0]), "reward_model")
    rows = with_ends(rows, "value", "ci_low", "ci_high")
    oracle = rows.drop_duplicates(["choice", "k"])[["choice", "k", "oracle"]]
    scale = alt.Scale(type="log", base=2, nice=False)
    ks = alt.Axis(values=sorted(int(k) for k in curves["k"].unique()), grid=False, format="d")
    base = alt.Chart(alt.NamedData("curves")).encode(
        x=alt.X("k:Q", title="K, completions to pick from", scale=scale, axis=ks),
        color=line_color("reward model"),
        detail="reward_model:N",
        tooltip=tooltips(rows, ["reward_model", "k"], "right picks"),
    )
    y_title = "share of prompts whose pick is right"
    dashed = alt.Chart(alt.NamedData("oracle")).mark_line(strokeDash=[5, 4], color="#808080")
    layers = [
        base.mark_area(opacity=0.08).encode(y=y_axis("low:Q", y_title), y2="high:Q"),
        dashed.encode(x="k:Q", y="oracle:Q"),
        base.mark_line(point=True).encode(y=y_axis("value:Q", y_title)),
    ]
    note = (
        "Bands: 95 % intervals. Dashed: an oracle, which finds a right completion if there is one."
    )
    names = keys.unique().tolist()
    return Figure(
        "best of k",
        f"A reward model picks one of K completions: how often it is right ({counted(rows['n'])})",
        chosen(layers, drop_down("choice", "benchmark / domain", names)),
        {"curves": rows, "oracle": oracle},
        note + greyed(rows),
        names[0],
    )


def quantile_curves(quantiles: pd.DataFrame) -> Figure:
    """Pearson with the outcome, by the quantile over domains that stands for a reward model.

    Args:
        quantiles: benchmark, over, quantile, num_domains, metric, outcome, n, pearson, pearson_low,
            pearson_high.
    """
    quantiles = quantiles[quantiles["pearson"].notna()]
    keys = quantiles[["benchmark", "over", "metric", "outcome"]].astype(str).agg(" / ".join, axis=1)
    ends = {"pearson": "value", "pearson_low": "ci_low", "pearson_high": "ci_high"}
    columns = ["quantile", "num_domains", "n", *ends]
    rows = quantiles[columns].rename(columns=ends).assign(choice=pd.factorize(keys)[0])
    rows = with_ends(rows, "value", "ci_low", "ci_high")
    y_title = "Pearson correlation with the outcome"
    base = alt.Chart(alt.NamedData("quantiles")).encode(
        x=alt.X(
            "quantile:Q",
            title="quantile (0: worst domain, 1: best)",
            axis=alt.Axis(tickCount=6, labelFlush=False),
        ),
        tooltip=tooltips(rows, ["quantile", "num_domains"], "Pearson"),
    )
    zero = alt.Chart(alt.NamedData("quantiles")).mark_rule(strokeDash=[5, 4], color="#808080")
    layers = [
        zero.encode(y=alt.datum(0)),
        base.mark_area(opacity=0.15).encode(y=y_axis("low:Q", y_title), y2="high:Q"),
        base.mark_line(point=True).encode(y=y_axis("value:Q", y_title)),
    ]
    names = keys.unique().tolist()
    return Figure(
        "quantiles",
        f"Is a reward model as good as its worst domain? Correlation by quantile "
        f"({counted(rows['n'])} reward models)",
        chosen(layers, drop_down("choice", "benchmark / over / metric / outcome", names)),
        {"quantiles": rows},
        "Band: 95 % interval over reward models. Domains are z-scored first.",
        names[0],
    )


def coverage_curves(coverage: pd.DataFrame) -> Figure:
    """How many of the best k base models are among the k that were predicted to be the best.

    Args:
        coverage: method, predictor, validation, k, coverage, random, n.
    """
    names = coverage["method"].astype(str).unique().tolist()
    columns = ["predictor", "validation", "k", "random", "n"]
    rows = coverage[columns].assign(
        value=coverage["coverage"],
        choice=pd.factorize(coverage["method"])[0],
        name=coverage["predictor"].astype(str) + ", " + coverage["validation"].astype(str),
    )
    rows = colored(rows, "name")
    ks = alt.Axis(values=sorted(int(k) for k in coverage["k"].unique()), grid=False, format="d")
    y_title = "share of the best k that was found"
    base = alt.Chart(alt.NamedData("coverage")).encode(
        x=alt.X("k:Q", title="k, base models that are kept", scale=alt.Scale(zero=False), axis=ks),
        color=line_color("predictor, validation"),
        detail="name:N",
        tooltip=tooltips(rows, ["name", "k", "random"], "coverage"),
    )
    dashed = alt.Chart(alt.NamedData("coverage")).mark_line(strokeDash=[5, 4], color="#808080")
    layers = [
        dashed.encode(x="k:Q", y="random:Q"),
        base.mark_line(point=True).encode(y=y_axis("value:Q", y_title)),
    ]
    return Figure(
        "coverage",
        f"Choosing base models by prediction: share of the best k found ({counted(rows['n'])})",
        chosen(layers, drop_down("choice", "method", names)),
        {"coverage": rows},
        "Dashed: what chance finds. Only lines out of sample say what a new base model would get."
        + greyed(rows),
        names[0],
    )


def chosen(layers: list[alt.Chart], choice: alt.Parameter) -> alt.LayerChart | alt.FacetChart:
    """Layers of the rows that a parameter chooses."""
    kept = [layer.transform_filter("datum.choice == choice") for layer in layers]
    return alt.layer(*kept).add_params(choice).properties(width="container", height=340)


def y_axis(field: str, title: str) -> alt.Y:
    """A scale that need not begin at zero."""
    return alt.Y(field, title=title, scale=alt.Scale(zero=False))


def line_color(title: str) -> alt.Color:
    """The colors of what `colored` gives."""
    legend = alt.Legend(title=title, symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=3)
    scale = alt.Scale(range=[*_COLORS, "#808080"])
    return alt.Color("line:N", sort=by_order("line"), legend=legend, scale=scale)


def colored(rows: pd.DataFrame, name: str, by: str = "k") -> pd.DataFrame:
    """Add `line`: the name, for as many as have a color, best value at the last `by` first."""
    best = rows.sort_values(by).groupby(name)["value"].last().sort_values(ascending=False).index
    lines = rows[name].where(rows[name].isin(best[: len(_COLORS)]), _ELSE)
    places = {line: i for i, line in enumerate([*best, _ELSE])}
    order = rows[name].map(places)
    return with_order(rows.assign(line=lines).iloc[order.argsort(kind="stable")], "line")


def greyed(rows: pd.DataFrame) -> str:
    """A sentence on the lines without a color, if there are any."""
    return f" The best {len(_COLORS)} have colors." if (rows["line"] == _ELSE).any() else ""
