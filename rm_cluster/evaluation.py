"""The main job: benchmarks x reward models -> rewards -> metrics with intervals."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rm_cluster.benchmarks import BENCHMARKS
from rm_cluster.benchmarks.source import find_files
from rm_cluster.config import EvaluateConfig, parse_config
from rm_cluster.errors import ConfigError, RMClusterError, ScoringError
from rm_cluster.metrics.table import BenchmarkRewards, compare, measure
from rm_cluster.result import EvalResult
from rm_cluster.scorers import Classifier, build_scorer
from rm_cluster.scorers.scorer import Scorer, contract_id
from rm_cluster.scoring import Measured, score, stored_rewards
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rejected_rows, take_snapshot
from rm_cluster.store import Folder, StoredRewards

logger = logging.getLogger(__name__)

_PACKAGES = (
    "rm-cluster",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "pandas",
)


def evaluate(config: EvaluateConfig | Mapping[str, Any] | str | Path) -> EvalResult:
    """Score every benchmark with every reward model, and save and return what comes of it.

    Uses the Ray cluster at hand, or starts a local one. What `output_dir` already holds of earlier
    runs is not measured again.

    Args:
        config: An `EvaluateConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration or a model cannot be used.
        DataFormatError: A benchmark cannot be read.
        ScoringError: Replicas failed for good, or, after everything is saved, more than
            `scoring.max_failed_fraction` of the prompts failed.
    """
    run = _absolute(parse_config(EvaluateConfig, config))
    started = time.monotonic()
    scorers = {model.name: build_scorer(model, run.scoring) for model in run.reward_models}
    for benchmark in run.benchmarks:
        if benchmark.path is not None:
            find_files(benchmark.path)  # a wrong path is told before anything starts
    for scorer in scorers.values():
        if isinstance(scorer, Classifier) and scorer.notice:
            logger.warning(scorer.notice)
    _announce(run)
    with connect():
        snapshots = _snapshots(run)
        measured = {
            model.name: score(model, scorers[model.name], snapshots, run)
            for model in run.reward_models
        }
    stored = {name: stored_rewards(run, scorer) for name, scorer in scorers.items()}
    benchmarks = [_benchmark_rewards(snapshot, stored) for snapshot in snapshots]
    result = EvalResult(
        metrics=measure(benchmarks, run.seed),
        rewards=_rewards_frame(benchmarks),
        comparisons=compare(benchmarks, run.seed),
        config=run,
        run=_record(run, benchmarks, snapshots, scorers, measured, time.monotonic() - started),
    )
    Folder(run.output_dir).write_text(
        "rejected_rows.jsonl", rejected_rows(run.output_dir, snapshots)
    )
    result.save(run.output_dir)
    _fail_on_too_many_errors(run, result)
    return result


def _announce(run: EvaluateConfig) -> None:
    """Write the resolved config first, so that an output folder that cannot be used is told now.

    A result of an earlier run is no longer one: its `run.json` goes.
    """
    folder = Folder(run.output_dir)
    try:
        folder.remove("run.json")
        folder.write_text("config.yaml", run.to_yaml())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"Cannot write to output_dir {run.output_dir!r}: {error}") from None


def _snapshots(run: EvaluateConfig) -> list[Snapshot]:
    """Read all benchmarks at once, on the driver's node, where local files are."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    task = ray.remote(take_snapshot).options(num_cpus=0, scheduling_strategy=here)
    pending = [task.remote(benchmark, run.limit, run.output_dir) for benchmark in run.benchmarks]
    try:
        snapshots: list[Snapshot] = ray.get(pending)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, RMClusterError) else error) from None
    for snapshot in snapshots:
        if Folder(snapshot.url).names() != snapshot.windows:
            raise ConfigError(
                f"output_dir={run.output_dir!r} is not the same folder on every node. Use a shared "
                "file system or a URL such as s3://bucket/run."
            )
        logger.info(
            "%s: %d prompts, %d rows set aside",
            snapshot.benchmark.name,
            snapshot.num_rows,
            snapshot.num_rejected,
        )
    return snapshots


def _benchmark_rewards(snapshot: Snapshot, stored: Mapping[str, StoredRewards]) -> BenchmarkRewards:
    """Bring the stored rewards of every reward model in line with the benchmark's rows."""
    rows = snapshot.table()
    scores = {name: rewards.lookup(rows["content"]) for name, rewards in stored.items()}
    benchmark = BENCHMARKS[snapshot.benchmark.type]
    return BenchmarkRewards(
        snapshot.benchmark.name, rows, scores, benchmark.official, benchmark.cluster
    )


def _rewards_frame(benchmarks: Sequence[BenchmarkRewards]) -> pd.DataFrame:
    """One row per (reward_model, prompt)."""
    frames = []
    for benchmark in benchmarks:
        for name, scores in benchmark.scores.items():
            table = pa.table(
                {
                    "reward_model": pa.array([name] * len(scores)),
                    "benchmark": pa.array([benchmark.name] * len(scores)),
                    **{column: benchmark.rows[column] for column in ("id", "domain", "slices")},
                    **{
                        column: scores[column]
                        for column in ("values", "num_tokens", "truncated", "error")
                    },
                }
            )
            frames.append(table.to_pandas())
    rewards: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return rewards


def _record(
    run: EvaluateConfig,
    benchmarks: Sequence[BenchmarkRewards],
    snapshots: Sequence[Snapshot],
    scorers: Mapping[str, Scorer],
    measured: Mapping[str, Measured],
    seconds: float,
) -> dict[str, Any]:
    """What `run.json` says: what ran, what was counted, how long it took."""
    return {
        "partial": run.limit is not None,
        "seconds": round(seconds, 3),
        "seed": run.seed,
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
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


def _fail_on_too_many_errors(run: EvaluateConfig, result: EvalResult) -> None:
    allowed = run.scoring.max_failed_fraction
    for name, rewards in result.rewards.groupby("reward_model", sort=False):
        failed = rewards[rewards["error"].notna()]
        if len(failed) > allowed * len(rewards):
            first = failed.iloc[0]
            raise ScoringError(
                f"{name}: {len(failed)} of {len(rewards)} prompts failed, more than "
                f"scoring.max_failed_fraction={allowed:g}; the first is {first['benchmark']} "
                f"{first['id']!r}: {first['error']}\nEverything is saved in {run.output_dir}; "
                "running again tries the failed ones again. To admit them raise the fraction; "
                "to cut long prompts set scoring.truncation=left_prompt."
            )


def _absolute(run: EvaluateConfig) -> EvaluateConfig:
    """Local paths as they are seen from here, for processes that run elsewhere."""

    def there(path: str | None) -> str | None:
        return os.path.abspath(path) if path is not None and os.path.exists(path) else path

    models = [
        model.model_copy(
            update={
                field: there(getattr(model, field))
                for field in ("model", "tokenizer", "template")
                if field in type(model).model_fields
            }
        )
        for model in run.reward_models
    ]
    benchmarks = [b.model_copy(update={"path": there(b.path)}) for b in run.benchmarks]
    remote = "://" in run.output_dir
    output_dir = run.output_dir if remote else os.path.abspath(run.output_dir)
    return run.model_copy(
        update={"reward_models": models, "benchmarks": benchmarks, "output_dir": output_dir}
    )
