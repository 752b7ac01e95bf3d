"""The published numbers of two papers, in the shapes of our own tables.

PPE (arXiv 2410.14872) correlates metrics of reward models with Chatbot Arena scores; the base-model
paper (arXiv 2505.10775) trains reward models on 40 base models. `SOURCES.md` says where each file
comes from and what was never published.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import pandas as pd

ARENA_SCORE = "arena_score"
_HUMAN_METRICS = (
    "accuracy",
    "rowwise_pearson",
    "separability",
    "confidence_agreement",
    "kendall",
    "spearman",
)
_CORRECTNESS_DOMAINS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval", "mean")
_NOT_PUBLISHED: dict[str, Any] = {
    "stderr": float("nan"),
    "ci_low": float("nan"),
    "ci_high": float("nan"),
    "n": pd.NA,
    "n_failed": pd.NA,
    "n_tied": pd.NA,
    "n_truncated": pd.NA,
}


def read(name: str) -> pd.DataFrame:
    """The file `name`.csv as it is, in the units of the paper."""
    with (resources.files(__name__) / f"{name}.csv").open("rb") as stream:
        return pd.read_csv(stream, dtype={"kind": str, "judge_prompt": str})


def ppe_metrics() -> pd.DataFrame:
    """PPE's metrics of reward models and judges as a metrics table, percentages as fractions.

    The domains are `overall` of the human side and the five correctness benchmarks with their
    printed `mean`. Judges are named by model and prompt. Counts and errors were not published:
    `stderr` and the interval are nan, `n` and the other counts missing.
    """
    found = pd.concat([_human_metrics(), _correctness_metrics()], ignore_index=True)
    counts = {name: "Int64" for name in _NOT_PUBLISHED if name.startswith("n")}
    found = found.assign(benchmark="ppe", **_NOT_PUBLISHED).astype(counts)
    columns = ["reward_model", "benchmark", "domain", "metric", "value", *_NOT_PUBLISHED]
    return found[columns]


def arena_scores() -> pd.DataFrame:
    """Chatbot Arena scores of the nine DPO policies by reward model, with 95 % intervals."""
    table = read("ppe_arena")
    trained = table[table["kind"] == "dpo"].rename(
        columns={"model": "reward_model", ARENA_SCORE: "value"}
    )
    columns = ["reward_model", "outcome", "value", "ci_low", "ci_high"]
    return trained.assign(outcome=ARENA_SCORE)[columns].reset_index(drop=True)


def ppe_correlations() -> pd.DataFrame:
    """The printed Pearson correlations with the Arena score.

    Columns: arena_target, dataset, metric, granularity, domain, pearson.
    """
    return read("ppe_correlations")


def ppe_quantiles() -> pd.DataFrame:
    """The printed curve of the quantile aggregation: metric, quantile, pearson."""
    return read("ppe_quantiles")


def base_models() -> pd.DataFrame:
    """The 40 base models under both methods, 80 rows as `choose_base_model` takes them.

    `outcome` is the RewardBench score in percent; `params` are billions, `pretrain_tokens`
    trillions; the Llama-3.x models that the paper compares with have `reference` set.
    """
    models = read("base_models").drop(columns="release")
    scores = read("base_model_rewardbench")[["method", "base_model", "score"]]
    table = scores.rename(columns={"score": "outcome"}).merge(models, on="base_model")
    references = (
        "Llama-3.2-1B-Instruct",
        "Llama-3.2-3B-Instruct",
        "Llama-3.1-8B-Instruct",
        "Meta-Llama-3-8B-Instruct",
    )
    return table.assign(reference=table["base_model"].isin(references))


def rewardbench_by_category() -> pd.DataFrame:
    """RewardBench of the same 80 reward models, percent.

    Columns: method, base_model, chat, chat_hard, safety, reasoning, score.
    """
    return read("base_model_rewardbench")


def post_training() -> pd.DataFrame:
    """Stages of post-training on Llama-3.1-8B: scores in percent, printed relative deltas."""
    return read("post_training")


def _human_metrics() -> pd.DataFrame:
    table = read("ppe_human")
    judge = table["kind"] == "llm_judge"
    names = table["model"].where(~judge, table["model"] + " (" + table["judge_prompt"] + ")")
    metrics = {name: (table[f"{name}_pct"] / 100).round(6) for name in _HUMAN_METRICS}
    wide = pd.DataFrame({"reward_model": names, **metrics, "brier": table["brier"]})
    return wide.melt("reward_model", var_name="metric").assign(domain="overall")


def _correctness_metrics() -> pd.DataFrame:
    table = read("ppe_correctness").rename(columns={"model": "reward_model"})
    keys = ["reward_model", "metric"]
    return table.melt(keys, value_vars=list(_CORRECTNESS_DOMAINS), var_name="domain")
