"""The record of a run, `run.json`: versions, scoring contracts, counts and seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rm_cluster.columns import any_of
from rm_cluster.composition import Composition
from rm_cluster.config import EnsembleConfig, EvaluateConfig, PairSweepConfig, RewardModelConfig
from rm_cluster.imported import Scores
from rm_cluster.measurement import Measurements
from rm_cluster.metrics.table import BenchmarkRewards
from rm_cluster.rewards import Scale
from rm_cluster.scorers.scorer import Scorer, contract_id
from rm_cluster.scoring import Measured
from rm_cluster.versions import versions


def record(run: EvaluateConfig, found: Measurements, started: float) -> dict[str, Any]:
    """Tell what ran, what was counted and how long it took.

    Args:
        run: The resolved configuration.
        found: What was measured for it.
        started: When the job began, by `time.monotonic`.
    """
    (composition, scorers), snapshots = found.plan, found.snapshots
    names = [snapshot.benchmark.name for snapshot in snapshots]
    benchmarks = [judged.rewards for judged in found.judged]
    scales = {name: judged.scales for name, judged in zip(names, found.judged, strict=True)}
    measurements = {
        name: _measurement(found.measured[name], scorer) | _answers(found.asked.get(name))
        for name, scorer in scorers.items()
    }
    counts = {
        name: _prompt_counts([benchmark.scores[name] for benchmark in benchmarks])
        for name in benchmarks[0].scores
    }
    return {
        "partial": run.limit is not None,
        "seconds": round(time.monotonic() - started, 3),
        "seed": run.seed,
        "versions": versions(),
        "benchmarks": {
            name: {
                "n": snapshot.num_rows,
                "n_rejected_rows": snapshot.num_rejected,
                **_pair_counts(benchmark),
            }
            for name, snapshot, benchmark in zip(names, snapshots, benchmarks, strict=True)
        },
        # models whose contracts are equal share what is stored
        "n_passes": len({one["contract_id"] for one in measurements.values()}),
        "reward_models": {
            model.name: counts.get(model.name, {})
            | measurements.get(model.name, {})
            | _members(model, composition, measurements)
            | _imported(found.imported.get(model.name))
            | _scales(model.name, scales)
            for model in run.reward_models
        },
        "members": {
            name: one
            for name, one in measurements.items()
            if name not in {model.name for model in run.reward_models}
        },
    }


def _measurement(measured: Measured, scorer: Scorer) -> dict[str, Any]:
    return {
        "n_from_store": measured.num_stored,
        "n_scored": measured.num_scored,
        "n_requests": measured.num_requests,
        "n_retries": measured.num_retries,
        "seconds": round(measured.seconds, 3),
        "resources": None if measured.resources is None else measured.resources._asdict(),
        "contract_id": contract_id(scorer.contract),
        "contract": scorer.contract,
    }


def _members(
    model: RewardModelConfig, composition: Composition, measurements: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Of what is computed, from what; the names are those of other reward models, or `members`."""
    if isinstance(model, EnsembleConfig):
        return {"members": model.members}
    parts = composition.parts.get(model.name, [model.name])
    if parts == [model.name]:
        return {}
    passes = {"n_passes": len({measurements[name]["contract_id"] for name in parts})}
    pairs = {"n_pairs": len(parts) ** 2} if isinstance(model, PairSweepConfig) else {}
    return {"members": parts, **passes, **pairs}


def _imported(read: Sequence[Scores] | None) -> dict[str, Any]:
    if read is None:
        return {}
    return {
        "n_imported_records": sum(scores.num_records for scores in read),
        "n_unmatched_records": [scores.num_unmatched for scores in read],
    }


def _answers(asked: Mapping[str, Mapping[str, int]] | None) -> dict[str, Any]:
    """By benchmark, what a judge answered, or which domains prompts were customized for."""
    return {"asked": asked} if asked else {}


def _scales(name: str, scales: Mapping[str, Mapping[str, Mapping[str, Scale]]]) -> dict[str, Any]:
    found = {
        benchmark: {member: scale._asdict() for member, scale in by_ensemble[name].items()}
        for benchmark, by_ensemble in scales.items()
        if by_ensemble.get(name)
    }
    return {"scales": found} if found else {}


def _pair_counts(benchmark: BenchmarkRewards) -> dict[str, int]:
    ties = pc.struct_field(pc.list_flatten(benchmark.rows["pairs"]), "tie")
    return {"n_pairs": len(ties), "n_gold_ties": pc.sum(ties, min_count=0).as_py()}


def _prompt_counts(scores: Sequence[pa.Table]) -> dict[str, int]:
    return {
        "n": sum(map(len, scores)),
        "n_failed": sum(table["values"].null_count for table in scores),
        "n_truncated": sum(int(any_of(table["truncated"]).sum()) for table in scores),
    }
