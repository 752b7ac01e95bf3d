"""The summary that the correlate job prints."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rm_cluster.correlation import CorrelationResult
from rm_cluster.downstream.prediction import BASELINE
from rm_cluster.report.terminal import strongest_correlations
from rm_cluster.report.wording import signed

_MAX_ROWS = 12
_ARENA = "Pearson with the Arena score (raw)"
_QUANTILE = "Pearson of a quantile over six human categories"
KNOWN_FOR = (
    f"{_ARENA}: human_preference accuracy overall",
    f"{_ARENA}: correctness accuracy mean",
    f"{_ARENA}: correctness roc_auc mean",
    f"{_ARENA}: human_preference spearman overall",
    f"{_ARENA}: rewardbench accuracy mean",
    f"{_QUANTILE}: accuracy q=0",
    f"{_QUANTILE}: accuracy q=1",
    "Pearson with the RewardBench score: regression params",
    "Spearman with the RewardBench score: regression params",
    "coverage at k=10: regression params",
)
"""`quantity: item` of the rows that are printed first."""


def summary(result: CorrelationResult) -> str:
    """Correlations strongest first, predictions, base models, and ours beside what was printed."""
    run = result.run
    blocks = [
        f"{run['n_reward_models']} reward models have metrics and an outcome; only metrics: "
        f"{len(run['only_in_metrics'])}, only an outcome: {len(run['only_in_downstream'])}"
    ]
    blocks += [
        strongest_correlations(str(outcome), table)
        for outcome, table in result.correlations.groupby("outcome", sort=False)
    ]
    blocks += [
        _quantiles(str(outcome), str(over), table)
        for (outcome, over), table in result.quantiles.groupby(["outcome", "over"], sort=False)
    ]
    blocks += [_prediction(outcome, found) for outcome, found in result.prediction.items()]
    if result.base_models is not None:
        blocks.append(_selection(result.base_models.selection))
    if result.published is not None:
        blocks.append(_published(result.published))
    blocks.append(f"Saved in {result.config.output_dir}")
    return "\n\n".join(blocks)


def _quantiles(outcome: str, over: str, table: pd.DataFrame) -> str:
    """One line per metric: Pearson by quantile, from its worst domain (0) to its best (1)."""
    columns = ["pearson", "pearson_low", "pearson_high"]
    cells = [signed(*row) for row in table[columns].itertuples(index=False)]
    wide = table.assign(cell=cells).pivot(
        index=["benchmark", "metric", "n"], columns="quantile", values="cell"
    )
    lines = wide.rename(columns="q={:g}".format).rename_axis(columns=None).reset_index()
    title = f"Pearson [95% interval] with {outcome} of a quantile over {over.replace('_', ' ')}"
    return f"{title}\n{lines.to_string(index=False)}"


def _prediction(outcome: str, found: dict[str, Any]) -> str:
    if "models" not in found:
        return f"Prediction of {outcome}: {found['skipped']}"
    lines = pd.DataFrame(
        [
            {
                "predictor": name,
                "MAE": f"{model['mae']:.4g}",
                "RMSE": f"{model['rmse']:.4g}",
                "R2": "-" if model["r2"] is None else f"{model['r2']:.2f}",
                "MAE - baseline's [95% interval]": "-"
                if name == BASELINE
                else f"{model['mae_difference']:+.4g} "
                f"[{model['ci_low']:+.4g}, {model['ci_high']:+.4g}]",
            }
            for name, model in found["models"].items()
        ]
    )
    title = (
        f"Leave-one-out prediction of {outcome} from {found['n_features']} metrics "
        f"(n = {found['n']}; {found['n_dropped_missing']} incomplete and "
        f"{found['n_dropped_constant']} constant metrics dropped)"
    )
    return f"{title}\n{lines.to_string(index=False)}"


def _selection(selection: pd.DataFrame) -> str:
    if selection.empty:
        return "Base models: too few to select among, see base_models.csv"
    lines = selection[["method", "predictor", "validation", "n"]].copy()
    lines["mean coverage, k = 5 to 10"] = selection["mean_coverage"].map("{:.2f}".format)
    lines["random"] = selection["random"].map("{:.2f}".format)
    lines["p"] = selection["p_random"].map("{:.4f}".format)
    lines["MAE +- stderr"] = [
        f"{mae:.2f} +- {stderr:.2f}"
        for mae, stderr in selection[["mae", "mae_stderr"]].itertuples(index=False)
    ]
    return (
        f"Selecting base models (p: a random ranking does as well)\n{lines.to_string(index=False)}"
    )


def _published(table: pd.DataFrame) -> str:
    """What the papers are known for, the largest differences, and counts of the rest."""
    quantity_and_item = table["quantity"] + ": " + table["item"]
    known_for = table[quantity_and_item.isin(KNOWN_FOR)]
    recomputed = table[(table["status"] == "recomputed") & ~table.index.isin(known_for.index)]
    largest = recomputed.reindex(recomputed["difference"].abs().nlargest(_MAX_ROWS // 2).index)
    counts = table["status"].value_counts()
    title = (
        "Ours beside what the papers print: what they are known for, then the largest differences"
    )
    return (
        f"{title}\n({', '.join(f'{count} {status}' for status, count in counts.items())}; all in "
        f"published.csv)\n{_side_by_side(pd.concat([known_for, largest]))}"
    )


def _side_by_side(rows: pd.DataFrame) -> str:
    lines = rows[["quantity", "item", "n"]].copy()
    lines["n"] = rows["n"].map(lambda n: "-" if pd.isna(n) else str(n))
    for name, form in (("ours", "{:.3f}"), ("printed", "{:.3f}"), ("difference", "{:+.3f}")):
        lines[name] = ["-" if pd.isna(value) else form.format(value) for value in rows[name]]
    lines["status"] = rows["status"]
    return lines.to_string(index=False)
