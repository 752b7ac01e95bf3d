"""Printed numbers beside ours: what follows from the published tables, and what cannot.

Columns: paper, quantity, item, status, ours, ours_low, ours_high, printed, difference, n, note. The
status is `recomputed` where both numbers stand there, `derived` where the paper prints none,
`not recomputable` where what it was made from is not published, and `qualitative` where ours is of
other features and only the direction can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rm_cluster import published
from rm_cluster.downstream import critical_r, stage_deltas
from rm_cluster.downstream.base_models import BaseModelTables
from rm_cluster.downstream.coefficients import coefficient

COLUMNS = (
    "paper", "quantity", "item", "status", "ours", "ours_low", "ours_high", "printed",
    "difference", "n", "note",
)  # fmt: skip
PPE = "PPE (2410.14872)"
BASE_CHOICE = "base-model choice (2505.10775)"
_SCORES = ("chat", "chat_hard", "safety", "reasoning", "score")


def compare_with_printed(
    correlations: pd.DataFrame, quantiles: pd.DataFrame, base: BaseModelTables
) -> pd.DataFrame:
    """Set everything printed beside what the functions of `downstream` make of the tables.

    Args:
        correlations: Of `published.ppe_metrics()` with `published.arena_scores()`.
        quantiles: Of the same over the five correctness benchmarks.
        base: Of `published.base_models()`.
    """
    records = [
        *({"paper": PPE} | record for record in _ppe_correlations(correlations)),
        *({"paper": PPE} | record for record in _ppe_quantiles(quantiles)),
        *({"paper": BASE_CHOICE} | record for record in _stages()),
        *({"paper": BASE_CHOICE} | record for record in _gains(base.gains)),
        *({"paper": BASE_CHOICE} | record for record in _features(base)),
        *({"paper": BASE_CHOICE} | record for record in _methods()),
        *({"paper": BASE_CHOICE} | record for record in _claims(base.selection)),
    ]
    table = pd.DataFrame(records, columns=list(COLUMNS))
    numbers = ["ours", "ours_low", "ours_high", "printed"]
    table = table.astype(dict.fromkeys(numbers, float)).astype({"n": "Int64"})
    compared = table["status"] == "recomputed"
    return table.assign(difference=(table["ours"] - table["printed"]).where(compared))


def _ppe_correlations(correlations: pd.DataFrame) -> Iterator[dict[str, Any]]:
    ours = {(row["metric"], row["domain"]): row for row in correlations.to_dict("records")}
    for row in published.ppe_correlations().itertuples(index=False):
        record = {
            "quantity": f"Pearson with the Arena score ({row.arena_target})",
            "item": f"{row.dataset} {row.metric} {row.domain}",
            "printed": row.pearson,
            "status": "not recomputable",
            "note": _why_not(str(row.arena_target), str(row.dataset), str(row.metric), row.domain),
        }
        if not record["note"]:
            found = ours[row.metric, row.domain]
            record |= {
                "status": "recomputed",
                "ours": found["pearson"],
                "ours_low": found["pearson_low"],
                "ours_high": found["pearson_high"],
                "n": found["n"],
                "note": "from the rounded tables",
            }
        yield record


def _why_not(arena_target: str, dataset: str, metric: str, domain: object) -> str:
    """What is missing to recompute a correlation; empty where nothing is."""
    if arena_target != "raw":
        return "the style-controlled Arena scores are not published"
    if dataset == "rewardbench":
        return "the RewardBench scores of the nine reward models are not published with it"
    if metric in ("end_score", "loss"):
        return f"the {metric} of each reward model is not published"
    if dataset == "human_preference" and domain != "overall":
        return "the human metrics of each reward model are published overall only"
    return ""


def _ppe_quantiles(quantiles: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The printed curve, and the one that can be made: over benchmarks instead of categories."""
    for row in published.ppe_quantiles().itertuples(index=False):
        yield {
            "quantity": "Pearson of a quantile over six human categories",
            "item": f"{row.metric} q={row.quantile:g}",
            "status": "not recomputable",
            "printed": row.pearson,
            "note": "the human metrics of each reward model are published overall only",
        }
    for found in quantiles.to_dict("records"):
        yield {
            "quantity": "Pearson of a quantile over five correctness benchmarks",
            "item": f"{found['metric']} q={found['quantile']:g}",
            "status": "derived",
            "ours": found["pearson"],
            "ours_low": found["pearson_low"],
            "ours_high": found["pearson_high"],
            "n": found["n"],
            "note": "printed for human categories only, where the lower quantiles do better",
        }


