"""Time the bootstrap of Bradley-Terry strengths against a logistic regression refitted per round.

    python bench/bradley_terry.py [num_battles=16038] [num_rounds=100]

Both sides fit the very same bootstrap rounds of the same battles, so their strengths must agree;
the reference is the Arena-Hard way: resample all battles, one row of +1 and -1 for each, ties as
half a win for either side, scikit-learn's unpenalized logistic regression. Writes
`bench/results/bradley_terry.json`.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import numpy as np
import sklearn
from options import read_options
from sklearn.linear_model import LogisticRegression

from rm_cluster.metrics.strengths import (
    ELO_PER_LOGIT,
    FIRST,
    SECOND,
    TIE,
    bradley_terry,
    resample,
    tally,
)

NUM_POLICIES = 20
NUM_REPEATS = 5


def draw_battles(num_battles: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw battles among 20 policies with PPE's share of ties (36 %)."""
    strengths = rng.normal(scale=0.6, size=NUM_POLICIES)
    first = rng.integers(NUM_POLICIES, size=num_battles)
    second = (first + rng.integers(1, NUM_POLICIES, size=num_battles)) % NUM_POLICIES
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    outcome = np.where(rng.random(num_battles) < chance, FIRST, SECOND)
    return first, second, np.where(rng.random(num_battles) < 0.36, TIE, outcome)


def refit(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, tol: float = 1e-8
) -> np.ndarray:
    """One round of the reference: every battle twice, a tie once for each side."""
    design = np.zeros((len(first), NUM_POLICIES))
    design[np.arange(len(first)), first] = 1
    design[np.arange(len(first)), second] = -1
    won = np.concatenate([outcome != SECOND, outcome == FIRST])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=tol, max_iter=1000)
    strengths = model.fit(np.concatenate([design, design]), won).coef_[0]
    return strengths - strengths.mean()


def same_rounds(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, num_rounds: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Rounds as lists of battles, and as tallies."""
    rng = np.random.default_rng(1)
    picks = [rng.integers(len(first), size=len(first)) for _ in range(num_rounds)]
    tallies = [tally(first[p], second[p], outcome[p], NUM_POLICIES) for p in picks]
    return picks, np.stack(tallies)


def main() -> None:
    options = read_options("num_battles", "num_rounds")
    num_battles = int(options.get("num_battles", 16_038))
    num_rounds = int(options.get("num_rounds", 100))
    first, second, outcome = draw_battles(num_battles, np.random.default_rng(0))
    picks, tallies = same_rounds(first, second, outcome, num_rounds)

    started = time.perf_counter()
    reference = np.stack([refit(first[p], second[p], outcome[p]) for p in picks])
    reference_seconds = time.perf_counter() - started

    seconds = []
    for _ in range(NUM_REPEATS):
        started = time.perf_counter()
        counts = tally(first, second, outcome, NUM_POLICIES)
        bradley_terry(resample(counts, num_rounds, np.random.default_rng(1)))
        seconds.append(time.perf_counter() - started)
    ours = float(np.median(seconds))

    fitted = bradley_terry(tallies)
    difference = float(np.abs(fitted - reference).max())
    # the same reference, iterated further: whose is the difference?
    exact = np.stack([refit(first[p], second[p], outcome[p], tol=1e-13) for p in picks[:5]])
    result = {
        "num_battles": num_battles,
        "num_rounds": num_rounds,
        "reference_seconds": round(reference_seconds, 3),
        "seconds": round(ours, 5),
        "seconds_of_each_repeat": [round(one, 5) for one in seconds],
        "ratio": round(reference_seconds / ours, 1),
        "largest_difference_logits": difference,
        "largest_difference_elo": difference * ELO_PER_LOGIT,
        "largest_difference_elo_at_tol_1e-13": float(np.abs(fitted[:5] - exact).max())
        * ELO_PER_LOGIT,
        "machine": f"{platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}",
    }
    target = Path(__file__).parent / "results" / "bradley_terry.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
