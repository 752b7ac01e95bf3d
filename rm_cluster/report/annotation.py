"""What the annotate job shows: the summary on the terminal, and a small page."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from rm_cluster.annotated import Annotation
from rm_cluster.labeling import DROPPED
from rm_cluster.report.figure import Figure
from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.report.wording import interval
from rm_cluster.store import Folder

_COLUMNS = {
    "domain": "domain",
    "n": "pairs",
    "n_held_out": "held out",
    "margin [margin]": "margin",
    "chosen_words [chosen_words]": "words of chosen",
    "rejected_words [rejected_words]": "words of rejected",
    "longer_chosen [longer_chosen]": "chosen is longer",
}
_HISTOGRAM_BINS = 40


def terminal_summary(result: Annotation) -> str:
    """What the pairs are like, by domain, and what became of all prompts."""
    table = result.summary()
    lines = table[["domain", "n", "n_held_out"]].rename(columns=_COLUMNS)
    for column in list(_COLUMNS)[3:]:
        name = column.partition(" ")[0]
        ends = table[[name, f"{name}_low", f"{name}_high"]]
        lines[_COLUMNS[column]] = [interval(*row) for row in ends.itertuples(index=False)]
    head = f"{_title(result)} [95 % interval over prompts]"
    body = lines.to_string(index=False) if len(lines) else "no pairs"
    blocks = [_stamp(result), head, body, _fates(result.run["pairs"])]
    return "\n".join([*filter(None, blocks), f"Saved in {result.config.output_dir}"])


def write_report(result: Annotation, folder: Folder) -> None:
    """Write `report.html` and `figures/*.svg`."""
    summary = result.summary()
    text = (
        "Means over pairs with 95 % intervals, by bootstrap over prompts. Margins are in units of "
        "the reward. Where the chosen completions are longer, a policy learns to be."
    )
    figure = _histogram(result) if len(summary) else None
    sections = [
        Section("Pairs", text, figure, Table.of(summary, _COLUMNS, "preferences.parquet")),
        Section("Prompts without a pair", _fates(result.run["pairs"])),
    ]
    config, run = result.config.to_yaml(), result.run
    write_page(Page(_title(result), sections, config, run, _stamp(result)), folder)


def _title(result: Annotation) -> str:
    rule = result.config.pair_rule.replace("_", " ")
    return f"Preferences of {result.config.annotator_name}, {rule}"


def _fates(pairs: dict[str, Any]) -> str:
    dropped = [f"{count:,}: {DROPPED[reason]}" for reason, count in pairs["dropped"].items()]
    made = (
        f"{pairs['n_pairs']:,} pairs of {pairs['n']:,} prompts, {pairs['n_train']:,} to train on "
        f"and {pairs['n_held_out']:,} held out."
    )
    return made + (f" No pair of {'; '.join(dropped)}." if dropped else "")


def _stamp(result: Annotation) -> str:
    return f"PARTIAL: only the first {result.config.limit} prompts" if result.run["partial"] else ""


def _histogram(result: Annotation) -> Figure:
    margins = pd.cut(result.everything()["margin"], _HISTOGRAM_BINS)
    counts = margins.value_counts(sort=False)
    bins = pd.DataFrame(
        {
            "low": [edge.left for edge in counts.index],
            "high": [edge.right for edge in counts.index],
            "n": counts.to_numpy(),
        }
    )
    chart = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X("low:Q", title="margin", scale=alt.Scale(zero=False)),
            x2="high:Q",
            y=alt.Y("n:Q", title="pairs"),
            tooltip=[alt.Tooltip(f"{name}:Q") for name in ("low", "high", "n")],
        )
    )
    total = int(counts.sum())
    return Figure(
        "margins",
        f"Margins of the pairs (n = {total:,})",
        alt.layer(chart, data=alt.NamedData("bins")),
        {"bins": bins},
    )
