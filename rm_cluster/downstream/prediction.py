"""Predict the outcome of a reward model from its metrics, and say whether that beats a guess.

Every prediction is made without the reward model that it is for (leave-one-out); the guess is the
mean outcome of the others. With about nine reward models and a hundred metrics that go together,
only regularized linear models are sensible, and often the guess is not beaten.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rm_cluster.downstream.coefficients import CONFIDENCE, NUM_DRAWS, Floats
from rm_cluster.downstream.tables import outcomes_by_reward_model, values_by_reward_model

MIN_REWARD_MODELS = 5
MODELS = ("ridge", "elastic_net")
BASELINE = "mean_of_others"


def predict(metrics: pd.DataFrame, downstream: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Predict every outcome from all metrics, leaving out one reward model at a time.

    Ridge and elastic net on metrics that are scaled by the training part; its strength, and the
    elastic net's l1_ratio, are chosen by leave-one-out within the training part. A metric that one
    of the reward models lacks, or on which all agree, is dropped and counted.

    Args:
        metrics: As for `correlate`.
        downstream: As for `correlate`.
        seed: Of the bootstrap.

    Returns:
        By outcome, all of it JSON: `n` reward models, `n_features`, `n_dropped_missing`,
        `n_dropped_constant`, `observed`, and by model (`mean_of_others`, `ridge`, `elastic_net`)
        `predicted`, `mae`, `rmse`, `r2` (1 - squared error over that of the baseline),
        `mae_difference` to the baseline (negative is better) with `ci_low` and `ci_high` (95 %
        percentile bootstrap over reward models) and `n_not_converged` fits. Where there are
        fewer than five reward models or no feature, `skipped` says so and there are no models.

    Raises:
        DataFormatError: As `correlate`.
    """
    values = values_by_reward_model(metrics)
    outcomes = outcomes_by_reward_model(downstream)
    return {
        str(outcome): _predict_outcome(values, row.dropna(), seed)
        for outcome, row in outcomes.iterrows()
    }


def _predict_outcome(values: pd.DataFrame, outcome: pd.Series[float], seed: int) -> dict[str, Any]:
    names = [name for name in values.columns if name in outcome.index]
    known = values[names]
    complete = known[known.notna().all(axis="columns")]
    features = complete[complete.nunique(axis="columns") > 1]
    observed = np.asarray(outcome[names], dtype=np.float64)
    found: dict[str, Any] = {
        "n": len(names),
        "n_features": len(features),
        "n_dropped_missing": len(known) - len(complete),
        "n_dropped_constant": len(complete) - len(features),
        "observed": dict(zip(names, observed.tolist(), strict=True)),
    }
    if len(names) < MIN_REWARD_MODELS or features.empty:
        found["skipped"] = (
            f"needs {MIN_REWARD_MODELS} reward models with an outcome and one metric that all "
            f"of them have, got {len(names)} and {len(features)}"
        )
        return found
    x = features.to_numpy(float).T
    baseline = (observed.sum() - observed) / (len(observed) - 1)
    predicted = {BASELINE: (baseline, 0)} | {
        name: _leave_one_out(name, x, observed) for name in MODELS
    }
    found["models"] = {
        name: {
            "predicted": dict(zip(names, values_n.tolist(), strict=True)),
            **_errors(values_n, baseline, observed, seed),
            "n_not_converged": not_converged,
        }
        for name, (values_n, not_converged) in predicted.items()
    }
    return found


def _leave_one_out(name: str, features: Floats, outcome: Floats) -> tuple[Floats, int]:
    """Predictions [n] from features [n, F], and how many fits did not converge."""
    from sklearn.exceptions import ConvergenceWarning

    predicted = np.empty(len(outcome))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        for i in range(len(outcome)):
            others = np.arange(len(outcome)) != i
            model = _model(name, int(others.sum())).fit(features[others], outcome[others])
            predicted[i] = model.predict(features[i : i + 1])[0]
    return predicted, sum(issubclass(w.category, ConvergenceWarning) for w in caught)


def _model(name: str, num_training: int) -> Any:
    """A scikit-learn pipeline that chooses its own strength within the training part."""
    from sklearn.linear_model import ElasticNetCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "ridge":
        # leave-one-out in closed form; the largest strength is all but the mean
        return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 13)))
    return make_pipeline(
        StandardScaler(),
        ElasticNetCV(
            l1_ratio=[0.1, 0.5, 0.9], eps=1e-2, alphas=20, cv=num_training, max_iter=20_000
        ),
    )


def _errors(
    predicted: Floats, baseline: Floats, observed: Floats, seed: int
) -> dict[str, float | None]:
    error, guess = predicted - observed, baseline - observed
    difference = np.abs(error) - np.abs(guess)
    rng = np.random.default_rng(seed)
    drawn = difference[rng.integers(len(difference), size=(NUM_DRAWS, len(difference)))].mean(
        axis=1
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    scale = _sum_of_squares(guess)
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": 1 - _sum_of_squares(error) / scale if scale else None,
        "mae_difference": float(difference.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
    }


def _sum_of_squares(values: npt.NDArray[np.float64]) -> float:
    return float((values**2).sum())
