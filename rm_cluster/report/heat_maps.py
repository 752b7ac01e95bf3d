"""Heat maps: reward models by domain, one reward model's overview, correlations, pairs.

Color is `shade`, from 0 (orange, or pale) to 1 (blue), and blue is always the good end; the number
in the cell is the value itself.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from rm_cluster.downstream.coefficients import COEFFICIENTS
from rm_cluster.metrics.table import LOWER_IS_BETTER
from rm_cluster.report.figure import (
    ROW_HEIGHT,
    Figure,
    by_order,
    counted,
    drop_down,
    tooltips,
    with_order,
    words,
)

MAX_DOMAINS = 60
MAX_CELLS = 10_000

_CELL = 18  # px, the least width of a cell


def domain_heat_map(metrics: pd.DataFrame, benchmark: str, metric: str) -> Figure:
    """One metric of one benchmark: reward models, best first, by domain.

    Args:
        metrics: Rows of that benchmark and metric; reward models in the order to show.
        benchmark: For the title.
        metric: For the title and its direction.
    """
    cells, rest = _first_domains(metrics)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    value = sign * cells["value"]
    spread = value.max() - value.min()
    shade = (value - value.min()) / spread if spread > 0 else value * 0 + 0.5
    cells = with_order(cells.assign(shade=shade), "reward_model", "domain")
    better = "lower is better" if sign < 0 else "higher is better"
    title = f"{benchmark}: {metric} of each reward model in each domain"
    note = f"{better.capitalize()}; the bluer the better.{rest}"
    return _heat_map(
        f"domains {benchmark}", title, note, cells, "reward_model", "domain", metric,
        diverging=False,
    )  # fmt: skip


def overview(metrics: pd.DataFrame, benchmark: str) -> Figure:
    """Every domain and metric of one benchmark, one reward model at a time.

    Metrics have scales of their own, so color is the standing among the reward models in that cell:
    blue is the best of them, orange the worst.

    Args:
        metrics: Rows of that benchmark; the first reward model is shown first.
        benchmark: For the title.
    """
    cells, rest = _first_domains(metrics)
    cells = with_order(cells.assign(shade=_standing(cells)), "domain", "metric", "reward_model")
    per_model = cells.groupby("reward_model").size().max()
    cells = cells[cells["reward_model_order"] < max(1, MAX_CELLS // per_model)]
    names = cells["reward_model"].unique().tolist()
    cells = cells.rename(columns={"reward_model_order": "choice"}).drop(columns="reward_model")
    num_models = metrics["reward_model"].nunique()
    rest += f" The first {len(names)} of {num_models} reward models." * (len(names) < num_models)
    lower = [m for m in cells["metric"].unique() if m in LOWER_IS_BETTER]
    title = f"{benchmark}: one reward model among {num_models}, in every domain and metric"
    note = "Number: value. Color: rank among the reward models, blue is best, orange is worst."
    note += f" Lower is better for {' and '.join(lower)}, and is colored so." if lower else ""
    params = [drop_down("choice_model", "reward model", names)]
    return _heat_map(
        f"overview {benchmark}", title, note + rest, cells, "domain", "metric", "value",
        params=params, filters=["datum.choice == choice_model"], shown=names[0],
    )  # fmt: skip


def correlation_heat_map(correlations: pd.DataFrame, benchmark: str) -> Figure:
    """How each domain's metrics of one benchmark go with an outcome, over reward models.

    Args:
        correlations: Rows of that benchmark, with `X, X_low, X_high, X_p, X_q` for X a coefficient.
        benchmark: For the title.
    """
    kept, rest = _first_domains(correlations)
    outcomes = kept["outcome"].unique().tolist()
    cells = pd.concat([_of_coefficient(kept, name, i) for i, name in enumerate(COEFFICIENTS)])
    cells = with_order(cells, "domain", "metric", "outcome")
    cells = cells.rename(columns={"outcome_order": "choice"}).drop(columns="outcome")
    flipped = sorted(set(kept[kept["flipped"]]["metric"]))
    n = counted(correlations["n"])
    title = f"{benchmark}: how metrics go with the outcome, over reward models ({n})"
    note = "Blue: the better the metric, the better the outcome; orange: the worse. "
    note += f"The sign of {' and '.join(flipped)} is turned: lower is better. " if flipped else ""
    note += "Intervals, p and q (false discovery rate) appear on pointing."
    params = [
        drop_down("choice_outcome", "outcome", outcomes),
        drop_down("choice_coefficient", "coefficient", list(COEFFICIENTS)),
    ]
    filters = ["datum.choice == choice_outcome", "datum.coefficient == choice_coefficient"]
    return _heat_map(
        f"correlations {benchmark}", title, note + rest, cells, "domain", "metric", "correlation",
        params=params, filters=filters, shown=f"{COEFFICIENTS[0]}, {outcomes[0]}",
    )  # fmt: skip


def pair_heat_map(pairs: pd.DataFrame, sweep: str, benchmark: str) -> Figure:
    """The accuracy of each ordered pair of language models as a density ratio, by domain.

    Args:
        pairs: Rows of that sweep and benchmark.
        sweep: For the title.
        benchmark: For the title.
    """
    rows = pairs.rename(columns={"accuracy": "value"})
    rows = rows.drop(columns=["pair_sweep", "benchmark", "gap", "stderr"])
    num_models = rows["strong"].nunique()
    domains = rows["domain"].unique().tolist()
    shown = domains[: max(1, MAX_CELLS // num_models**2)]
    means = rows[rows["domain"] == domains[0]].groupby("strong")["value"].mean()
    order = {name: i for i, name in enumerate(means.sort_values(ascending=False).index)}
    widest = (rows["value"] - 0.5).abs().max()
    cells = rows[rows["domain"].isin(shown)].assign(
        shade=0.5 + (rows["value"] - 0.5) / (2 * widest if widest > 0 else 1.0),
        strong_order=rows["strong"].map(order),
        weak_order=rows["weak"].map(order),
        choice=rows["domain"].map({name: i for i, name in enumerate(shown)}),
    )
    rest = f" The first {len(shown)} of {len(domains)} domains." * (len(shown) < len(domains))
    note = (
        "Blue: the strong model less the weak one prefers what was chosen; orange: what was "
        "rejected. A model over itself ties everywhere, which is 0.5, and a swapped pair mirrors."
    )
    return _heat_map(
        f"pairs {sweep} {benchmark}",
        f"{benchmark}: accuracy of strong over weak, {num_models**2} ordered pairs of "
        f"{num_models} models ({counted(cells['n'])})",
        note + rest, cells.drop(columns="domain"), "strong", "weak", "accuracy",
        params=[drop_down("choice_domain", "domain", shown)],
        filters=["datum.choice == choice_domain"], shown=str(shown[0]),
    )  # fmt: skip


def choice_heat_map(choices: pd.DataFrame, title: str) -> Figure:
    """Gold of the picks by reward model and rule of Best-of-N, with the strength that was chosen.

    Args:
        choices: model, rule, gold, gold_low, gold_high, n_test.
        title: What gold is.
    """
    ends = {"gold": "value", "gold_low": "ci_low", "gold_high": "ci_high", "n_test": "n"}
    cells = choices[["model", "rule", *ends]].rename(columns=ends)
    spread = cells["value"].max() - cells["value"].min()
    shade = (cells["value"] - cells["value"].min()) / spread if spread > 0 else 0.5
    cells = with_order(cells.assign(shade=shade), "model", "rule")
    note = "The bluer the better. Intervals appear on pointing. mbr asks no reward model."
    return _heat_map(
        "reward model by rule", title, note, cells, "model", "rule", "gold", diverging=False
    )


def _of_coefficient(correlations: pd.DataFrame, name: str, position: int) -> pd.DataFrame:
    ends = {f"{name}_low": "ci_low", f"{name}_high": "ci_high", f"{name}_p": "p", f"{name}_q": "q"}
    columns = ["domain", "metric", "outcome", "n"]
    table = correlations[[*columns, name, *ends]].rename(columns={name: "value", **ends})
    return table.assign(shade=(table["value"] + 1) / 2, coefficient=position)


def _first_domains(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the first `MAX_DOMAINS` domains, and words for what is left out."""
    domains = table["domain"].unique()
    if len(domains) <= MAX_DOMAINS:
        return table, ""
    kept = table[table["domain"].isin(domains[:MAX_DOMAINS])]
    return kept, f" The first {MAX_DOMAINS} of {len(domains)} domains."


