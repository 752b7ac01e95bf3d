"""Select base models by predicting how good a reward model on each of them will be.

The base-model paper (arXiv 2505.10775, section 4.2) fits an elastic net on polynomial features,
with a grid searched by 10-fold cross-validation, and counts how many of the k best base models
are among its first k, on the models it was fitted to. Here the same is done in sample and on models
that took no part in the fit, for the elastic net and for the single best feature alike.

What has learned nothing is worse than random out of sample: the mean of the others is high where
those left out are low.

Scaling, CV score and what alpha is relative to are not stated there. Here features and outcome are
standardized on the training part of each fold (so alpha has no unit) and the setting with the
smallest squared error over all folds is taken.

Shapes: n base models, m held-out base models, F features, D polynomial features, G grid points.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.downstream.coefficients import Floats, Ints, coefficient

Bools = npt.NDArray[np.bool_]

DEGREES = (1, 2, 3)
L1_RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0)
ALPHAS = (0.1, 0.01, 0.001, 0.0001)
NUM_FOLDS = 10
MIN_TRAINING = 3
"""Base models to fit anything to, of which one is left out again to choose a setting."""
_TOLERANCE = 1e-3
_MAX_ITERATIONS = 20_000

GRID = list(itertools.product(DEGREES, L1_RATIOS, ALPHAS))


class Fit(NamedTuple):
    """Predictions of the outcome.

    Attributes:
        predicted: [n] or [m], in units of the outcome.
        chosen: What was chosen: `degree=1 l1_ratio=0.5 alpha=0.1`, or a feature's name; the choices
            of several folds are counted.
        used: How many of the final fits (one in sample, one per fold) had a coefficient other than
            0 for each feature, by name.
        num_not_converged: Fits of the elastic net that stopped at 20,000 iterations.
    """

    predicted: Floats
    chosen: str
    used: Mapping[str, int]
    num_not_converged: int


Predictor = Callable[[Floats, Floats, Floats], Fit]
"""(training features [n, F], training outcome [n], features [m, F]) -> predictions [m]."""


def select(
    features: Floats, outcome: Floats, families: Ints, names: list[str], seed: int
) -> dict[tuple[str, str], Fit]:
    """Fit both predictors in sample, out of ten folds, and without each family in turn.

    Args:
        features: [n, F].
        outcome: [n].
        families: [n] integers.
        names: Of the features.
        seed: Of the folds; those within the training part are dealt otherwise than those around.

    Returns:
        By predictor (`best_feature`, `elastic_net`) and validation (`in_sample`, `10_fold`,
        `leave_family_out`); the last only where `MIN_TRAINING` are left without any family.
    """
    found = {}
    with _fitting():
        for name, predictor in (
            ("best_feature", _best_feature(names)),
            ("elastic_net", _elastic_net(names, seed)),
        ):
            found[name, "in_sample"] = predictor(features, outcome, features)
            groups = {"10_fold": _folds(len(outcome), seed + 1), "leave_family_out": families}
            for validation, held_out in groups.items():
                largest = np.unique(held_out, return_counts=True)[1].max()
                if len(outcome) - largest >= MIN_TRAINING:
                    fit = _out_of_sample(predictor, features, outcome, held_out)
                    found[name, validation] = fit
    return found


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """One BLAS thread for each fit, as folds are fitted side by side; failures are counted."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # see Fit.num_not_converged
        yield


def _out_of_sample(predictor: Predictor, features: Floats, outcome: Floats, groups: Ints) -> Fit:
    """Predict every group ([n] integers) by what was chosen and fitted without it."""

    def predict(held_out: Bools) -> Fit:
        return predictor(features[~held_out], outcome[~held_out], features[held_out])

    parts = _held_out(groups)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        fits = list(pool.map(predict, parts))
    predicted = np.empty(len(outcome))
    for held_out, fit in zip(parts, fits, strict=True):
        predicted[held_out] = fit.predicted
    chosen = Counter(fit.chosen for fit in fits).most_common()
    return Fit(
        predicted,
        "; ".join(f"{count} x {what}" for what, count in chosen),
        sum((Counter(fit.used) for fit in fits), Counter()),
        sum(fit.num_not_converged for fit in fits),
    )


def _folds(n: int, seed: int) -> Ints:
    """Deal n base models out to ten folds of as equal a size as can be."""
    return np.random.default_rng(seed).permutation(np.arange(n) % NUM_FOLDS)


def _held_out(groups: Ints) -> list[Bools]:
    return [groups == group for group in np.unique(groups)]


