"""Which base model a reward model should be built on (arXiv 2505.10775).

Bradley-Terry and regression reward models rank base models differently (Pearson 0.37 over the
paper's 40), so nothing here pools them: `method` stands in every table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from rm_cluster.downstream.coefficients import Floats, coefficient, critical_r
from rm_cluster.downstream.correlation import correlations
from rm_cluster.downstream.selection import Fit, select
from rm_cluster.downstream.tables import as_numbers, check_columns, check_filled, check_unique
from rm_cluster.errors import ConfigError, DataFormatError

KEYS = ["base_model", "family", "method", "size_group", "outcome"]
REFERENCE = "reference"
KS = range(5, 11)
MIN_BASE_MODELS = 20
"""Fewer are not selected among: ten folds would hold one base model each, or none."""


class BaseModelTables(NamedTuple):
    """What is found about base models, one block per method in each table.

    Attributes:
        leaderboard: method, size_group, rank, base_model, family, outcome, n.
        correlations: Of each feature with the outcome, as `correlate`, with `critical_r` at n.
        gains: The best of each size group over its reference, in points and relative percent.
        coverage: method, predictor, validation, k, coverage, random, p_random, n.
        selection: Mean coverage and error of each predictor in and out of sample, what was
            `chosen`, and the features `used` with the number of fits that did. Features that a base
            model lacks, or on which all agree, are dropped (`n_dropped`).
    """

    leaderboard: pd.DataFrame
    correlations: pd.DataFrame
    gains: pd.DataFrame
    coverage: pd.DataFrame
    selection: pd.DataFrame


def compare_base_models(table: pd.DataFrame, seed: int = 0) -> BaseModelTables:
    """Rank base models, and ask which of their features would have told the ranking beforehand.

    Args:
        table: One row per base model and method: base_model, family (publisher), method,
            size_group, outcome (larger is better; empty where training failed), optionally
            reference (true for the models that gains are counted from); every further column is a
            feature, a number.
        seed: Of folds, draws and permutations.

    Raises:
        DataFormatError: A column is missing, repeats a base model or holds no number, or there is
            no outcome.
    """
    checked, features = check_base_models(table)
    known = checked[checked["outcome"].notna()]
    if known.empty:
        raise DataFormatError("The base-model table has no outcome in any row.")
    by_method = [(str(method), rows) for method, rows in known.groupby("method", sort=False)]
    selected = [_selection(method, rows, features, seed) for method, rows in by_method]
    return BaseModelTables(
        leaderboard=leaderboard(checked),
        correlations=_concatenated(
            feature_correlations(rows, features, seed).assign(method=method)
            for method, rows in by_method
        ),
        gains=gains(known),
        coverage=_concatenated(coverage for coverage, _ in selected),
        selection=_concatenated(selection for _, selection in selected),
    )


def check_base_models(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with numbers as floats, and the names of its features.

    Raises:
        DataFormatError: As `compare_base_models`.
    """
    name = "base-model"
    check_columns(table, name, KEYS)
    check_filled(table, name, ["base_model", "family", "method", "size_group"])
    check_unique(table, name, ["base_model", "method"])
    features = [column for column in table.columns if column not in (*KEYS, REFERENCE)]
    numbers = {column: as_numbers(table, name, column) for column in ["outcome", *features]}
    checked = table.assign(**{str(column): values for column, values in numbers.items()})
    if REFERENCE not in checked:
        checked[REFERENCE] = False
    if not checked[REFERENCE].isin([True, False]).all():
        raise DataFormatError(
            f"The {name} table's {REFERENCE!r} must be true or false in every row."
        )
    return checked.astype({REFERENCE: bool}), features


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """Base models of each method and size group, best first; those without an outcome last."""
    groups = ["method", "size_group"]
    order = {value: i for column in groups for i, value in enumerate(table[column].unique())}
    ranked = table.assign(
        rank=table.groupby(groups)["outcome"].rank(ascending=False, method="min").astype("Int64"),
        n=table.groupby(groups)["outcome"].transform("count"),
    ).sort_values("outcome", ascending=False, kind="stable")
    ranked = ranked.sort_values(groups, key=lambda values: values.map(order), kind="stable")
    columns = [*groups, "rank", "base_model", "family", "outcome", "n"]
    return ranked[columns].reset_index(drop=True)


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """What the best base model of each size group gains over each reference in the group.

    `gain_points` is the difference in units of the outcome, `gain_relative_percent` that difference
    over the reference. (The paper's "3 % to 14 %" are points.)
    """
    records = []
    for (method, size_group), rows in table.groupby(["method", "size_group"], sort=False):
        best = rows.iloc[int(rows["outcome"].to_numpy(float).argmax())]
        for _, reference in rows[rows[REFERENCE]].iterrows():
            gain = best["outcome"] - reference["outcome"]
            records.append(
                {
                    "method": method,
                    "size_group": size_group,
                    "reference": reference["base_model"],
                    "reference_outcome": reference["outcome"],
                    "best_base_model": best["base_model"],
                    "best_outcome": best["outcome"],
                    "gain_points": gain,
                    "gain_relative_percent": 100 * gain / reference["outcome"],
                    "n": len(rows),
                }
            )
    columns = [
        "method", "size_group", "reference", "reference_outcome", "best_base_model",
        "best_outcome", "gain_points", "gain_relative_percent", "n",
    ]  # fmt: skip
    return pd.DataFrame(records, columns=columns)


