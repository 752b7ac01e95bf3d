"""What the doctor prints, and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.store import Folder

if TYPE_CHECKING:
    from rm_cluster.parity import DoctorResult

_COLUMNS = {
    "engine": "engine",
    "condition": "condition",
    "pad_token": "pad token",
    "dtype": "dtype",
    "n": "n",
    "n_failed": "failed",
    "max_difference": "max |difference|",
    "median_difference": "median |difference|",
    "n_beyond": "beyond",
    "n_flipped": "flipped",
    "n_pairs": "of pairs",
    "within": "within",
    "note": "note",
}
_SHORT = "Differences are from plain transformers in float32, one text at a time."
_LONG = (
    f"{_SHORT} n counts texts, failed counts rows that were too long or could not be rendered. "
    "Beyond are texts that differ by more than the tolerance; flipped are pairs that stand in "
    "another order than by the reference. In another dtype than float32 the difference is the "
    "dtype's own price. Batches of plain transformers look for the last token that is no pad token."
)


def summary(result: DoctorResult) -> str:
    """One block per model, and the verdict."""
    blocks = []
    for name, table in result.table.groupby("reward_model", sort=False):
        tolerance = table["tolerance"].iloc[0]
        lines = _readable(table).drop(columns="note").to_string(index=False)
        blocks.append("\n".join([f"{name} (tolerance {tolerance:g})", lines, *_notes(table)]))
    return "\n\n".join([_SHORT, *blocks, verdict(result), f"Saved in {result.config.output_dir}"])


def verdict(result: DoctorResult) -> str:
    """In one sentence, whether our engine agrees with the reference; in another, vLLM."""
    ours = "agrees" if result.healthy else "does NOT agree"
    found = result.table[(result.table["engine"] == "vllm") & result.table["within"].notna()]
    exact = found[found["dtype"] == "float32"]
    if not len(exact):
        other = "vLLM was not compared."
    else:
        beyond, flipped = int(exact["n_beyond"].sum()), int(exact["n_flipped"].sum())
        other = (
            f"vLLM in float32: {beyond} of {int(exact['n'].sum())} values beyond the tolerance, "
            f"{flipped} of {int(exact['n_pairs'].sum())} pairs flipped."
        )
    return f"Our engine in float32 {ours} with one text at a time. {other}"


def _notes(table: pd.DataFrame) -> list[str]:
    """Each note once, as those of vLLM's conditions are mostly one and long."""
    noted = table[table["note"] != ""].groupby(["engine", "note"], sort=False)
    return [
        f"{engine}, {', '.join(its['condition'].unique())}: {note}" for (engine, note), its in noted
    ]


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    shown = table[list(_COLUMNS)].rename(columns=_COLUMNS)
    for column in ("max_difference", "median_difference"):
        shown[_COLUMNS[column]] = table[column].map(
            lambda value: "-" if pd.isna(value) else f"{value:.1e}"
        )
    shown["within"] = table["within"].map({True: "yes", False: "NO"}).fillna("-")
    return shown


def write_report(result: DoctorResult, folder: Folder) -> None:
    """Write `report.html`."""
    sections = [Section("Verdict", f"{verdict(result)} {_LONG}")]
    for name, table in result.table.groupby("reward_model", sort=False):
        shown = table.assign(within=table["within"].map({True: "yes", False: "no"}).fillna("-"))
        text = f"Tolerance {table['tolerance'].iloc[0]:g}."
        sections.append(Section(str(name), text, table=Table.of(shown, _COLUMNS, "doctor.csv")))
    page = Page("One model, many ways to compute it", sections, result.config.to_yaml(), result.run)
    write_page(page, folder)
