"""What an evaluation found, as tables on disk and in memory."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from rm_cluster.config import EvaluateConfig, parse_config
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.store import Folder


@dataclass(frozen=True)
class EvalResult:
    """The outcome of `evaluate`.

    Attributes:
        metrics: reward_model, benchmark, domain, metric, value, stderr, ci_low, ci_high, n,
            n_failed, n_tied, n_truncated.
        rewards: One row per (reward_model, prompt): benchmark, id, domain, slices, values,
            num_tokens, truncated, error.
        comparisons: Paired differences of each two reward models.
        config: What was asked for.
        run: Versions, contracts, counts and seconds.
    """

    metrics: pd.DataFrame
    rewards: pd.DataFrame
    comparisons: pd.DataFrame
    config: EvaluateConfig
    run: dict[str, Any]

    def leaderboard(self) -> pd.DataFrame:
        """Reward models by their overall value on each benchmark, best first.

        The value is the benchmark's official `score` where it has one, else `accuracy`.
        """
        overall = self.metrics[self.metrics["domain"] == OVERALL]
        main = [
            table[table["metric"] == ("score" if "score" in set(table["metric"]) else "accuracy")]
            for _, table in overall.groupby("benchmark", sort=False)
        ]
        if not main:
            return overall.assign(rank=pd.Series(dtype=int))
        best_first = pd.concat(main).sort_values("value", ascending=False, kind="stable")
        ranks = best_first.groupby("benchmark")["value"].rank(ascending=False, method="min")
        ranked = best_first.assign(rank=ranks.astype("Int64"))
        order = {name: i for i, name in enumerate(overall["benchmark"].unique())}
        ranked = ranked.sort_values("benchmark", key=lambda names: names.map(order), kind="stable")
        return ranked[["benchmark", "rank", *ranked.columns.drop(["benchmark", "rank", "domain"])]]

    def save(self, dir: str) -> None:
        """Write the tables, the resolved config, the run's record and the report."""
        from rm_cluster.report.page import render

        folder = Folder(dir)
        tables = {
            "metrics": self.metrics,
            "comparisons": self.comparisons,
            "leaderboard": self.leaderboard(),
        }
        for name, table in tables.items():
            folder.write_text(f"{name}.csv", table.to_csv(index=False))
            folder.write_table(f"{name}.parquet", pa.Table.from_pandas(table, preserve_index=False))
        rewards = pa.Table.from_pandas(self.rewards, preserve_index=False)
        folder.write_table("rewards.parquet", rewards)
        folder.write_text("config.yaml", self.config.to_yaml())
        folder.write_text("report.html", render(self))
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")


def load_result(dir: str) -> EvalResult:
    """Read what `EvalResult.save` wrote.

    Raises:
        DataFormatError: The folder holds no finished result.
    """
    folder = Folder(dir)
    try:
        run = json.loads(folder.read_bytes("run.json"))
        config = yaml.safe_load(folder.read_bytes("config.yaml"))
        metrics, comparisons = (
            pd.read_parquet(io.BytesIO(folder.read_bytes(f"{name}.parquet")))
            for name in ("metrics", "comparisons")
        )
        rewards = pd.read_parquet(io.BytesIO(folder.read_bytes("rewards.parquet")))
    except FileNotFoundError as error:
        raise DataFormatError(
            f"{dir!r} holds no finished result: {error.filename or error} is missing."
        ) from None
    return EvalResult(metrics, rewards, comparisons, parse_config(EvaluateConfig, config), run)
