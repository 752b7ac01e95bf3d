"""The summary that a job prints."""

from __future__ import annotations

import pandas as pd
import pyarrow.compute as pc

from rm_cluster.downstream.coefficients import COEFFICIENTS
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.report.derived_terminal import derived_blocks
from rm_cluster.report.judges import ORDER_METRICS, judge_lines, order_lines
from rm_cluster.report.wording import interval, number, signed
from rm_cluster.result import EvalResult

MAX_CORRELATIONS = 12


def summary(result: EvalResult) -> str:
    """One block per benchmark and headline: reward models best first, with intervals and counts."""
    board = result.leaderboard()
    blocks = [
        _block(result, str(benchmark), str(domain), table)
        for (benchmark, domain), table in board.groupby(["benchmark", "domain"], sort=False)
    ]
    blocks += [
        f"{name}: {counts['n']} prompts scored, nothing to compare"
        for name, counts in result.run["benchmarks"].items()
        if len(result.scored) and name not in set(board["benchmark"])
    ]
    blocks += derived_blocks(result)
    if result.correlations is not None:
        blocks += [
            strongest_correlations(str(outcome), table)
            for outcome, table in result.correlations.groupby("outcome", sort=False)
        ]
    blocks += [*order_lines(result), *judge_lines(result)]
    if result.run["partial"]:
        blocks.insert(0, f"PARTIAL: only the first {result.config.limit} prompts of each benchmark")
    blocks.append(f"Saved in {result.config.output_dir}")
    return "\n\n".join(blocks)


def _block(result: EvalResult, benchmark: str, headline: str, board: pd.DataFrame) -> str:
    counts = result.run["benchmarks"][benchmark]
    metric = board["metric"].iloc[0]
    notes = [f"{counts['n']} prompts", f"{counts['n_pairs']} pairs"]
    notes += [f"{counts['n_gold_ties']} gold ties left out"] if counts["n_gold_ties"] else []
    notes += [f"{counts['n_rejected_rows']} rows set aside"] if counts["n_rejected_rows"] else []
    lines = pd.DataFrame(
        {
            "reward model": board["reward_model"],
            f"{metric} [95% interval]": [
                interval(*row)
                for row in board[["value", "ci_low", "ci_high"]].itertuples(index=False)
            ],
            **_others(result, benchmark, headline, board),
            "n": board["n"],
            "tied": board["n_tied"],
            "failed": board["n_failed"],
            "truncated": board["n_truncated"],
        }
    )
    name = benchmark if headline == OVERALL else f"{benchmark}, {headline}"
    return f"{name} ({', '.join(notes)})\n{lines.to_string(index=False)}"


def _others(
    result: EvalResult, benchmark: str, headline: str, board: pd.DataFrame
) -> dict[str, list[str]]:
    """The headline's other metrics, then the main one by domain, as far as a line has room."""
    table = result.metrics[result.metrics["benchmark"] == benchmark]
    main = board["metric"].iloc[0]
    values = table.set_index(["reward_model", "domain", "metric"])["value"].to_dict()
    scored = result.scored.filter(pc.equal(result.scored["benchmark"], benchmark))
    domains = sorted({*scored["domain"].unique().to_pylist()} & {*table["domain"]})
    if len(domains) == 1 or headline != _headlines(result, benchmark)[-1]:
        domains = []
    others = table[table["domain"] == headline]["metric"].unique()
    metrics = [name for name in others if name not in (main, *ORDER_METRICS)]
    keys = [(headline, metric) for metric in metrics] + [(domain, main) for domain in domains]
    return {
        metric if domain == headline else domain: [
            number(values.get((model, domain, metric))) for model in board["reward_model"]
        ]
        for domain, metric in keys[:9]
    }


def _headlines(result: EvalResult, benchmark: str) -> list[str]:
    board = result.leaderboard()
    return [str(name) for name in board[board["benchmark"] == benchmark]["domain"].unique()]


def strongest_correlations(outcome: str, table: pd.DataFrame) -> str:
    """The metrics whose correlation with the outcome is largest, with intervals, p and q."""
    strongest = table.sort_values("pearson", key=abs, ascending=False, kind="stable").head(
        MAX_CORRELATIONS
    )
    lines = strongest[["benchmark", "domain", "metric", "n"]].copy()
    for name in COEFFICIENTS:
        columns = [name, f"{name}_low", f"{name}_high"]
        lines[f"{name} [95% interval]"] = [
            signed(*row) for row in strongest[columns].itertuples(index=False)
        ]
    lines["p"] = strongest["pearson_p"].map("{:.4f}".format)
    lines["q"] = strongest["pearson_q"].map("{:.3f}".format)
    title = (
        f"Correlation with {outcome}: the {len(lines)} strongest of {len(table)} metrics by "
        "Pearson (p, q: Pearson's)"
    )
    return f"{title}\n{lines.to_string(index=False)}"
