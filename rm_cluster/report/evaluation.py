"""The page of an evaluation."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rm_cluster.report.correlation import correlation_sections
from rm_cluster.report.curves import best_of_k
from rm_cluster.report.derived import gain_sections, sweep_sections
from rm_cluster.report.heat_maps import domain_heat_map, overview
from rm_cluster.report.intervals import leaderboard
from rm_cluster.report.judges import ORDER_METRICS, judge_sections
from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.result import EvalResult
from rm_cluster.store import Folder

MAX_FAILED = 50

_COUNTS = {"n": "n", "n_tied": "tied", "n_failed": "failed", "n_truncated": "truncated"}
_METRICS = {
    "reward_model": "reward model",
    "benchmark": "benchmark",
    "domain": "domain or slice",
    "metric": "metric",
    "value [ci]": "value [95 % interval]",
    "stderr": "standard error",
    **_COUNTS,
}
_COMPARISONS = {
    "reward_model": "reward model",
    "other": "other",
    "benchmark": "benchmark",
    "domain": "domain",
    "metric": "metric",
    "difference [ci]": "difference [95 % interval]",
    "p_value": "p",
    "n": "n",
}
_FAILED = {"reward_model": "reward model", "benchmark": "benchmark", "id": "id", "error": "error"}


def write_report(result: EvalResult, folder: Folder) -> None:
    """Write `report.html` and `figures/*.svg`."""
    write_page(evaluation_page(result), folder)


def evaluation_page(result: EvalResult) -> Page:
    """Compose what an evaluation has to show."""
    board = result.leaderboard()
    sections = [
        section
        for benchmark, counts in result.run["benchmarks"].items()
        if len(result.scored)  # there may be pair sweeps only
        for section in _benchmark(
            board[board["benchmark"] == benchmark],
            result.metrics[result.metrics["benchmark"] == benchmark],
            benchmark,
            counts,
        )
    ]
    if result.best_of_k["value"].notna().any():
        text = (
            "The share of right picks when each reward model picks among K samples of a policy. A "
            "line that falls is a reward model that more samples hack."
        )
        sections.append(Section("Best of K", text, best_of_k(result.best_of_k)))
    if result.correlations is not None and result.outcomes is not None:
        sections += correlation_sections(result.metrics, result.outcomes, result.correlations)
    sections += [*sweep_sections(result), *gain_sections(result)]
    sections += [
        *_all_metrics(result),
        *_compared(result),
        *judge_sections(result),
        *_failed(result),
    ]
    return Page(
        title="Reward models compared",
        sections=sections,
        config=result.config.to_yaml(),
        run=result.run,
        stamp=f"PARTIAL: only the first {result.config.limit} prompts of each benchmark"
        if result.run["partial"]
        else "",
    )


def _benchmark(
    board: pd.DataFrame, metrics: pd.DataFrame, benchmark: str, counts: dict[str, Any]
) -> list[Section]:
    """Leaderboards of one benchmark, then its domains, then all it measures."""
    if not len(board):
        text = f"{counts['n']:,} prompts scored, nothing to compare."
        return [Section(benchmark, text)]
    headlines = board.groupby("domain", sort=False)
    sections = [_leaderboard(rows, benchmark, str(name), counts) for name, rows in headlines]
    metric = str(board["metric"].iloc[0])
    ranks = {name: i for i, name in enumerate(board["reward_model"].unique())}
    ranked = metrics.sort_values("reward_model", key=lambda names: names.map(ranks), kind="stable")
    main = ranked[ranked["metric"] == metric]
    if main["domain"].nunique() > 1:
        figure = domain_heat_map(main, benchmark, metric)
        sections.append(Section(f"{benchmark}: {metric} by domain", figure=figure))
    judged = ranked[~ranked["metric"].isin(ORDER_METRICS)]
    if judged["metric"].nunique() > 1:
        sections.append(Section(f"{benchmark}: all metrics", figure=overview(judged, benchmark)))
    return sections


def _leaderboard(
    rows: pd.DataFrame, benchmark: str, domain: str, counts: dict[str, Any]
) -> Section:
    metric = rows["metric"].iloc[0]
    columns = {"rank": "rank", "reward_model": "reward model"}
    columns |= {"value [ci]": f"{metric} [95 % interval]", **_COUNTS}
    text = (
        f"{counts['n']:,} prompts, {counts['n_pairs']:,} pairs; {counts['n_gold_ties']:,} gold "
        f"ties left out, {counts['n_rejected_rows']:,} rows set aside. Intervals are 95 %, by "
        "bootstrap over prompts; where two overlap, see the paired comparisons."
    )
    figure = leaderboard(rows, benchmark, domain) if rows["value"].notna().any() else None
    table = Table.of(rows, columns, "leaderboard.csv")
    return Section(f"{benchmark}: leaderboard, {domain}", text, figure, table)


def _all_metrics(result: EvalResult) -> list[Section]:
    if not len(result.metrics):
        return []
    text = "n counts comparisons for accuracy and prompts for a benchmark's own metrics."
    return [Section("All metrics", text, table=Table.of(result.metrics, _METRICS, "metrics.csv"))]


def _compared(result: EvalResult) -> list[Section]:
    if not len(result.comparisons):
        return []
    text = "The first minus the other, on the prompts that both scored, drawn alike."
    table = Table.of(result.comparisons, _COMPARISONS, "comparisons.csv")
    return [Section("Paired comparisons", text, table=table)]


def _failed(result: EvalResult) -> list[Section]:
    failed = result.scored.filter(result.scored["error"].is_valid())
    if not len(failed):
        return []
    shown = failed.slice(0, MAX_FAILED).to_pandas()
    text = f"{len(failed):,} in all, the first {len(shown)} here; all of them in rewards.parquet."
    return [Section("Prompts that failed", text, table=Table.of(shown, _FAILED, "rewards.parquet"))]
