"""Made-up results of realistic size, and one whose every text is hostile."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rm_cluster.config import BENCHMARK_TYPES, EvaluateConfig
from rm_cluster.downstream.coefficients import COEFFICIENTS
from rm_cluster.metrics.curves import CURVE_COLUMNS
from rm_cluster.metrics.gains import GAIN_COLUMNS
from rm_cluster.metrics.gaps import correlate_gaps
from rm_cluster.metrics.table import COMPARISON_COLUMNS
from rm_cluster.parsing import parse_config
from rm_cluster.result import EvalResult
from rm_cluster.sweeps import SWEEP_COLUMNS

HUMAN = ("overall", "hard", "easy", "instruction_following", "coding", "math", "similar_response")
HUMAN_METRICS = (
    "accuracy", "rowwise_pearson", "separability", "confidence_agreement", "kendall", "spearman",
    "brier",
)  # fmt: skip
CORRECTNESS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval", "mean")
CORRECTNESS_METRICS = ("accuracy", "roc_auc", "max_score", "end_score", "loss")
RM_BENCH = ("overall", "chat", "code", "math", "safety-refuse", "safety-response")
RM_BENCH_METRICS = ("score", "accuracy", "hard", "normal", "easy")
PPE_CELLS = [(d, m) for d in HUMAN for m in HUMAN_METRICS]
PPE_CELLS += [(d, m) for d in CORRECTNESS for m in CORRECTNESS_METRICS]
RM_BENCH_CELLS = [(d, m) for d in RM_BENCH for m in RM_BENCH_METRICS]
NAMES = (
    "Athene-RM-70B", "Skywork-Reward-Gemma-2-27B", "InternLM2-20B-Reward", "Nemotron-4-340B-Reward",
    "ArmoRM-Llama3-8B-v0.1", "NaiveVerbosityModel", "Llama-3-OffsetBias-RM-8B", "Starling-RM-34B",
    "Eurus-RM-7B", "FsfairX-LLaMA3-RM-v0.1", "InternLM2-1.8B-Reward", "length",
)  # fmt: skip


def metric_rows(
    models: tuple[str, ...], benchmark: str, cells: list[tuple[str, str]], seed: int = 0
) -> pd.DataFrame:
    """Made-up metrics: a strength per reward model, a difficulty per cell, noise."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(0, 0.06, len(models))
    rows = []
    for model, strong in zip(models, strength, strict=True):
        for domain, metric in cells:
            sign = -1 if metric in ("brier", "loss") else 1
            middle = 0.25 if sign < 0 else 0.7
            value = np.clip(middle + sign * strong + rng.normal(0, 0.03), 0.01, 0.99)
            n = int(rng.integers(200, 5000))
            stderr = float(np.sqrt(value * (1 - value) / n))
            rows.append(
                (model, benchmark, domain, metric, value, stderr, value - 1.96 * stderr,
                 value + 1.96 * stderr, n, int(rng.integers(0, 4)), int(rng.integers(0, 40)), 0)
            )  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=[
            "reward_model", "benchmark", "domain", "metric", "value", "stderr", "ci_low", "ci_high",
            "n", "n_failed", "n_tied", "n_truncated",
        ],
    )  # fmt: skip


def reward_rows(models: tuple[str, ...], errors: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "reward_model": model,
                "benchmark": "ppe",
                "id": f"p{i}",
                "domain": "x",
                "error": error,
                "margins": None,
            }
            for model in models
            for i, error in enumerate(errors)
        ]
    )


def made_up_result(
    metrics: pd.DataFrame,
    rewards: pd.DataFrame | None = None,
    limit: int | None = None,
    outcomes: pd.DataFrame | None = None,
    best_of_k: pd.DataFrame | None = None,
) -> EvalResult:
    models = tuple(metrics["reward_model"].unique())
    comparisons = pd.DataFrame(
        [
            (a, b, "ppe", "overall", "accuracy", 0.01, 0.01, -0.01, 0.03, 0.3, 500)
            for a, b in itertools.pairwise(models)
        ],
        columns=list(COMPARISON_COLUMNS),
    )
    benchmarks = {
        name: {"n": 5000, "n_pairs": 16_000, "n_gold_ties": 120, "n_rejected_rows": 3}
        for name in metrics["benchmark"].unique()
    }
    config: dict[str, Any] = {
        "reward_models": [{"type": "length"}],
        "benchmarks": [
            {"name": name, "path": "x.jsonl"} if name not in BENCHMARK_TYPES else name
            for name in benchmarks
        ],
        "limit": limit,
    }
    return EvalResult(
        metrics=metrics,
        scored=pa.Table.from_pandas(reward_rows(models, [None]) if rewards is None else rewards),
        comparisons=comparisons,
        best_of_k=pd.DataFrame(columns=list(CURVE_COLUMNS)) if best_of_k is None else best_of_k,
        outcomes=outcomes,
        correlations=None if outcomes is None else correlation_rows(metrics, outcomes),
        config=parse_config(EvaluateConfig, config),
        run={"partial": limit is not None, "versions": {"ray": "2.60.0"}, "benchmarks": benchmarks},
    )


