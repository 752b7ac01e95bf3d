"""What an evaluation found, as tables on disk and in memory."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.config import EvaluateConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.parsing import parse_config
from rm_cluster.store import Folder


@dataclass(frozen=True)
class EvalResult:
    """The outcome of `evaluate`.

    Attributes:
        metrics: reward_model, benchmark, domain, metric, value, stderr, ci_low, ci_high, n,
            n_failed, n_tied, n_truncated.
        scored: What `rewards` is made of, a table of Arrow, which takes a fraction of the memory.
        comparisons: Paired differences of each two reward models.
        best_of_k: Best-of-K curves where there are gold labels: reward_model, benchmark, domain, k,
            value, ci_low, ci_high, oracle, n.
        outcomes: What the metrics were correlated with, or None: reward_model, outcome, value.
        correlations: Of each metric and domain with each outcome (`rmc.correlate`), or None.
        config: What was asked for.
        run: Versions, contracts, counts and seconds.
        ensemble_gains: What each ensemble gains over its best member, or None where there is none.
        pair_sweep: Accuracy of each ordered pair of a sweep's models, by domain, or None.
        pair_sweep_correlations: Of the gap of the pairs with their accuracy, or None.
    """

    metrics: pd.DataFrame
    scored: pa.Table
    comparisons: pd.DataFrame
    best_of_k: pd.DataFrame
    outcomes: pd.DataFrame | None
    correlations: pd.DataFrame | None
    config: EvaluateConfig
    run: dict[str, Any]
    ensemble_gains: pd.DataFrame | None = None
    pair_sweep: pd.DataFrame | None = None
    pair_sweep_correlations: pd.DataFrame | None = None

    @cached_property
    def rewards(self) -> pd.DataFrame:
        """One row per (reward_model, prompt), made when it is first asked for.

        benchmark, id, domain, slices, values, num_tokens, truncated, error, margins.
        """
        rewards: pd.DataFrame = self.scored.to_pandas()
        return rewards

    def leaderboard(self) -> pd.DataFrame:
        """Reward models by their overall value on each benchmark, best first.

        The value is the benchmark's official `score` where it has one, else `accuracy`. A benchmark
        of two kinds, as PPE, has a board for each (`domain`).
        """
        boards = [
            _ranked(self.metrics.query("benchmark == @benchmark.name and domain == @domain"))
            for benchmark in self.config.benchmarks
            for domain in BENCHMARKS[benchmark.type].headlines
        ]
        filled = [board for board in boards if len(board)]
        return pd.concat(filled, ignore_index=True) if filled else boards[0]

    def judges_of_pairs(self) -> dict[str, list[str]]:
        """By benchmark, those that only compared pairs: they have margins and no rewards."""
        stated = self.scored.filter(self.scored["margins"].is_valid())
        judges = stated.select(["benchmark", "reward_model"]).to_pandas()
        names = judges.groupby("benchmark", sort=False)["reward_model"].unique()
        return {str(benchmark): list(found) for benchmark, found in names.items()}

    def save(self, dir: str) -> None:
        """Write the tables, the resolved config, the run's record, the report and its figures."""
        from rm_cluster.report.evaluation import write_report

        folder = Folder(dir)
        tables = {name: getattr(self, name) for name in _TABLES}
        for name, table in {"leaderboard": self.leaderboard(), **tables}.items():
            if table is None:
                # an earlier result in this folder may have had one
                folder.remove(f"{name}.csv")
                folder.remove(f"{name}.parquet")
                continue
            folder.write_text(f"{name}.csv", table.to_csv(index=False))
            folder.write_table(f"{name}.parquet", pa.Table.from_pandas(table, preserve_index=False))
        folder.write_table("rewards.parquet", self.scored)
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, folder)
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")


_OPTIONAL = (
    "ensemble_gains", "pair_sweep", "pair_sweep_correlations", "outcomes", "correlations",
)  # fmt: skip
_TABLES = ("metrics", "comparisons", "best_of_k", *_OPTIONAL)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """One headline of one benchmark, with a rank, best first."""
    main = "score" if "score" in set(table["metric"]) else "accuracy"
    board = table[table["metric"] == main].sort_values("value", ascending=False, kind="stable")
    ranks = board["value"].rank(ascending=False, method="min").astype("Int64")
    columns = ["benchmark", "domain", "rank"]
    return board.assign(rank=ranks)[[*columns, *table.columns.drop(["benchmark", "domain"])]]


def load_result(dir: str) -> EvalResult:
    """Read what `EvalResult.save` wrote.

    Raises:
        DataFormatError: The folder holds no finished result.
    """
    folder = Folder(dir)
    try:
        run = json.loads(folder.read_bytes("run.json"))
        config = yaml.safe_load(folder.read_bytes("config.yaml"))
        written = set(folder.names())
        tables: dict[str, Any] = {
            name: pd.read_parquet(io.BytesIO(folder.read_bytes(f"{name}.parquet")))
            if f"{name}.parquet" in written or name not in _OPTIONAL
            else None
            for name in _TABLES
        }
        scored = folder.read_table("rewards.parquet")
    except FileNotFoundError as error:
        raise DataFormatError(
            f"{dir!r} holds no finished result: {error.filename or error} is missing."
        ) from None
    return EvalResult(**tables, scored=scored, config=parse_config(EvaluateConfig, config), run=run)
