"""The annotate job: candidates x one reward signal -> preferences to train on."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rm_cluster.best_of_n import mean_similarity, over_prompts
from rm_cluster.config import AnnotateConfig, EmbeddingConfig, EvaluateConfig
from rm_cluster.config.listing import absolute
from rm_cluster.judging import rewards_frame
from rm_cluster.labeling import Labeled, Similarity, label, schema
from rm_cluster.measurement import (
    Measurements,
    fail_on_too_many_errors,
    measure_rewards,
    plan_measurements,
)
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.pairing import mean_word_overlap, num_words
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, located_run
from rm_cluster.record import record
from rm_cluster.scorers import Embedding
from rm_cluster.snapshot import rejected_rows
from rm_cluster.store import Folder
from rm_cluster.types import ROW_SCHEMA, Message, Record

_SHARED = ("reward_models", "limit", "serving", "scoring", "output_dir", "seed")
"""What an annotation asks for as an evaluation does."""


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


def annotate(config: AnnotateConfig | Mapping[str, Any] | str | Path) -> Annotation:
    """Score candidates, make preferences of their rewards, and save and return them.

    Uses the Ray cluster at hand, or starts a local one. What `output_dir` already holds of earlier
    runs is not scored again.

    Args:
        config: An `AnnotateConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration or a model cannot be used.
        DataFormatError: The candidates cannot be read.
        ScoringError: Replicas failed for good, or, after everything is saved, more than
            `scoring.max_failed_fraction` of the prompts failed.
    """
    started = time.monotonic()
    run, evaluation = _located(parse_config(AnnotateConfig, config))
    plan = plan_measurements(evaluation)
    similarity = _similarity(run.similarity)
    announce(run, run.output_dir)
    measured = measure_rewards(evaluation, plan)
    labeled = _label(run, measured, similarity)
    columns = schema(run).names
    result = Annotation(
        preferences=pd.DataFrame(labeled.train, columns=columns),
        held_out=pd.DataFrame(labeled.held_out, columns=columns),
        config=run,
        run=record(evaluation, measured, started) | {"pairs": _counts(labeled)},
    )
    rejected = rejected_rows(run.output_dir, measured.snapshots)
    Folder(run.output_dir).write_text("rejected_rows.jsonl", rejected)
    result.save(run.output_dir)
    rewards = rewards_frame([judged.rewards for judged in measured.judged])
    fail_on_too_many_errors(evaluation, rewards[rewards["reward_model"] == run.annotator_name])
    return result


def _located(run: AnnotateConfig) -> tuple[AnnotateConfig, EvaluateConfig]:
    """The run with local paths as they are seen from here, and the evaluation that it rests on."""
    shared = {name: getattr(run, name) for name in _SHARED}
    evaluation = located_run(EvaluateConfig(benchmarks=[run.candidates], **shared))
    similarity = run.similarity and run.similarity.model_copy(
        update={"model": absolute(run.similarity.model)}
    )
    changes = {name: getattr(evaluation, name) for name in _SHARED}
    changes |= {"candidates": evaluation.benchmarks[0], "similarity": similarity}
    return run.model_copy(update=changes), evaluation


def _similarity(config: EmbeddingConfig | None) -> Similarity:
    if config is None:
        return mean_word_overlap
    encoder = Embedding(**config.model_dump())
    return lambda texts: mean_similarity(encoder.embed(texts)[None])[0]


def _label(run: AnnotateConfig, measured: Measurements, similarity: Similarity) -> Labeled:
    """Make preferences of one window of candidates after the other."""
    (snapshot,), (judged,) = measured.snapshots, measured.judged
    values = judged.rewards.scores[run.annotator_name]["values"].to_pylist()
    folder = Folder(snapshot.url)
    train: list[Record] = []
    held_out: list[Record] = []
    dropped: Counter[str] = Counter()
    start = num_lost = 0
    for file in snapshot.windows:
        rows = folder.read_table(file, ROW_SCHEMA.names).to_pylist()
        its = values[start : start + len(rows)]
        start += len(rows)
        # an imported table has None where a completion has no reward
        arrays = [None if one is None else np.array(one, dtype=np.float64) for one in its]
        found = label(run, rows, arrays, similarity)
        train += found.train
        held_out += found.held_out
        dropped += found.dropped
        num_lost += found.num_lost
    return Labeled(train, held_out, dropped, num_lost)


def _counts(labeled: Labeled) -> dict[str, Any]:
    num_pairs = len(labeled.train) + len(labeled.held_out)
    return {
        "n": num_pairs + labeled.dropped.total(),
        "n_pairs": num_pairs,
        "n_train": len(labeled.train),
        "n_held_out": len(labeled.held_out),
        "n_completions_without_reward": labeled.num_lost,
        "dropped": dict(labeled.dropped),
    }
