"""Which metrics of reward models go with the outcome of the policies that they train.

The template is Preference Proxy Evaluations (arXiv 2410.14872, sections 6 and 7), which correlates
12 metrics on 12 domains with the Chatbot Arena scores of nine policies. With so few points a
coefficient alone says little: each comes with n, an interval, a p-value and a q-value.

Shapes: F features (rows of metrics), n reward models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rm_cluster.downstream.coefficients import (
    COEFFICIENTS,
    MIN_POINTS,
    estimate,
)
from rm_cluster.downstream.tables import outcomes_by_reward_model, values_by_reward_model
from rm_cluster.errors import ConfigError
from rm_cluster.metrics.table import LOWER_IS_BETTER

HUMAN_CATEGORIES = (
    "hard",
    "easy",
    "instruction_following",
    "coding",
    "math",
    "similar_response",
)
CORRECTNESS_BENCHMARKS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def correlate(metrics: pd.DataFrame, downstream: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Correlate every metric with every outcome, over the reward models that have both.

    Args:
        metrics: reward_model, benchmark, domain, metric, value; further columns are not used.
        downstream: reward_model, outcome, value; larger is better.
        seed: Of the bootstrap draws and the permutations.

    Returns:
        One row per benchmark, domain, metric and outcome: `n` reward models, `flipped` (a metric
        that is better when lower changed its sign, so a positive coefficient always means a good
        predictor), for each X of pearson, spearman and kendall `X`, `X_low`, `X_high` (95 % BCa
        bootstrap over reward models), `X_p` (permutation, two-sided) and `X_q`
        (Benjamini-Hochberg over all rows of the outcome), and `n_undefined_draws`, how many of
        the 2,000 draws had a constant side. Below three reward models, or where a side is
        constant, the coefficients are nan; below five, the intervals.

    Raises:
        DataFormatError: There are no outcomes, or a table lacks a column, repeats a row or holds
            what is not a number.
    """
    values = values_by_reward_model(metrics)
    outcomes = outcomes_by_reward_model(downstream)
    tables = [correlations(values, row, seed) for _, row in outcomes.iterrows()]
    return pd.concat(tables, ignore_index=True)


def quantile_aggregation(
    metrics: pd.DataFrame,
    downstream: pd.DataFrame,
    domains: Sequence[str] = HUMAN_CATEGORIES,
    quantiles: Sequence[float] = QUANTILES,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate the quantiles of a metric over its domains with every outcome (PPE section 7).

    Each domain is z-scored over the reward models that have the outcome and the metric in all
    domains; a reward model's quantile q over its z-scores, linearly interpolated, is its
    aggregate: q = 0 is its worst domain, q = 1 its best. Whether the standard deviation divides
    by n or n - 1 scales all z-scores alike and changes no coefficient. A domain that does not tell
    the reward models apart is z = 0 for all.

    Returns:
        The columns of `correlate` for every benchmark and metric that has all `domains`, with
        `quantile` and `num_domains` in the place of `domain`.

    Raises:
        ConfigError: A quantile is not within 0 and 1, or there are no domains.
        DataFormatError: As `correlate`.
    """
    if not domains or not all(0 <= q <= 1 for q in quantiles):
        raise ConfigError(
            "quantile_aggregation takes quantiles from 0 to 1 over one domain or more, "
            f"got quantiles={list(quantiles)} and domains={list(domains)}."
        )
    values = values_by_reward_model(metrics)
    outcomes = outcomes_by_reward_model(downstream)
    tables = [
        correlations(_aggregated(values, row, domains, quantiles), row, seed)
        for _, row in outcomes.iterrows()
    ]
    return pd.concat(tables, ignore_index=True)


def correlations(features: pd.DataFrame, outcome: pd.Series[float], seed: int) -> pd.DataFrame:
    """Correlate every row of `features` with one outcome; columns and index are models.

    Args:
        features: F rows, named by the levels of the index; nan where a value is missing.
        outcome: Named by what it is; nan where it is missing.
        seed: Of the draws and permutations, which rows with equal n share.

    Returns:
        The index levels, `outcome`, `n` and the columns that `correlate` describes, F rows.
    """
    known = outcome.dropna()
    shared = [model for model in features.columns if model in known.index]
    x, y = features[shared].to_numpy(float), known[shared].to_numpy(float)
    present = np.isfinite(x)
    table = features.index.to_frame(index=False).assign(
        outcome=str(outcome.name), n=present.sum(axis=1)
    )
    if "metric" in table:
        table["flipped"] = table["metric"].isin(LOWER_IS_BETTER)
    parts = ("", "_low", "_high", "_p", "_q")
    columns = [f"{name}{part}" for name in COEFFICIENTS for part in parts]
    estimated = [column for column in columns if not column.endswith("_q")]
    found = pd.DataFrame(np.nan, index=table.index, columns=columns)
    undefined = np.zeros(len(table), dtype=np.int64)
    for models in np.unique(present, axis=0):  # rows with the same reward models share the draws
        rows = np.flatnonzero((present == models).all(axis=1))
        if models.sum() >= MIN_POINTS:
            estimates = estimate(x[np.ix_(rows, np.flatnonzero(models))], y[models], seed)
            found.loc[rows, estimated] = estimates.columns
            undefined[rows] = estimates.num_undefined_draws
    for name in COEFFICIENTS:
        found[f"{name}_q"] = _q(found[f"{name}_p"])
    return pd.concat([table, found], axis=1).assign(n_undefined_draws=undefined)


def _aggregated(
    values: pd.DataFrame,
    outcome: pd.Series[float],
    domains: Sequence[str],
    quantiles: Sequence[float],
) -> pd.DataFrame:
    """Quantiles of z-scores over the domains: benchmark, quantile, num_domains, metric x models."""
    trained = values[[name for name in values.columns if name in outcome.dropna().index]]
    rows: dict[tuple[str, float, int, str], pd.Series[float]] = {}
    for (benchmark, metric), table in trained.groupby(level=["benchmark", "metric"], sort=False):
        by_domain = table.droplevel(["benchmark", "metric"])
        if not set(domains) <= set(by_domain.index):
            continue
        complete = by_domain.loc[list(domains)].dropna(axis="columns")
        spread = complete.std(axis="columns", ddof=0)
        centered = complete.sub(complete.mean(axis="columns"), axis="index")
        # by comparing, as rounding leaves the spread of equal values a little over zero
        varies = complete.max(axis="columns") > complete.min(axis="columns")
        scores = centered.div(spread, axis="index").where(varies, 0.0, axis="index")
        for q in quantiles:
            rows[str(benchmark), q, len(domains), str(metric)] = scores.quantile(q)
    keys = pd.DataFrame(list(rows), columns=["benchmark", "quantile", "num_domains", "metric"])
    aggregated = pd.DataFrame(list(rows.values()), columns=trained.columns)
    return aggregated.set_axis(pd.MultiIndex.from_frame(keys), axis="index")


def _q(p: pd.Series[float]) -> pd.Series[float]:
    """Benjamini-Hochberg over the p-values that are defined."""
    from scipy.stats import false_discovery_control

    q = p.copy()
    defined = p.notna()
    if defined.any():
        q[defined] = false_discovery_control(p[defined])
    return q
