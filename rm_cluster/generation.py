"""The generate job: prompts -> Serve replicas of a policy -> candidates with their log-probs."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from rm_cluster.benchmarks.source import find_files
from rm_cluster.candidates import CANDIDATE_SCHEMA, GenerateResult
from rm_cluster.config import GenerateConfig
from rm_cluster.config.listing import absolute
from rm_cluster.errors import ConfigError, RMClusterError, ScoringError
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, output_folder, take_snapshots
from rm_cluster.scorers import Generator
from rm_cluster.scorers.pretrained import pinned
from rm_cluster.scorers.scorer import contract_id
from rm_cluster.scoring import Measured, lost, sample
from rm_cluster.serving import connect
from rm_cluster.snapshot import Snapshot, rejected_rows
from rm_cluster.store import Folder, SampleStore
from rm_cluster.types import Row
from rm_cluster.versions import versions

logger = logging.getLogger(__name__)

Verifier = Callable[[Row, str], float]
_PACKAGES = ("rm-cluster", "ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


def generate(config: GenerateConfig | Mapping[str, Any] | str | Path) -> GenerateResult:
    """Sample `policy.n` candidates of every prompt, and save and return them.

    Uses the Ray cluster at hand, or starts a local one. Samples that `output_dir` already holds are
    not drawn again. Each is fixed by seed, prompt and number: raising `n` adds to what is there.

    Args:
        config: A `GenerateConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration, the policy or the verifier cannot be used.
        DataFormatError: The prompts cannot be read.
        ScoringError: Replicas failed for good, or, after everything is saved, more than
            `scoring.max_failed_fraction` of the prompts failed.
    """
    run = _absolute(parse_config(GenerateConfig, config))
    started = time.monotonic()
    policy = pinned(run.policy)
    generator = Generator(**policy.model_dump())
    if run.verifier is not None:
        load_verifier(run.verifier)  # a wrong one is told before anything starts
    if run.prompts.path is not None:
        find_files(run.prompts.path, run.prompts.split)
    if generator.notice:
        logger.warning(generator.notice)
    announce(run, run.output_dir)
    with connect():
        (snapshot,) = take_snapshots([run.prompts], run.limit, run.output_dir, only_prompts=True)
        measured = sample(policy, generator, snapshot, run)
        candidates = _candidates(run, generator, snapshot)
    result = GenerateResult(
        candidates=candidates.to_pandas(),
        config=run,
        run=_record(run, generator, snapshot, measured, candidates, started),
    )
    rejected = rejected_rows(run.output_dir, [snapshot])
    Folder(run.output_dir).write_text("rejected_rows.jsonl", rejected)
    result.save(run.output_dir)
    _fail_on_too_many_errors(run, result)
    return result


def load_verifier(path: str) -> Verifier:
    """Import a verifier, `package.module:function`.

    Raises:
        ConfigError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        verifier: Verifier = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Cannot import the verifier {path!r}: {error}") from None
    return verifier


def _candidates(run: GenerateConfig, generator: Generator, snapshot: Snapshot) -> pa.Table:
    """The rows of the snapshot with what is stored of each, and its gold values."""
    stored = SampleStore(run.output_dir, contract_id(generator.contract)).read()
    folder = Folder(snapshot.url)
    tables, num_lost = [], 0
    for file in snapshot.windows:
        rows = folder.read_table(file).to_pylist()
        for row in rows:
            row |= stored.lookup(row.pop("content"), run.policy.n)
            row["policies"] = [run.policy.name] * len(row["completions"])
        tables.append(pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA))
        num_lost += sum(
            len(row["completions"]) < run.policy.n and row["error"] is None for row in rows
        )
    if num_lost:
        raise lost(run.policy.name, num_lost, run.output_dir)
    if run.verifier is not None:
        tables = _verified(run.verifier, tables)
    return pa.concat_tables(tables)


def _verified(verifier: str, tables: list[pa.Table]) -> list[pa.Table]:
    """The windows with labels, each by a task of its own."""
    task = ray.remote(_labels)
    try:
        labels = ray.get([task.remote(verifier, table) for table in tables])
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, RMClusterError) else error) from None
    position = CANDIDATE_SCHEMA.get_field_index("labels")
    field = CANDIDATE_SCHEMA.field("labels")
    return [
        table.set_column(position, field, pa.array(values, field.type))
        for table, values in zip(tables, labels, strict=True)
    ]


def _labels(verifier: str, table: pa.Table) -> list[list[float] | None]:
    verify = load_verifier(verifier)
    found: list[list[float] | None] = []
    for row in table.to_pylist():
        try:
            labels = [float(verify(row, completion)) for completion in row["completions"]]
        except Exception as error:  # it is the user's code
            raise ConfigError(
                f"The verifier {verifier!r} failed on {row['id']!r}: {type(error).__name__}: "
                f"{error}\nThe samples are stored; mend it and run again."
            ) from None
        found.append(labels or None)
    return found


def _record(
    run: GenerateConfig,
    generator: Generator,
    snapshot: Snapshot,
    measured: Measured,
    candidates: pa.Table,
    started: float,
) -> dict[str, Any]:
    return {
        "partial": run.limit is not None,
        "seconds": round(time.monotonic() - started, 3),
        "seed": run.seed,
        "versions": versions(*_PACKAGES),
        "n": len(candidates),
        "n_failed": len(candidates) - candidates["error"].null_count,
        "n_completions": sum(map(len, candidates["completions"].to_pylist())),
        "n_rejected_rows": snapshot.num_rejected,
        "n_from_store": measured.num_stored,
        "n_sampled": measured.num_scored,
        "n_requests": measured.num_requests,
        "n_retries": measured.num_retries,
        "resources": measured.resources._asdict() if measured.resources else None,
        "contract_id": contract_id(generator.contract),
        "contract": generator.contract,
    }


def _fail_on_too_many_errors(run: GenerateConfig, result: GenerateResult) -> None:
    failed = result.candidates[result.candidates["error"].notna()]
    allowed = run.scoring.max_failed_fraction
    if len(failed) > allowed * len(result.candidates):
        first = failed.iloc[0]
        raise ScoringError(
            f"{run.policy.name}: {len(failed)} of {len(result.candidates)} prompts failed, more "
            f"than scoring.max_failed_fraction={allowed:g}; the first is {first['id']!r}: "
            f"{first['error']}\nEverything is saved in {run.output_dir}; running again tries the "
            "failed ones again."
        )


def _absolute(run: GenerateConfig) -> GenerateConfig:
    """Local paths as they are seen from here, for processes that run elsewhere."""
    policy = run.policy.model_copy(
        update={
            field: absolute(getattr(run.policy, field))
            for field in ("model", "tokenizer", "template")
        }
    )
    prompts = run.prompts.model_copy(update={"path": absolute(run.prompts.path)})
    output_dir = output_folder(run.output_dir)
    return run.model_copy(update={"policy": policy, "prompts": prompts, "output_dir": output_dir})