def stage_deltas(stages: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """What each stage of post-training changes against the one base (the paper's Table 1).

    Args:
        stages: base_model, stage and the scores in `columns`; one row has the stage `base`.
        columns: The scores to compare.

    Returns:
        base_model, stage, score, value, delta_points, delta_relative_percent.
    """
    check_columns(stages, "post-training", ["base_model", "stage", *columns])
    bases = stages[stages["stage"] == "base"]
    if len(bases) != 1:
        raise DataFormatError(
            f"The post-training table must have one row with stage='base', got {len(bases)}."
        )
    base = bases.iloc[0]
    later = stages[stages["stage"] != "base"]
    long = later.melt(["base_model", "stage"], list(columns), var_name="score")
    points = long["value"] - long["score"].map(base)
    relative = 100 * points / long["score"].map(base)
    return long.assign(delta_points=points, delta_relative_percent=relative.astype(float))


def feature_correlations(table: pd.DataFrame, features: list[str], seed: int = 0) -> pd.DataFrame:
    """Correlate each feature with the outcome over the base models of one method."""
    by_model = table.set_index("base_model")
    wide = by_model[features].T.rename_axis(index="feature")
    found = correlations(wide, by_model["outcome"], seed)
    return found.assign(critical_r=[critical_r(n) if n > 2 else np.nan for n in found["n"]])


def coverage_at_k(predictor: npt.ArrayLike, outcome: npt.ArrayLike, k: int) -> float:
    """The share of the k best by `outcome` that are among the k best by `predictor`.

    Ties go to the model that stands first in the table. A random ranking covers k / n.

    Raises:
        ConfigError: k is not within 1 and n.
    """
    values, truth = np.asarray(predictor, dtype=float), np.asarray(outcome, dtype=float)
    if not 1 <= k <= len(truth):
        raise ConfigError(f"k must be from 1 to {len(truth)} base models, got k={k}.")
    return len(set(_top(values, k)) & set(_top(truth, k))) / k


def _top(values: Floats, k: int) -> list[int]:
    found: list[int] = np.argsort(-values, kind="stable")[:k].tolist()
    return found


def _selection(
    method: str, table: pd.DataFrame, features: list[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coverage by k, and its mean beside the error, of each feature and each way to select."""
    outcome = table["outcome"].to_numpy(float)
    usable = table[features].notna().all() & (table[features].nunique() > 1)
    complete = [name for name in features if usable[name]]
    x = table[complete].to_numpy(float)
    families = pd.factorize(table["family"])[0].astype(np.int64)
    enough = len(outcome) >= MIN_BASE_MODELS and complete
    fits = select(x, outcome, families, complete, seed) if enough else {}
    rankings = {(predictor, how): fit.predicted for (predictor, how), fit in fits.items()}
    signs = np.sign(coefficient(x.T, outcome, "pearson")) if complete else np.empty(0)
    rankings |= {
        (f"feature {name}", "in_sample"): sign * x[:, i]
        for i, (name, sign) in enumerate(zip(complete, signs, strict=True))
        if not np.isnan(sign)
    }
    ks = [k for k in KS if k < len(outcome)]
    records = [
        {"method": method, "predictor": predictor, "validation": how, "k": k}
        | _covered(values, outcome, k)
        for (predictor, how), values in rankings.items()
        for k in ks
    ]
    coverage = pd.DataFrame(records, columns=list(_COVERAGE_COLUMNS))
    selection = [
        {"method": method, "predictor": predictor, "validation": how}
        | _summary(fit, outcome, ks, seed)
        | {"n_features": len(complete), "n_dropped": len(features) - len(complete)}
        for (predictor, how), fit in fits.items()
    ]
    return coverage, pd.DataFrame(selection, columns=list(_SELECTION_COLUMNS))


_COVERAGE_COLUMNS = (
    "method", "predictor", "validation", "k", "coverage", "random", "p_random", "n",
)  # fmt: skip
_SELECTION_COLUMNS = (
    "method", "predictor", "validation", "mean_coverage", "random", "p_random", "mae",
    "mae_stderr", "n", "n_features", "n_dropped", "chosen", "used", "n_not_converged",
)  # fmt: skip


def _covered(values: Floats, outcome: Floats, k: int) -> dict[str, Any]:
    """Coverage beside a random ranking's, and how probable that is to do as well.

    The overlap of two sets of k out of n is hypergeometric where one of them is random.
    """
    from scipy.stats import hypergeom

    n = len(outcome)
    coverage = coverage_at_k(values, outcome, k)
    p_random = float(hypergeom.sf(round(coverage * k) - 1, n, k, k))
    return {"coverage": coverage, "random": k / n, "p_random": p_random, "n": n}


def _summary(fit: Fit, outcome: Floats, ks: list[int], seed: int) -> dict[str, Any]:
    """Mean coverage over the ks, against 10,000 random rankings, and the absolute error."""
    n = len(outcome)
    mean_coverage = float(np.mean([coverage_at_k(fit.predicted, outcome, k) for k in ks]))
    place = np.empty(n, dtype=np.int64)
    place[np.argsort(-outcome, kind="stable")] = np.arange(n)
    shuffled = np.random.default_rng(seed).permuted(np.tile(place, (9999, 1)), axis=1)
    random = np.mean([(shuffled[:, :k] < k).mean(axis=1) for k in ks], axis=0)
    errors = np.abs(fit.predicted - outcome)
    return {
        "mean_coverage": mean_coverage,
        "random": float(np.mean(ks) / n),
        "p_random": float((1 + (random >= mean_coverage - 1e-12).sum()) / 10_000),
        "mae": float(errors.mean()),
        "mae_stderr": float(errors.std(ddof=1) / np.sqrt(n)),
        "n": n,
        "chosen": fit.chosen,
        "used": ", ".join(f"{name} ({count})" for name, count in Counter(fit.used).most_common()),
        "n_not_converged": fit.num_not_converged,
    }


def _concatenated(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(tables), ignore_index=True)
