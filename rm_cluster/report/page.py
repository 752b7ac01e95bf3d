"""The report: one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jinja2

from rm_cluster.report.terminal import interval, number

if TYPE_CHECKING:
    from rm_cluster.result import EvalResult


def render(result: EvalResult) -> str:
    """Return the page; every text from models and data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rm_cluster", "report"), autoescape=True, trim_blocks=True
    )
    failed = result.rewards[result.rewards["error"].notna()]
    return environment.get_template("report.html.jinja").render(
        result=result,
        boards=list(result.leaderboard().groupby("benchmark", sort=False)),
        metrics=result.metrics,
        comparisons=result.comparisons,
        num_failed=len(failed),
        failed=failed.head(50),
        config=result.config.to_yaml(),
        interval=interval,
        number=number,
    )
