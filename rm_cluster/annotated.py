"""What an annotation made: preferences, as tables on disk and in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rm_cluster.best_of_n import over_prompts
from rm_cluster.config import AnnotateConfig
from rm_cluster.labeling import schema
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.pairing import num_words
from rm_cluster.store import Folder
from rm_cluster.types import Message


@dataclass(frozen=True)
class Annotation:
    """The outcome of `annotate`.

    Attributes:
        preferences: To train on, in TRL's columns `prompt, chosen, rejected`, with chosen_reward,
            rejected_reward, margin, domain and id.
        held_out: The same, of the prompts that are kept apart.
        config: What was asked for.
        run: Versions, contracts, seconds, and what became of the prompts (`pairs`).
    """

    preferences: pd.DataFrame
    held_out: pd.DataFrame
    config: AnnotateConfig
    run: dict[str, Any]

    def everything(self) -> pd.DataFrame:
        """All pairs, to train on or held out."""
        return pd.concat([self.preferences, self.held_out], ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """What the pairs are like, overall and by domain: `X, X_low, X_high` as means over prompts.

        X is `margin`, `chosen_words`, `rejected_words` and `longer_chosen`, the share of pairs
        whose chosen completion has more words; equal ones are half.
        """
        pairs = self.everything()
        words = {
            side: pairs[side].map(lambda reply: num_words(_text(reply))).to_numpy(float)
            for side in ("chosen", "rejected")
        }
        measures = {
            "margin": pairs["margin"].to_numpy(float),
            "chosen_words": words["chosen"],
            "rejected_words": words["rejected"],
            "longer_chosen": (np.sign(words["chosen"] - words["rejected"]) + 1) / 2,
        }
        domains = pairs["domain"].to_numpy(str)
        held_out = np.arange(len(pairs)) >= len(self.preferences)
        names = sorted(set(domains))
        groups = {OVERALL: np.ones(len(pairs), dtype=bool)} if len(pairs) else {}
        groups |= {name: domains == name for name in names if len(names) > 1}
        lines = []
        for name, inside in groups.items():
            line = {
                "domain": name,
                "n": int(inside.sum()),
                "n_held_out": int(held_out[inside].sum()),
            }
            for measure, values in measures.items():
                found = over_prompts(values[inside], self.config.seed)
                low, high = found.interval
                line |= {measure: found.value, f"{measure}_low": low, f"{measure}_high": high}
            lines.append(line)
        ends = [f"{measure}{end}" for measure in measures for end in ("", "_low", "_high")]
        return pd.DataFrame(lines, columns=["domain", "n", "n_held_out", *ends])

    def save(self, dir: str) -> None:
        """Write both tables as Parquet and JSON lines, the resolved config, report and record."""
        from rm_cluster.report.annotation import write_report

        folder = Folder(dir)
        for name, frame in (("preferences", self.preferences), ("held_out", self.held_out)):
            records = frame.to_dict("records")
            table = pa.Table.from_pylist(records, schema=schema(self.config))
            folder.write_table(f"{name}.parquet", table)
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in records)
            folder.write_text(f"{name}.jsonl", "".join(lines))
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, folder)
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")


def _text(reply: str | list[Message]) -> str:
    return reply if isinstance(reply, str) else reply[0]["content"]
