"""How numbers with intervals are written, in tables and in the terminal."""

from __future__ import annotations

import pandas as pd


def interval(value: float, low: float, high: float) -> str:
    """`0.712 [0.684, 0.741]`; without an interval where there is none."""
    return number(value) if pd.isna(low) else f"{number(value)} [{number(low)}, {number(high)}]"


def signed(value: float, low: float, high: float) -> str:
    """`+0.71 [+0.03, +0.93]`; without an interval where there is none."""
    if pd.isna(value):
        return "-"
    return f"{value:+.2f}" + ("" if pd.isna(low) else f" [{low:+.2f}, {high:+.2f}]")


def number(value: float | None) -> str:
    """Three decimals; three digits of what they would lose, or drown."""
    if value is None or pd.isna(value):
        return "-"
    size = abs(value)
    return f"{value:.3g}" if 0 < size < 0.0005 or size >= 1e6 else f"{value:.3f}"
