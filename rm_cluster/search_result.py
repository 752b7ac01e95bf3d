"""What a search found, as tables on disk and in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from rm_cluster.config import SearchConfig
from rm_cluster.store import Folder


@dataclass(frozen=True)
class SearchResult:
    """The outcome of `search`.

    What is called gold here is the criterion where the pool has no gold values (`best["judged_by"]`
    says which). All of it is on the test prompts, but for `value`, which chose.

    Attributes:
        trials: One row per trial: number, state, parameters, what it measured on the development
            prompts (`value, tokens, kl, num_prompts, seconds`), and of complete ones `gold, gain`
            and `win_rate` over trial 0 with intervals, `changed`, `n_test`.
        best: The best trial, the exact optimum, their difference, and the Pareto front.
        curves: Expected gold and proxy reward of best-of-n for every n.
        beta_curves: Gold against beta, per reward model and rule.
        choices: Reward model x rule with the beta that the development prompts chose; `gain` and
            `win_rate` over plain Best-of-N by the same reward model.
        hacking: Where each reward model is hacked.
        importances: How much each parameter matters.
        config: What was asked for.
        run: Versions, counts and seconds.
    """

    trials: pd.DataFrame
    best: dict[str, Any]
    curves: pd.DataFrame
    beta_curves: pd.DataFrame
    choices: pd.DataFrame
    hacking: pd.DataFrame
    importances: pd.DataFrame
    config: SearchConfig
    run: dict[str, Any]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What `save` writes as .csv and .parquet, by file name."""
        return {
            "trials": self.trials,
            "curves": self.curves,
            "beta_curves": self.beta_curves,
            "choices": self.choices,
            "hacking": self.hacking,
            "importances": self.importances,
        }

    def save(self, dir: str) -> None:
        """Write the tables, the best, the resolved config, the report, the run's record."""
        from rm_cluster.report.search import write_report

        folder = Folder(dir)
        for name, table in self.tables().items():
            folder.write_text(f"{name}.csv", table.to_csv(index=False))
            folder.write_table(f"{name}.parquet", pa.Table.from_pandas(table, preserve_index=False))
        folder.write_text("best.json", json.dumps(self.best, indent=2) + "\n")
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, folder)
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")