def _standing(cells: pd.DataFrame) -> pd.Series:
    """1 for the best reward model of a domain and metric, 0 for the worst, 0.5 for a lone one."""
    sign = np.where(cells["metric"].isin(LOWER_IS_BETTER), -1.0, 1.0)
    groups = (cells["value"] * sign).groupby([cells["domain"], cells["metric"]])
    beaten = groups.rank() - 1
    others = groups.transform("count") - 1
    return (beaten / others.where(others > 0)).fillna(0.5).where(cells["value"].notna())


def _heat_map(
    name: str,
    title: str,
    note: str,
    cells: pd.DataFrame,
    rows: str,
    columns: str,
    value: str,
    params: list[alt.Parameter] | None = None,
    filters: list[str] | None = None,
    shown: str = "",
    diverging: bool = True,
) -> Figure:
    """Cells with a color and a number; the longer side runs down the page."""
    if cells[columns].nunique() > max(16, cells[rows].nunique()):
        rows, columns = columns, rows
    cells = cells.assign(label=cells["value"].map(_two_digits))
    pale = "abs(datum.shade - 0.5) < 0.36" if diverging else "datum.shade < 0.62"
    letters = min(24, cells[columns].astype(str).str.len().max())
    base = alt.Chart().encode(
        y=alt.Y(f"{rows}:N", title=words(rows), sort=by_order(rows)),
        x=alt.X(
            f"{columns}:N",
            title=words(columns),
            sort=by_order(columns),
            axis=alt.Axis(
                orient="top",
                labelAngle=alt.ExprRef(f"bandwidth('x') < {7 * letters} ? -90 : 0"),
                labelLimit=150,
                labelOverlap=False,
            ),
        ),
        tooltip=tooltips(cells, [rows, columns], value),
    )
    squares = base.mark_rect(stroke="#80808033", strokeWidth=1).encode(
        color=alt.Color(
            "shade:Q",
            scale=alt.Scale(
                domain=[0, 1],
                scheme="blueorange" if diverging else "blues",
                reverse=diverging,
            ),
            legend=None,
        )
    )
    longest = cells["label"].str.len().max()
    size = alt.ExprRef(f"min(12, bandwidth('x') / {0.58 * longest:.2f})")
    dark_ink = f"!isValid(datum.shade) ? '#808080' : {pale} ? '#15181d' : '#ffffff'"
    numbers = base.mark_text(fontSize=size).encode(
        text="label:N",
        color=alt.ColorValue(alt.ExprRef(dark_ink)),
    )
    chart = alt.layer(squares, numbers, data=alt.NamedData("cells"))
    for expression in filters or []:
        chart = chart.transform_filter(expression)
    if params:
        chart = chart.add_params(*params)
    chart = chart.properties(width="container", height=ROW_HEIGHT * cells[rows].nunique())
    # less than this and the numbers cannot be read
    min_width = 110 + _CELL * cells[columns].nunique()
    return Figure(name, title, chart, {"cells": cells}, note, shown, min_width)


def _two_digits(value: float) -> str:
    return "-" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}"  # no minus before a zero
