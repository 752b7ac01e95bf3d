"""A figure: one Vega-Lite spec, drawn by the page and rendered to a file.

The page draws it with the viewer's colors and width; the SVG file is the same spec in light colors,
with its title inside. Names of models and domains are untrusted: they are values in `tables`, never
field names and never part of an expression.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

VEGA_LITE_VERSION = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
SVG_WIDTH = 760
ROW_HEIGHT = 26
"""px of one name down the side."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Spec = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What a chart shows, and the rows that it reads.

    Attributes:
        name: What the file is called, without number and suffix; any text.
        title: What one sees, with its n.
        note: How to read it: colors, directions, what is left out.
        chart: Reads its rows by the names in `tables`, as `alt.NamedData`.
        tables: The rows, by name.
        shown: Of a figure with a choice: what the file shows, which is what the page starts with.
        min_width: Pixels below which the figure scrolls in its box.
    """

    name: str
    title: str
    chart: alt.LayerChart | alt.FacetChart
    tables: Mapping[str, pd.DataFrame]
    note: str = ""
    shown: str = ""
    min_width: int = 0

    def spec(self) -> Spec:
        """The Vega-Lite spec, without title: a page writes its own, which wraps."""
        datasets = {name: records(table) for name, table in self.tables.items()}
        return {**self.chart.to_dict(), "datasets": datasets}

    def svg(self) -> str:
        """The figure as a picture of its own, on white."""
        shown = f"Shown: {self.shown}." if self.shown else ""
        title = {
            "text": textwrap.wrap(self.title, 90),
            "subtitle": textwrap.wrap(f"{shown} {self.note}", 110),
        }
        width = max(SVG_WIDTH, self.min_width)
        spec = {**self.spec(), "title": title, "width": width, "background": "white", "padding": 16}
        svg: str = vl_convert.vegalite_to_svg(
            _for_xml(spec), vl_version=VEGA_LITE_VERSION, config=LIGHT, allowed_base_urls=[]
        )
        return svg


def _for_xml(value: Any) -> Any:
    """The same with U+FFFD for what XML 1.0 cannot hold, of which the renderer's process dies."""
    match value:
        case str():
            return _NO_XML.sub("\ufffd", value)
        case list():
            return [_for_xml(item) for item in value]
        case dict():
            return {_for_xml(key): _for_xml(item) for key, item in value.items()}
    return value


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: five significant digits, None for what is not a finite number."""
    columns = [[_plain(value) for value in table[name].tolist()] for name in table.columns]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return None if value is pd.NA else value


def with_ends(table: pd.DataFrame, value: str, low: str, high: str) -> pd.DataFrame:
    """Add `low` and `high` to draw between: an interval that is not known shrinks onto the value.

    A scale over nothing but nulls has no extent, of which Vega warns.
    """
    known = table[value]
    return table.assign(low=table[low].fillna(known), high=table[high].fillna(known))


def by_order(column: str) -> alt.EncodingSortField:
    """Sort names by the numbers in `{column}_order`; a list of names would become an expression."""
    return alt.EncodingSortField(f"{column}_order", op="min", order="ascending")


def with_order(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Add `{column}_order`, the place of each name as it first appears."""
    codes = {f"{name}_order": pd.factorize(table[name])[0] for name in columns}
    return table.assign(**codes)


def drop_down(name: str, label: str, choices: list[str]) -> alt.Parameter:
    """A parameter that is the position of the choice; where there is no other, none is offered."""
    if len(choices) == 1:
        return alt.param(name=name, value=0)
    bind = alt.binding_select(options=list(range(len(choices))), labels=choices, name=f"{label} ")
    return alt.param(name=name, bind=bind, value=0)


_FORMATS = {"value": ".3f", "ci_low": ".3f", "ci_high": ".3f", "p": ".3g", "q": ".3g"}
_COUNTS = ("n", "n_tied", "n_failed", "n_truncated")


def tooltips(table: pd.DataFrame, names: Sequence[str], value: str) -> list[alt.Tooltip]:
    """What a mark says when pointed at: names, the value with its interval, counts.

    Args:
        table: The rows; of the columns known here, those that it has are told.
        names: Its columns of text and keys.
        value: What `value` is.
    """
    titles = {"value": value, "ci_low": "95 % from", "ci_high": "95 % to"}
    texts = [alt.Tooltip(f"{name}:N", title=words(name)) for name in names]
    numbers = [
        alt.Tooltip(
            f"{name}:Q", title=titles.get(name, words(name)), format=_FORMATS.get(name, ",")
        )
        for name in (*_FORMATS, *_COUNTS)
        if name in table
    ]
    return texts + numbers


def words(column: str) -> str:
    """A column's name as prose has it: `n_failed` is `failed`."""
    return column.removeprefix("n_").replace("_", " ")


def counted(n: pd.Series) -> str:
    """`n = 12`, or `n from 3 to 12`."""
    low, high = n.min(), n.max()
    return f"n = {low:,}" if low == high else f"n from {low:,} to {high:,}"


def _config(ink: str, faint: str, rule: str, mark: str) -> Spec:
    quiet = {"labelColor": ink, "titleColor": ink, "titleFontWeight": "normal", "labelFontSize": 12}
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            **quiet,
            "gridColor": rule,
            "domainColor": rule,
            "tickColor": rule,
            "titleFontSize": 12,
            "titlePadding": 10,
            "labelLimit": 240,
        },
        "legend": {
            **quiet,
            "orient": "bottom",
            "columns": 3,
            "labelLimit": 240,
            "titleFontSize": 12,
        },
        "title": {
            "anchor": "start",
            "color": ink,
            "subtitleColor": faint,
            "fontSize": 14,
            "offset": 16,
        },
        "mark": {"color": mark},
        "text": {"color": ink},
        "rule": {"color": mark},
    }


LIGHT = _config(ink="#1b1f24", faint="#5b6370", rule="#d9dde3", mark="#2563eb")
DARK = _config(ink="#e5e7eb", faint="#a3abb8", rule="#343a44", mark="#7aa2ff")