def _stages() -> Iterator[dict[str, Any]]:
    stages = published.post_training()
    printed = stages.set_index("base_model")
    for row in stage_deltas(stages, _SCORES).itertuples(index=False):
        yield {
            "quantity": "change by post-training, relative percent",
            "item": f"regression {row.base_model} ({row.stage}) {row.score}",
            "status": "recomputed",
            "ours": row.delta_relative_percent,
            "printed": printed.at[row.base_model, f"{row.score}_delta_pct"],
            "n": 1,
            "note": f"{row.delta_points:+.1f} points",
        }


def _gains(gains: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The abstract says 3 to 14 % over Llama-3.x in its size group: the ends, in both units."""
    # one reference per group: the paper's third group is read against Llama-3.1
    reference = gains[gains["reference"] != "Meta-Llama-3-8B-Instruct"]
    for unit in ("points", "relative_percent"):
        values = reference[f"gain_{unit}"]
        for end, ours, printed in (("smallest", values.min(), 3), ("largest", values.max(), 14)):
            yield {
                "quantity": f"{end} gain over Llama-3.x, {unit.replace('_', ' ')}",
                "item": "both methods, three size groups",
                "status": "recomputed",
                "ours": ours,
                "printed": printed,
                "n": 40,
                "note": "printed as percent, and fits points",
            }


def _features(base: BaseModelTables) -> Iterator[dict[str, Any]]:
    for row in base.correlations.to_dict("records"):
        for name in ("pearson", "spearman"):
            yield {
                "quantity": f"{name.capitalize()} with the RewardBench score",
                "item": f"{row['method']} {row['feature']}",
                "status": "derived",
                "ours": row[name],
                "ours_low": row[f"{name}_low"],
                "ours_high": row[f"{name}_high"],
                "n": row["n"],
                "note": f"|Pearson| of {row['critical_r']:.4f} is significant at this n",
            }
    yield {
        "quantity": "critical |Pearson r|, p = 0.05",
        "item": "40 base models",
        "status": "recomputed",
        "ours": critical_r(40),
        "printed": 0.316,
        "n": 40,
        "note": "0.316 is the value of 39",
    }
    params = base.coverage[base.coverage["predictor"] == "feature params"]
    for row in params.to_dict("records"):
        yield {
            "quantity": f"coverage at k={row['k']}",
            "item": f"{row['method']} params",
            "status": "derived",
            "ours": row["coverage"],
            "n": row["n"],
            "note": f"a random ranking covers {row['random']:.3f} (p = {row['p_random']:.4f})",
        }


def _methods() -> Iterator[dict[str, Any]]:
    scores = published.rewardbench_by_category().pivot(
        index="base_model", columns="method", values="score"
    )
    regression, bradley_terry = (scores[name] for name in ("regression", "bradley_terry"))
    derived = {
        "mean of regression minus Bradley-Terry, points": (regression - bradley_terry).mean(),
        "base models on which Bradley-Terry is better": (bradley_terry > regression).sum(),
    } | {
        f"{name.capitalize()} of regression and Bradley-Terry": float(
            coefficient(regression.to_numpy(), bradley_terry.to_numpy(), name)
        )
        for name in ("pearson", "spearman")
    }
    for quantity, ours in derived.items():
        record = {"quantity": quantity, "item": "RewardBench score", "status": "derived"}
        yield record | {"ours": ours, "n": len(scores)}


def _claims(selection: pd.DataFrame) -> Iterator[dict[str, Any]]:
    regression = {
        (row["predictor"], row["validation"]): row
        for row in selection[selection["method"] == "regression"].to_dict("records")
    }
    for validation in ("in_sample", "10_fold", "leave_family_out"):
        elastic = regression["elastic_net", validation]
        single = regression["best_feature", validation]
        yield {
            "quantity": "coverage of the elastic net over the best feature's, relative percent",
            "item": f"regression, {validation}",
            "status": "qualitative",
            "ours": 100 * (elastic["mean_coverage"] / single["mean_coverage"] - 1),
            "printed": 18 if validation == "in_sample" else None,
            "n": elastic["n"],
            "note": "printed for 34 features; ours has params and tokens, the only published ones",
        }
    for what, printed in (("five features", 3.2), ("five features and pre-training data", 1.7)):
        yield {
            "quantity": "mean absolute error of predicted RewardBench scores, percent",
            "item": what,
            "status": "not recomputable",
            "printed": printed,
            "note": "the benchmark scores of the base models are not published",
        }
    yield {
        "quantity": "largest |correlation| of a benchmark with RewardBench",
        "item": "ANLI among the best",
        "status": "not recomputable",
        "printed": 0.8,
        "note": "the benchmark scores of the base models are not published; printed as about 0.8",
    }
