"""What the doctor found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from rm_cluster.config import DoctorConfig
from rm_cluster.store import Folder


@dataclass(frozen=True)
class DoctorResult:
    """The outcome of `doctor`.

    Attributes:
        table: One row per model and condition: `reward_model, engine, condition, pad_token, dtype,
            n` (texts), `n_failed` (rows), `max_difference` and `median_difference` from the
            reference, `n_beyond` (texts outside the tolerance), `n_pairs`, `n_flipped` (pairs in
            another order than by the reference), `tolerance`, `within` (None where nothing was
            computed, or in another dtype than float32), `seconds`, `note`.
        config: What was asked for.
        run: Versions, contracts and seconds.
    """

    table: pd.DataFrame
    config: DoctorConfig
    run: dict[str, Any]

    @property
    def healthy(self) -> bool:
        """Whether our own engine agrees with the reference, in float32, under every condition."""
        ours = self.table[(self.table["engine"] == "torch") & self.table["within"].notna()]
        return bool(ours["within"].all())

    def save(self, dir: str) -> None:
        """Write the table, the resolved config, the report and the run's record."""
        from rm_cluster.report.parity import write_report

        folder = Folder(dir)
        folder.write_text("doctor.csv", self.table.to_csv(index=False))
        folder.write_table("doctor.parquet", pa.Table.from_pandas(self.table, preserve_index=False))
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, folder)
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")