def curve_rows(models: tuple[str, ...]) -> pd.DataFrame:
    """Made-up best-of-K curves: each rises at a speed of its own, below the oracle."""
    rows = []
    for i, model in enumerate(models):
        for j, domain in enumerate(CORRECTNESS):
            for k in (1, 2, 4, 8, 16, 32):
                value = 0.4 + 0.02 * j + (0.05 - 0.006 * i) * np.log2(k)
                oracle = 1 - 0.6 * 0.85**k
                rows.append(
                    (model, "ppe", domain, k, value, value - 0.03, value + 0.03, oracle, 512)
                )
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def outcome_rows(models: tuple[str, ...]) -> pd.DataFrame:
    values = 1150 + 10 * np.random.default_rng(3).normal(size=len(models))
    columns = {"reward_model": models, "outcome": "arena_score", "value": values}
    return pd.DataFrame(columns).assign(ci_low=values - 6, ci_high=values + 6)


def correlation_rows(metrics: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Made-up coefficients in the columns of `downstream.correlate`."""
    keys = metrics[["benchmark", "domain", "metric"]].drop_duplicates(ignore_index=True)
    table = keys.assign(outcome=outcomes["outcome"].iloc[0], n=len(outcomes))
    table["flipped"] = table["metric"].isin(("brier", "loss"))
    for name in COEFFICIENTS:
        value = np.random.default_rng(4).uniform(-1, 1, len(table))
        table[name] = value
        table[[f"{name}_low", f"{name}_high"]] = np.stack([value - 0.2, value + 0.2], axis=1)
        table[[f"{name}_p", f"{name}_q"]] = 0.04
    return table


def realistic_result() -> EvalResult:
    metrics = pd.concat(
        [
            metric_rows(NAMES, "ppe", PPE_CELLS, seed=1),
            metric_rows(NAMES, "rm-bench", RM_BENCH_CELLS, seed=2),
        ],
        ignore_index=True,
    )
    failed = reward_rows(NAMES[:3], ["text of 5000 tokens > max_length=4096"] * 30)
    return made_up_result(metrics, failed, 500, outcome_rows(NAMES[:9]), curve_rows(NAMES))


HOSTILE = (
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "a.b[0]['c']\"d\"\\n\u2028&amp;",
    "line\nbreak " + "long " * 40,
)


def hostile_result() -> EvalResult:
    """Names of reward models, domains, metrics and outcomes, ids and errors, that are markup."""
    cells = list(itertools.product(("overall", *HOSTILE), ("accuracy", "x<b>")))
    table = metric_rows(HOSTILE, "rm-bench", cells)
    outcomes = outcome_rows(HOSTILE).assign(outcome=HOSTILE[1])
    curves = curve_rows(HOSTILE).assign(benchmark="rm-bench", domain=HOSTILE[0])
    rewards = reward_rows(HOSTILE, list(HOSTILE)).assign(id=lambda table: table["error"])
    result = made_up_result(table, rewards, None, outcomes, curves)
    pairs = pair_rows(HOSTILE, ("overall", *HOSTILE)).assign(pair_sweep=HOSTILE[0])
    values = {name: float(i) for i, name in enumerate(HOSTILE)}
    gaps = correlate_gaps(pairs, values, seed=0).assign(pair_sweep=HOSTILE[0], gap=HOSTILE[1])
    gains = pd.DataFrame([[*HOSTILE, "same", HOSTILE[0], 0.1, 0.1, 0.0, 0.2, 0.1, 9]])
    gains.columns = pd.Index(GAIN_COLUMNS)
    return dataclasses.replace(
        result, pair_sweep=pairs, pair_sweep_correlations=gaps, ensemble_gains=gains
    )


def pair_rows(models: tuple[str, ...], domains: tuple[str, ...]) -> pd.DataFrame:
    """Made-up accuracies of all ordered pairs: the later in the list the better."""
    rows = [
        ("sweep", "rm-bench", domain, a, b, 0.5 + 0.1 * (i - j), 0.01, 0.4, 0.6, 99, 1, 0, 0, i - j)
        for domain in domains
        for (i, a), (j, b) in itertools.product(enumerate(models), repeat=2)
    ]
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS)).astype({"gap": float})
