"""The page of a correlation, and the sections that an evaluation with outcomes shares with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from rm_cluster.downstream.coefficients import COEFFICIENTS
from rm_cluster.report.curves import coverage_curves, quantile_curves
from rm_cluster.report.heat_maps import correlation_heat_map
from rm_cluster.report.intervals import metric_against_outcome, predictions
from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.store import Folder

if TYPE_CHECKING:
    from rm_cluster.correlation import CorrelationResult
    from rm_cluster.downstream.base_models import BaseModelTables

_CORRELATIONS = {
    "benchmark": "benchmark",
    "domain": "domain",
    "metric": "metric",
    "outcome": "outcome",
    "n": "n",
    "flipped": "sign turned",
    **{
        key: title
        for name in COEFFICIENTS
        for key, title in {
            f"{name} [{name}]": f"{name} [95 % interval]",
            f"{name}_p": "p",
            f"{name}_q": "q",
        }.items()
    },
}


def write_report(result: CorrelationResult, folder: Folder) -> None:
    """Write `report.html` and `figures/*.svg`."""
    write_page(correlation_page(result), folder)


def correlation_page(result: CorrelationResult) -> Page:
    """Compose what a correlation has to show."""
    sections = [_unmatched(result.run)]
    sections += correlation_sections(result.metrics, result.outcomes, result.correlations)
    if len(result.quantiles.dropna(subset="pearson")):
        sections.append(_quantiles(result.quantiles))
    sections += _predictions(result.prediction)
    if result.base_models is not None:
        sections += _base_models(result.base_models)
    if result.published is not None:
        sections.append(_published(result.published))
    return Page(
        title="Which metrics predict the outcome",
        sections=sections,
        config=result.config.to_yaml(),
        run=result.run,
    )


def correlation_sections(
    metrics: pd.DataFrame, outcomes: pd.DataFrame, correlations: pd.DataFrame
) -> list[Section]:
    """Correlations as heat maps, as points and as a table.

    Args:
        metrics: As of a result.
        outcomes: reward_model, outcome, value, and ci_low and ci_high if they are known.
        correlations: As of `downstream.correlate`.
    """
    if not len(correlations):
        return []
    text = (
        "A positive coefficient means a good predictor. With so few reward models intervals are "
        "wide, and among so many metrics some are high by chance: q says how many."
    )
    sections = [
        Section(
            f"{benchmark}: correlation with the outcome",
            text,
            correlation_heat_map(rows, str(benchmark)),
        )
        for benchmark, rows in correlations.groupby("benchmark", sort=False)
    ]
    sections.append(
        Section(
            "Metric against outcome",
            "Look at the points before believing a coefficient.",
            metric_against_outcome(metrics, outcomes, correlations)
            if correlations["n"].any()
            else None,
            Table.of(correlations, _CORRELATIONS, "correlations.csv"),
        )
    )
    return sections


def _unmatched(run: Mapping[str, Any]) -> Section:
    lines = [f"{run['n_reward_models']:,} reward models have both metrics and an outcome."]
    for key, where in (("only_in_metrics", "metrics"), ("only_in_downstream", "outcomes")):
        names = run[key]
        listed = ", ".join(names[:20]) + (" and more, see run.json" if len(names) > 20 else "")
        lines += [f"With {where} only, {len(names):,}: {listed}."] if names else []
    lines += [f"{run['n_metric_values_missing']:,} of {run['n_metric_values']:,} values are empty."]
    return Section("What was correlated", " ".join(lines))


def _quantiles(quantiles: pd.DataFrame) -> Section:
    text = (
        "Where the lower quantiles predict better, a reward model is as good as its worst domain."
    )
    columns = {
        "benchmark": "benchmark",
        "over": "over",
        "num_domains": "domains",
        "metric": "metric",
        "outcome": "outcome",
        "quantile": "quantile",
        "n": "n",
        "pearson [pearson]": "Pearson [95 % interval]",
        "pearson_p": "p",
    }
    table = Table.of(quantiles, columns, "quantiles.csv")
    return Section("Quantiles over domains", text, quantile_curves(quantiles), table)


def _predictions(prediction: Mapping[str, Any]) -> list[Section]:
    rows = [
        {"outcome": outcome, "predictor": name, "n": found["n"], **fitted}
        for outcome, found in prediction.items()
        for name, fitted in found.get("models", {}).items()
    ]
    skipped = [f"{name}: {f['skipped']}." for name, f in prediction.items() if "skipped" in f]
    if not rows:
        return [Section("Prediction", " ".join(skipped))]
    columns = {
        "outcome": "outcome",
        "predictor": "predictor",
        "n": "n",
        "mae": "mean absolute error",
        "mae_difference [ci]": "difference to the mean of the others [95 % interval]",
        "rmse": "root mean squared error",
        "r2": "R2 out of sample",
        "n_not_converged": "fits that did not converge",
    }
    text = "Errors are in units of the outcome; a negative difference is better than guessing. "
    table = Table.of(pd.DataFrame(rows), columns, "prediction.json")
    return [Section("Prediction", text + " ".join(skipped), predictions(prediction), table)]


def _base_models(tables: BaseModelTables) -> list[Section]:
    def table(frame: pd.DataFrame, file: str) -> Table:
        return Table.of(frame, {name: name.replace("_", " ") for name in frame.columns}, file)

    sections = [
        Section(
            "Base models",
            "By method and size group, best first; methods are never pooled.",
            table=table(tables.leaderboard, "base_models.csv"),
        )
    ]
    if len(tables.gains):
        text = "What the best of a size group gains over its reference, in points and in percent."
        frame = table(tables.gains, "base_model_gains.csv")
        sections.append(Section("Gains over the reference", text, table=frame))
    if len(tables.coverage):
        text = "In sample flatters: judge by what was predicted for base models left out."
        figure, frame = coverage_curves(tables.coverage), table(tables.selection, "selection.csv")
        sections.append(Section("Choosing base models", text, figure, frame))
    return sections


def _published(published: pd.DataFrame) -> Section:
    text = "Printed numbers beside those recomputed here; where there is no value, none can be."
    columns = {name: name.replace("_", " ") for name in published.columns}
    return Section("Ours and printed", text, table=Table.of(published, columns, "published.csv"))
