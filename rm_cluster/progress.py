"""Progress that says what is happening, lively on a terminal and sparing in a log."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


def progress_bar(total: int, what: str, unit: str) -> tqdm[NoReturn]:
    """A bar over `total` units of `what`; use it as a context manager and `update` it."""
    every_s = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=what, unit=unit, mininterval=every_s, maxinterval=every_s)
