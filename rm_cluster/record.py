"""The record of a run, `run.json`: versions, scoring contracts, counts and seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rm_cluster.config import EvaluateConfig
from rm_cluster.imported import Scores
from rm_cluster.metrics.table import BenchmarkRewards
from rm_cluster.scorers.scorer import Scorer, contract_id
from rm_cluster.scoring import Measured
from rm_cluster.snapshot import Snapshot
from rm_cluster.versions import versions


def record(
    run: EvaluateConfig,
    snapshots: Sequence[Snapshot],
    benchmarks: Sequence[BenchmarkRewards],
    scorers: Mapping[str, Scorer],
    measured: Mapping[str, Measured],
    imported: Mapping[str, Sequence[Scores]],
    started: float,
) -> dict[str, Any]:
    """Tell what ran, what was counted and how long it took.

    Args:
        run: The resolved configuration.
        snapshots: The benchmarks' rows.
        benchmarks: Their scores, in the same order.
        scorers: By reward model that was run.
        measured: What the scoring of each came to.
        imported: By reward model that was not run, what was read for each benchmark.
        started: When the job began, by `time.monotonic`.
    """
    return {
        "partial": run.limit is not None,
        "seconds": round(time.monotonic() - started, 3),
        "seed": run.seed,
        "versions": versions(),
        "benchmarks": {
            snapshot.benchmark.name: {
                "n": snapshot.num_rows,
                "n_rejected_rows": snapshot.num_rejected,
                **_pair_counts(benchmark),
            }
            for snapshot, benchmark in zip(snapshots, benchmarks, strict=True)
        },
        "reward_models": {
            name: {
                **_prompt_counts([benchmark.scores[name] for benchmark in benchmarks]),
                "n_from_store": measured[name].num_stored,
                "n_scored": measured[name].num_scored,
                "n_requests": measured[name].num_requests,
                "n_retries": measured[name].num_retries,
                "seconds": round(measured[name].seconds, 3),
                "resources": resources._asdict()
                if (resources := measured[name].resources)
                else None,
                "contract_id": contract_id(scorer.contract),
                "contract": scorer.contract,
            }
            for name, scorer in scorers.items()
        }
        | {
            name: {
                **_prompt_counts([benchmark.scores[name] for benchmark in benchmarks]),
                "n_imported_records": sum(scores.num_records for scores in read),
                "n_unmatched_records": [scores.num_unmatched for scores in read],
            }
            for name, read in imported.items()
        },
    }


def _pair_counts(benchmark: BenchmarkRewards) -> dict[str, int]:
    ties = [pair["tie"] for pairs in benchmark.rows["pairs"].to_pylist() for pair in pairs]
    return {"n_pairs": len(ties), "n_gold_ties": sum(ties)}


def _prompt_counts(scores: Sequence[pa.Table]) -> dict[str, int]:
    truncated = [any(flags or ()) for table in scores for flags in table["truncated"].to_pylist()]
    return {
        "n": sum(map(len, scores)),
        "n_failed": sum(table["values"].null_count for table in scores),
        "n_truncated": sum(truncated),
    }
