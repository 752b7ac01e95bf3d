"""The figures of a search."""

from __future__ import annotations

import altair as alt
import pandas as pd

from rm_cluster.report.curves import chosen, colored, greyed, line_color, y_axis
from rm_cluster.report.figure import (
    ROW_HEIGHT,
    Figure,
    by_order,
    counted,
    drop_down,
    tooltips,
    with_ends,
    with_order,
    words,
)

_GRAY = "#808080"
_EVERY = "plain best-of-n, all reward models"
_ENDS = {"ci_low": "{}_low", "ci_high": "{}_high"}


def n_curves(curves: pd.DataFrame, what: str) -> Figure:
    """Expected gold of best-of-n: plain for all reward models, then each one with all rules.

    Args:
        curves: model, name (rule and beta), rule, n, kl, gold with its interval, num_prompts.
        what: Gold, or what stands in for it.
    """
    plain = curves[curves["rule"] == "bon"].assign(choice=0)
    parts = [plain.assign(name=plain["model"])]
    models = plain["model"].unique().tolist()
    alone = curves[curves["rule"] == "mbr"]
    for place, model in enumerate(models, start=1):
        own = curves[(curves["model"] == model) & (curves["rule"] != "mbr")]
        parts.append(pd.concat([own, alone]).assign(choice=place))
    rows = _as_values(pd.concat(parts), "gold", "num_prompts")
    rows = colored(rows[["choice", "name", "n_candidates", "kl", *_VALUES]], "name", "n_candidates")
    layers = _lines(rows, "curves", _n_axis(rows), ["name", "n_candidates", "kl"], what, points=1)
    names = [_EVERY, *models]
    return Figure(
        "best of n",
        f"What the best of n is worth: expected {what} ({counted(rows['n'])} prompts)",
        chosen(layers, drop_down("choice", "show", names)),
        {"curves": rows},
        "Below n: KL from the policy in nats, log n - (n-1)/n, an upper bound. Bands: 95 % "
        "intervals. A line that falls is a reward model that is hacked." + greyed(rows),
        names[0],
    )


def proxy_curves(curves: pd.DataFrame) -> Figure:
    """Expected proxy reward of plain best-of-n, in each reward model's own units.

    Args:
        curves: model, rule, n, kl, proxy with its interval, num_prompts.
    """
    plain = curves[curves["rule"] == "bon"]
    rows = _as_values(plain, "proxy", "num_prompts")
    names = rows["model"].unique().tolist()
    rows = rows.assign(choice=pd.factorize(rows["model"])[0], line="")
    rows = rows[["choice", "line", "n_candidates", "kl", *_VALUES]]
    layers = _lines(rows, "curves", _n_axis(rows), ["n_candidates", "kl"], "reward", points=1)
    return Figure(
        "proxy reward",
        f"What reward models think of it: expected proxy reward ({counted(rows['n'])} prompts)",
        chosen([layer.encode(color=alt.Undefined) for layer in layers],
               drop_down("choice", "reward model", names)),
        {"curves": rows},
        "In the units of each reward model; it rises whatever becomes of gold.",
        names[0],
    )  # fmt: skip


