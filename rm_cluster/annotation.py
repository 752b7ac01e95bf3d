"""The annotate job: candidates x one reward signal -> preferences to train on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from rm_cluster.annotated import Annotation
from rm_cluster.best_of_n import mean_similarity
from rm_cluster.config import (
    AnnotateConfig,
    BenchmarkConfig,
    EmbeddingConfig,
    EvaluateConfig,
    GenerateConfig,
    GeneratorConfig,
)
from rm_cluster.config.listing import absolute
from rm_cluster.generation import generate
from rm_cluster.judging import rewards_table
from rm_cluster.labeling import Labeled, Similarity, label, schema
from rm_cluster.measurement import (
    Measurements,
    fail_on_too_many_errors,
    measure_rewards,
    plan_measurements,
)
from rm_cluster.pairing import mean_word_overlap
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, located_run
from rm_cluster.record import record
from rm_cluster.scorers import Embedding
from rm_cluster.serving import connect
from rm_cluster.snapshot import rejected_rows
from rm_cluster.store import Folder
from rm_cluster.types import ROW_SCHEMA, Record

_SHARED = ("reward_models", "limit", "serving", "scoring", "output_dir", "seed")
"""What an annotation asks for as an evaluation does."""


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
    sampled: dict[str, Any] = {}
    with connect():  # once for both
        if run.policy is not None:
            evaluation, sampled = _sample(run, run.policy, evaluation)
        measured = measure_rewards(evaluation, plan)
    labeled = _label(run, measured, similarity)
    columns = schema(run).names
    result = Annotation(
        preferences=pd.DataFrame(labeled.train, columns=columns),
        held_out=pd.DataFrame(labeled.held_out, columns=columns),
        config=run,
        run=record(evaluation, measured, started) | sampled | {"pairs": _counts(labeled)},
    )
    rejected = rejected_rows(run.output_dir, measured.snapshots)
    Folder(run.output_dir).write_text("rejected_rows.jsonl", rejected)
    result.save(run.output_dir)
    scored = rewards_table([judged.rewards for judged in measured.judged])
    its = scored.filter(pc.equal(scored["reward_model"], run.annotator_name))
    fail_on_too_many_errors(evaluation, its)
    return result


def _located(run: AnnotateConfig) -> tuple[AnnotateConfig, EvaluateConfig]:
    """The run with local paths as they are seen from here, and the evaluation that it rests on."""
    shared = {name: getattr(run, name) for name in _SHARED}
    candidates = run.candidates.model_copy(update={"type": "preferences"})
    benchmark = run.candidates if run.policy is None else candidates
    evaluation = located_run(parse_config(EvaluateConfig, {**shared, "benchmarks": [benchmark]}))
    similarity = run.similarity and run.similarity.model_copy(
        update={"model": absolute(run.similarity.model)}
    )
    changes = {name: getattr(evaluation, name) for name in _SHARED}
    policy = run.policy and run.policy.model_copy(
        update={"model": absolute(run.policy.model), "tokenizer": absolute(run.policy.tokenizer)}
    )
    path = evaluation.benchmarks[0].path
    changes |= {
        "candidates": run.candidates.model_copy(update={"path": path}),
        "similarity": similarity,
        "policy": policy,
    }
    return run.model_copy(update=changes), evaluation


def _sample(
    run: AnnotateConfig, policy: GeneratorConfig, evaluation: EvaluateConfig
) -> tuple[EvaluateConfig, dict[str, Any]]:
    """The evaluation with what a policy replies as candidates, and the record of the sampling."""
    prompts = run.candidates
    if prompts.type == "preferences":
        prompts = prompts.model_copy(update={"type": "prompts"})
    folder = f"{run.output_dir}/candidates"
    shared = {name: getattr(run, name) for name in ("limit", "serving", "scoring", "seed")}
    made = generate(GenerateConfig(policy=policy, prompts=prompts, output_dir=folder, **shared))
    candidates = BenchmarkConfig(
        name=prompts.name, type="preferences", path=f"{folder}/candidates.parquet"
    )
    return evaluation.model_copy(update={"benchmarks": [candidates]}), {"candidates": made.run}


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
