"""What a job prints of rewards made of others: pair sweeps, and what ensembles gain."""

from __future__ import annotations

import pandas as pd

from rm_cluster.metrics.gaps import GAP_COEFFICIENTS
from rm_cluster.report.wording import interval, signed
from rm_cluster.result import EvalResult

MAX_PAIRS = 5
_OVER = {"ordered": "ordered pairs", "positive_gap": "pairs with a positive gap"}


def derived_blocks(result: EvalResult) -> list[str]:
    """A block for each sweep on each benchmark, and one for the gains of ensembles."""
    blocks = []
    if result.pair_sweep is not None and result.pair_sweep_correlations is not None:
        keys = ["pair_sweep", "benchmark"]
        correlations = dict(list(result.pair_sweep_correlations.groupby(keys, sort=False)))
        blocks += [
            _sweep_block(pairs, correlations[key])
            for key, pairs in result.pair_sweep.groupby(keys, sort=False)
        ]
    if result.ensemble_gains is not None:
        blocks.append(_gains_block(result.ensemble_gains))
    return blocks


def correlation_text(row: pd.Series) -> str:
    """One line on the correlation of gap and accuracy, with intervals and what it is over."""
    found = [
        f"{name} {signed(row[name], row[f'{name}_low'], row[f'{name}_high'])}, "
        f"p {row[f'{name}_p']:.3g}"
        for name in GAP_COEFFICIENTS
        if pd.notna(row[name])
    ]
    over = f"{row['n_pairs']} {_OVER[row['over']]} of {row['n_models']} models"
    return f"{'; '.join(found) or 'undefined'} ({over})"


def _sweep_block(pairs: pd.DataFrame, correlations: pd.DataFrame) -> str:
    domain = pairs["domain"].iloc[0]
    here = pairs[pairs["domain"] == domain]
    others = here[here["strong"] != here["weak"]]
    best = others.sort_values("accuracy", ascending=False, kind="stable").head(MAX_PAIRS)
    ends = best[["accuracy", "ci_low", "ci_high"]].itertuples(index=False)
    lines = pd.DataFrame(
        {
            "strong": best["strong"],
            "weak": best["weak"],
            "accuracy [95% interval]": [interval(*row) for row in ends],
            "gap": best["gap"].map("{:+.3f}".format),
            "n": best["n"],
            "tied": best["n_tied"],
            "failed": best["n_failed"],
            "truncated": best["n_truncated"],
        }
    )
    title = (
        f"{pairs['benchmark'].iloc[0]}, {pairs['pair_sweep'].iloc[0]}, {domain}: "
        f"{len(here)} ordered pairs of {here['strong'].nunique()} models; the best {len(best)}"
    )
    told = correlations[correlations["domain"] == domain]
    gaps = [
        f"gap ({row['gap']}) and accuracy: {correlation_text(row)}" for _, row in told.iterrows()
    ]
    return "\n".join([title, lines.to_string(index=False), *gaps])


def _gains_block(gains: pd.DataFrame) -> str:
    first = gains.groupby(["ensemble", "benchmark"], sort=False)["domain"].transform("first")
    shown = gains[gains["domain"] == first]
    ends = shown[["gain", "ci_low", "ci_high"]].itertuples(index=False)
    lines = shown[["ensemble", "benchmark", "domain", "metric", "chosen_on", "best_member"]].copy()
    lines["gain [95% interval]"] = [interval(*row) for row in ends]
    lines["n"] = shown["n"]
    return f"Gain of ensembles over their best member\n{lines.to_string(index=False)}"
