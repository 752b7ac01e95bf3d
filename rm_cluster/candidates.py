"""What a policy wrote: candidates for Best-of-N, as a table on disk and in memory."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rm_cluster.best_of_n import over_prompts
from rm_cluster.config import GenerateConfig
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.store import SAMPLE_SCHEMA, Folder
from rm_cluster.types import ROW_SCHEMA

CANDIDATE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        *(SAMPLE_SCHEMA.field(name) for name in ("num_tokens", "logprobs", "ended", "error")),
    ]
)
"""The row of a benchmark, and per completion its tokens (the one that ended it counted), their
log-probability under the policy itself (a sum, in nats) and whether it ended by itself. A prompt
that failed has an error in the place of its completions."""

MEASURES = ("label", "num_tokens", "logprob_per_token", "distinct_fraction", "ended_fraction")


@dataclass(frozen=True)
class GenerateResult:
    """The outcome of `generate`.

    Attributes:
        candidates: One row per prompt, in the columns of `CANDIDATE_SCHEMA`.
        config: What was asked for.
        run: Versions, contract, counts and seconds.
    """

    candidates: pd.DataFrame
    config: GenerateConfig
    run: dict[str, Any]

    def summary(self) -> pd.DataFrame:
        """Means over prompts by domain: `X, X_low, X_high` for X of `MEASURES`, and counts.

        `n` counts prompts with candidates; the label is there where a verifier is.
        """
        table = self.candidates
        domains = sorted(table["domain"].unique())
        groups = [(OVERALL, table)]
        if len(domains) > 1:
            groups += [(name, table[table["domain"] == name]) for name in domains]
        return pd.DataFrame([self._summarized(name, group) for name, group in groups])

    def _summarized(self, name: str, table: pd.DataFrame) -> dict[str, Any]:
        written = table[table["completions"].map(len) > 0]
        line: dict[str, Any] = {
            "domain": name,
            "n": len(written),
            "n_failed": int(table["error"].notna().sum()),
            "n_completions": int(written["completions"].map(len).sum()),
        }
        for measure in MEASURES:
            values = np.array([_measured(measure, row) for row in written.to_dict("records")])
            found = over_prompts(values.astype(float), self.config.seed) if len(values) else None
            low, high = found.interval if found else (np.nan, np.nan)
            line |= {
                measure: found.value if found else np.nan,
                f"{measure}_low": low,
                f"{measure}_high": high,
            }
        return line

    def save(self, dir: str) -> None:
        """Write the candidates, their summary, the resolved config, the report, the record."""
        from rm_cluster.report.generation import write_report

        folder = Folder(dir)
        candidates = pa.Table.from_pandas(
            self.candidates, schema=CANDIDATE_SCHEMA, preserve_index=False
        )
        folder.write_table("candidates.parquet", candidates)
        summary = self.summary()
        folder.write_text("summary.csv", summary.to_csv(index=False))
        folder.write_table("summary.parquet", pa.Table.from_pandas(summary, preserve_index=False))
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, summary, folder)
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")


def _measured(measure: str, row: Mapping[Hashable, Any]) -> float:
    """The mean of a measure over the completions of a prompt; nan where there is none."""
    if measure == "label":
        return float(np.mean(row["labels"])) if row["labels"] is not None else np.nan
    if measure == "num_tokens":
        return float(np.mean(row["num_tokens"]))
    if measure == "logprob_per_token":
        return float(np.mean(np.divide(row["logprobs"], row["num_tokens"])))
    if measure == "distinct_fraction":
        return len(set(row["completions"])) / len(row["completions"])
    return float(np.mean(row["ended"]))