def _elastic_net(names: list[str], seed: int) -> Predictor:
    """The elastic net on polynomial features, its setting chosen by 10-fold cross-validation."""

    def predict(features: Floats, outcome: Floats, others: Floats) -> Fit:
        squared_G = np.zeros(len(GRID))
        num_not_converged = 0
        for held_out in _held_out(_folds(len(outcome), seed)):
            predicted_Gm, failed = _on_grid(
                features[~held_out], outcome[~held_out], features[held_out]
            )
            squared_G += ((predicted_Gm - outcome[held_out]) ** 2).sum(axis=1)
            num_not_converged += failed
        degree, l1_ratio, alpha = GRID[int(squared_G.argmin())]
        training, unseen, powers_DF = _polynomial(features, others, degree)
        center, spread = _location(outcome)
        path, failed = _coefficients(training, (outcome - center) / spread, l1_ratio)
        coefficients = path[:, ALPHAS.index(alpha)]
        used_F = powers_DF[coefficients != 0].any(axis=0)
        return Fit(
            unseen @ coefficients * spread + center,
            f"degree={degree} l1_ratio={l1_ratio:g} alpha={alpha:g}",
            {name: 1 for name, used in zip(names, used_F, strict=True) if used},
            num_not_converged + failed,
        )

    return predict


def _best_feature(names: list[str]) -> Predictor:
    """The feature with the largest |Pearson r| in the training part, and a straight line."""

    def predict(features: Floats, outcome: Floats, others: Floats) -> Fit:
        strength = np.abs(coefficient(features.T, outcome, "pearson"))
        best = int(np.nan_to_num(strength, nan=-1.0).argmax())
        slope, intercept = np.polyfit(features[:, best], outcome, 1)
        predicted = slope * others[:, best] + intercept
        return Fit(predicted, names[best], {names[best]: 1}, 0)

    return predict


def _on_grid(features: Floats, outcome: Floats, others: Floats) -> tuple[Floats, int]:
    """Predictions [G, m] of every grid point, and how many fits did not converge."""
    center, spread = _location(outcome)
    target = (outcome - center) / spread
    predicted, num_not_converged = [], 0
    for degree in DEGREES:
        training, held_out, _ = _polynomial(features, others, degree)
        for l1_ratio in L1_RATIOS:
            coefficients, failed = _coefficients(training, target, l1_ratio)
            predicted.append((held_out @ coefficients).T)
            num_not_converged += failed
    return np.concatenate(predicted) * spread + center, num_not_converged


def _location(outcome: Floats) -> tuple[float, float]:
    return float(outcome.mean()), float(outcome.std()) or 1.0


def _polynomial(features: Floats, others: Floats, degree: int) -> tuple[Floats, Floats, Bools]:
    """Monomials up to the degree, [n, D] and [m, D], and the features in each, [D, F].

    Both parts are standardized by the first; so are the features before, as powers of raw values of
    like size are all but collinear.
    """
    from sklearn.preprocessing import PolynomialFeatures

    training, held_out = _standardized(features, others)
    powers = PolynomialFeatures(degree, include_bias=False)
    both = powers.fit_transform(np.concatenate([training, held_out]))
    training, held_out = _standardized(both[: len(features)], both[len(features) :])
    return np.asfortranarray(training), held_out, powers.powers_ > 0


def _standardized(training: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Both, by mean and standard deviation of the training part; what is constant there is 0."""
    center, spread = training.mean(axis=0), training.std(axis=0)
    # by comparing, as rounding leaves a constant's deviation a little off zero
    scale = np.where(training.max(axis=0) == training.min(axis=0), np.inf, spread)
    return (training - center) / scale, (others - center) / scale


def _coefficients(features: Floats, target: Floats, l1_ratio: float) -> tuple[Floats, int]:
    """Minima of 1/(2n) |y - Xw|^2 plus alpha times the penalty.

    Returns:
        [D, len(ALPHAS)], and how many of them did not converge.
    """
    from sklearn.linear_model import enet_path

    if l1_ratio == 0:  # ridge, in closed form through the n x n products
        products, n = features @ features.T, len(target)
        solved = [np.linalg.solve(products + n * alpha * np.eye(n), target) for alpha in ALPHAS]
        return features.T @ np.stack(solved, axis=1), 0
    _, path, _, iterations = enet_path(
        features,
        target,
        l1_ratio=l1_ratio,
        alphas=ALPHAS,
        tol=_TOLERANCE,
        max_iter=_MAX_ITERATIONS,
        return_n_iter=True,
        precompute=False,
        check_input=False,  # it is float64 in Fortran order, and most of the time otherwise
    )
    return path, int((np.array(iterations) >= _MAX_ITERATIONS).sum())