def beta_curves(curves: pd.DataFrame, choices: pd.DataFrame, what: str) -> Figure:
    """Gold against beta, a reward model at a time, with plain Best-of-N and the chosen betas.

    Args:
        curves: model, rule, beta, gold with its interval, n, chosen.
        choices: model, rule, gold: plain Best-of-N's is drawn.
        what: Gold, or what stands in for it.
    """
    names = curves["model"].unique().tolist()
    place = {name: i for i, name in enumerate(names)}
    rows = curves.rename(columns={"gold": "value", "gold_low": "ci_low", "gold_high": "ci_high"})
    rows = with_ends(rows.assign(choice=rows["model"].map(place)), "value", "ci_low", "ci_high")
    lines = ["choice", "rule", "beta", *_VALUES]
    marks = rows[["choice", "rule", "chosen"]].drop_duplicates()
    marks = marks[(marks["chosen"] > 0) & (marks["chosen"] <= rows["beta"].max())]
    rows = colored(rows[lines], "rule", "beta")
    marks = marks.merge(rows[["rule", "line", "line_order"]].drop_duplicates("rule"), on="rule")
    plain = choices[(choices["rule"] == "bon") & choices["model"].isin(names)]
    plain = plain.assign(choice=plain["model"].map(place))[["choice", "gold"]]
    x = alt.X("beta:Q", title="beta", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g"))
    level = alt.Chart(alt.NamedData("plain")).mark_rule(strokeDash=[5, 4], color=_GRAY)
    chosen_beta = alt.Chart(alt.NamedData("marks")).mark_rule(strokeDash=[2, 3], strokeWidth=1.5)
    layers = [
        level.encode(y=y_axis("gold:Q", what)),
        chosen_beta.encode(x=alt.X("chosen:Q", scale=alt.Scale(type="log")),
                           color=line_color("rule"), tooltip=["rule:N", "chosen:Q"]),
        *_lines(rows, "curves", x, ["rule"], what, legend="rule"),
    ]  # fmt: skip
    return Figure(
        "gold against beta",
        f"Regularization: {what} of the pick by beta ({counted(rows['n'])} test prompts)",
        chosen(layers, drop_down("choice", "reward model", names)),
        {"curves": rows, "marks": marks, "plain": plain},
        "Dashed: plain Best-of-N, all candidates. Dotted: the beta that the development prompts "
        "chose. Bands: 95 % intervals.",
        names[0],
    )


def front(trials: pd.DataFrame, cost: str, members: list[int], what: str) -> Figure:
    """The value of every trial against its cost, with the Pareto front.

    Args:
        trials: Complete ones: trial, name, value, and the cost; its n is num_prompts.
        cost: `tokens` or `kl`.
        members: Numbers of the trials on the front.
        what: The criterion.
    """
    titles = {"tokens": "tokens per prompt, generated and read", "kl": "-log pi of the pick, nats"}
    rows = trials[["trial", "name", "value", cost, "num_prompts"]].rename(
        columns={"num_prompts": "n"}
    )
    rows = rows.assign(front=rows["trial"].isin(members).map({True: "yes", False: "no"}))
    scale = alt.Scale(type="log") if cost == "tokens" else alt.Scale(zero=False)
    base = alt.Chart(alt.NamedData("trials")).encode(
        x=alt.X(f"{cost}:Q", title=titles[cost], scale=scale, axis=alt.Axis(format="~s")),
        y=y_axis("value:Q", f"mean {what}, development prompts"),
        tooltip=tooltips(rows, ["trial", "name", cost], what),
    )
    on_front = base.transform_filter("datum.front == 'yes'")
    layers = [
        base.mark_point(filled=True, opacity=0.35, size=40, color=_GRAY),
        on_front.mark_line(interpolate="step-after"),
        on_front.mark_point(filled=True, size=80, opacity=1),
    ]
    return Figure(
        f"value against {cost}",
        f"What it costs: {len(rows)} trials, and those that none beats in both",
        alt.layer(*layers).properties(width="container", height=340),
        {"trials": rows},
        f"Means over {rows['n'].max()} development prompts, as the search saw them.",
    )


def importance(table: pd.DataFrame) -> Figure:
    """How much of the spread of the value each parameter explains.

    Args:
        table: parameter, importance, ci_low, ci_high, n.
    """
    rows = table.rename(columns={"importance": "value"}).sort_values("value", ascending=False)
    rows = with_order(with_ends(rows, "value", "ci_low", "ci_high"), "parameter")
    base = alt.Chart(alt.NamedData("importances")).encode(
        y=alt.Y("parameter:N", title=None, sort=by_order("parameter")),
        tooltip=tooltips(rows, ["parameter"], "importance"),
    )
    x = alt.Scale(domainMin=0)
    layers = [
        base.mark_rule(strokeWidth=3, opacity=0.45).encode(
            x=alt.X("low:Q", title="share of the spread", scale=x), x2="high:Q"
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("value:Q", scale=x)),
    ]
    return Figure(
        "importances",
        f"How much each parameter matters ({counted(rows['n'])} trials that have it)",
        alt.layer(*layers).properties(width="container", height=ROW_HEIGHT * len(rows)),
        {"importances": rows},
        "PED-ANOVA of Optuna; 95 % intervals by a bootstrap over trials, which the sampler did not "
        "draw independently.",
    )


_VALUES = ("value", "ci_low", "ci_high", "low", "high", "n")


def _as_values(table: pd.DataFrame, name: str, count: str) -> pd.DataFrame:
    """Rows with `value` and its ends, `n` prompts, and candidates under another name."""
    renamed = {"n": "n_candidates", count: "n", name: "value"}
    renamed |= {f"{name}_low": "ci_low", f"{name}_high": "ci_high"}
    rows = table.rename(columns=renamed)
    return with_ends(rows[rows["value"].notna()], "value", "ci_low", "ci_high")


def _n_axis(rows: pd.DataFrame) -> alt.X:
    largest = int(rows["n_candidates"].max())
    ticks = [2**k for k in range(largest.bit_length())]
    kl = "format(log(datum.value) - (datum.value - 1) / datum.value, '.2f')"
    return alt.X(
        "n_candidates:Q",
        title="n candidates; below it, nats",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=ticks, grid=False, labelExpr=f"[format(datum.value, 'd'), {kl}]"),
    )


def _lines(
    rows: pd.DataFrame,
    name: str,
    x: alt.X,
    told: list[str],
    what: str,
    legend: str = "",
    points: int = 0,
) -> list[alt.Chart]:
    """Bands and lines of `value` with `low` and `high`, colored by `line`."""
    base = alt.Chart(alt.NamedData(name)).encode(
        x=x,
        color=line_color(legend or words("line")),
        detail="line:N",
        tooltip=tooltips(rows, told, what),
    )
    return [
        base.mark_area(opacity=0.1).encode(y=y_axis("low:Q", what), y2="high:Q"),
        base.mark_line(point=bool(points)).encode(y=y_axis("value:Q", what)),
    ]
