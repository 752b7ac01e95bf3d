"""A table of a report: cells with the text that is read and the number that is sorted by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from rm_cluster.report.wording import interval, number

MAX_ROWS = 2000


class Cell(NamedTuple):
    """One cell; `value` is None for text, nan for a number that does not exist."""

    text: str
    value: float | None = None

    @property
    def sort_value(self) -> str | None:
        """The raw number for the page's script, empty where there is none; None for text."""
        if self.value is None:
            return None
        return repr(self.value) if math.isfinite(self.value) else ""


@dataclass(frozen=True)
class Table:
    """Columns by title, rows of cells, and what was left out.

    Attributes:
        titles: Of the columns.
        rows: As many cells each as there are titles.
        rest: A sentence on the rows that are not here; empty where all are.
    """

    titles: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    rest: str = ""

    def is_text(self, column: int) -> bool:
        """Whether a column holds text, and so is written from the left."""
        return all(row[column].value is None for row in self.rows)

    @staticmethod
    def of(frame: pd.DataFrame, columns: dict[str, str], file: str) -> Table:
        """Take columns of a frame, at most `MAX_ROWS` rows; the rest is in `file`.

        Args:
            frame: The rows.
            columns: Title by column. A column named `X [ci]` is X with the interval of `ci_low` and
                `ci_high`; with `X [X_low]`, of `X_low` and `X_high`.
            file: The name of the file that holds all rows.
        """
        head = frame.head(MAX_ROWS)
        cells = [_column(head, column) for column in columns]
        more = len(frame) - len(head)
        rest = f"{more:,} more rows are in {file}." if more else ""
        return Table(tuple(columns.values()), list(zip(*cells, strict=True)), rest)


def _column(frame: pd.DataFrame, column: str) -> list[Cell]:
    name, bracket, ends = column.partition(" [")
    if not bracket:
        return [_cell(value) for value in frame[name].tolist()]
    prefix = ends.removesuffix("]")
    values, lows, highs = (frame[c].tolist() for c in (name, f"{prefix}_low", f"{prefix}_high"))
    return [
        Cell(interval(v, low, high), v) for v, low, high in zip(values, lows, highs, strict=True)
    ]


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int):
        return Cell(f"{value}", float(value))
    if isinstance(value, float) or value is pd.NA:
        value = float("nan") if value is pd.NA else value
        return Cell(_number(value), value)
    return Cell("" if value is None else str(value))


def _number(value: float) -> str:
    """Three digits after the point; a small p-value is not zero, and large numbers need fewer."""
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return number(value) if not abs(value) >= 1000 else f"{value:,.1f}"
