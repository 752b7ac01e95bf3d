"""What a page shows of rewards made of others: pair sweeps, and what ensembles gain."""

from __future__ import annotations

import altair as alt
import pandas as pd

from rm_cluster.report.derived_terminal import correlation_text
from rm_cluster.report.figure import Figure, drop_down
from rm_cluster.report.heat_maps import MAX_CELLS, pair_heat_map
from rm_cluster.report.page import Section
from rm_cluster.report.table import Table
from rm_cluster.result import EvalResult

_COUNTS = {"n": "n", "n_tied": "tied", "n_failed": "failed", "n_truncated": "truncated"}
_PAIRS = {
    "domain": "domain",
    "strong": "strong",
    "weak": "weak",
    "accuracy [ci]": "accuracy [95 % interval]",
    "gap": "gap",
    **_COUNTS,
}
_CORRELATIONS = {
    "domain": "domain",
    "over": "pairs",
    "n_pairs": "n pairs",
    "n_models": "n models",
    "pearson [pearson]": "Pearson [95 % interval]",
    "pearson_p": "p",
    "spearman [spearman]": "Spearman [95 % interval]",
    "spearman_p": "p",
}
_GAINS = {
    "ensemble": "ensemble",
    "benchmark": "benchmark",
    "domain": "domain",
    "metric": "metric",
    "chosen_on": "member chosen on",
    "best_member": "best member",
    "gain [ci]": "gain [95 % interval]",
    "p_value": "p",
    "n": "n",
}


def sweep_sections(result: EvalResult) -> list[Section]:
    """Each sweep on each benchmark: a matrix, and gap against accuracy."""
    if result.pair_sweep is None or result.pair_sweep_correlations is None:
        return []
    sections = []
    for (sweep, benchmark), pairs in result.pair_sweep.groupby(
        ["pair_sweep", "benchmark"], sort=False
    ):
        correlations = result.pair_sweep_correlations.query(
            "pair_sweep == @sweep and benchmark == @benchmark"
        )
        sections += _sweep(str(sweep), str(benchmark), pairs, correlations)
    return sections


def gain_sections(result: EvalResult) -> list[Section]:
    """What each ensemble gains over its best member."""
    if result.ensemble_gains is None:
        return []
    text = (
        "The ensemble less its best member, on prompts that both scored, drawn alike. Chosen on "
        "the same prompts, the best member is flattered by its luck; chosen on the other half, "
        "it is not."
    )
    table = Table.of(result.ensemble_gains, _GAINS, "ensemble_gains.csv")
    return [Section("Gain of ensembles over their best member", text, table=table)]


def _sweep(
    sweep: str, benchmark: str, pairs: pd.DataFrame, correlations: pd.DataFrame
) -> list[Section]:
    if not pairs["accuracy"].notna().any():
        return [Section(f"{benchmark}: {sweep}", "No pair of models scored any comparison.")]
    heat_map = pair_heat_map(pairs, sweep, benchmark)
    table = Table.of(pairs, _PAIRS, "pair_sweep.csv")
    source = correlations["gap"].iloc[0]
    text = (
        f"The gap is the strong model's {source} less the weak one's. Intervals resample models "
        "and p-values permute them, because pairs share models. With a positive gap, the better "
        "model is on top; all ordered pairs hold each pair twice, mirrored. "
    )
    if source == "own accuracy":
        text += "Gap and accuracy come from the same log-probs and comparisons here."
    return [
        Section(f"{benchmark}: {sweep}, strong over weak", "", heat_map, table),
        Section(
            f"{benchmark}: {sweep}, gap and accuracy",
            text,
            gap_scatter(pairs, correlations, sweep, benchmark),
            Table.of(correlations, _CORRELATIONS, "pair_sweep_correlations.csv"),
        ),
    ]


def gap_scatter(
    pairs: pd.DataFrame, correlations: pd.DataFrame, sweep: str, benchmark: str
) -> Figure:
    """Gap against accuracy, one point per ordered pair of different models, by domain.

    Args:
        pairs: Rows of that sweep and benchmark.
        correlations: The same.
        sweep: For the name.
        benchmark: For the title.
    """
    others = pairs[pairs["strong"] != pairs["weak"]].dropna(subset=["accuracy", "gap"])
    per_domain = max(1, pairs["strong"].nunique() * (pairs["strong"].nunique() - 1))
    domains = pairs["domain"].unique().tolist()[: max(1, MAX_CELLS // per_domain)]
    codes = {name: i for i, name in enumerate(domains)}
    columns = ["strong", "weak", "gap", "accuracy", "ci_low", "ci_high", "n"]
    points = others[columns].assign(choice=others["domain"].map(codes)).dropna(subset="choice")
    ordered = correlations[correlations["over"] == "ordered"]
    notes = pd.DataFrame(
        {
            "choice": ordered["domain"].map(codes),
            "text": [correlation_text(row) for _, row in ordered.iterrows()],
        }
    ).dropna()
    source = str(correlations["gap"].iloc[0])
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("gap:Q", title=f"gap: {source} of strong less that of weak"),
        y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False)),
        tooltip=[
            alt.Tooltip("strong:N"), alt.Tooltip("weak:N"), alt.Tooltip("gap:Q", format=".4~g"),
            alt.Tooltip("accuracy:Q", format=".3f"),
            alt.Tooltip("ci_low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("ci_high:Q", title="95 % to", format=".3f"), alt.Tooltip("n:Q", format=","),
        ],
    )  # fmt: skip
    text = alt.Chart(alt.NamedData("notes")).mark_text(align="left", fontWeight="bold").encode(
        x=alt.value(4), y=alt.value(-10), text="text:N"
    )  # fmt: skip
    layers = [
        layer.transform_filter("datum.choice == choice_domain")
        for layer in (base.mark_point(filled=True, size=45, opacity=0.7), text)
    ]
    return Figure(
        f"gap {sweep} {benchmark}",
        f"{benchmark}: gap of a pair against its accuracy ({per_domain} ordered pairs)",
        alt.layer(*layers)
        .add_params(drop_down("choice_domain", "domain", domains))
        .properties(width="container", height=340),
        {"points": points, "notes": notes},
        "One point per ordered pair of different models.",
        str(domains[0]),
    )
