"""What jobs on Ray do before anything is measured: output folder, paths, snapshots of the rows."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rm_cluster.config import BenchmarkConfig, Config, EvaluateConfig
from rm_cluster.config.listing import absolute, located
from rm_cluster.errors import ConfigError, RMClusterError
from rm_cluster.snapshot import Snapshot, take_snapshot
from rm_cluster.store import Folder

logger = logging.getLogger(__name__)


def announce(run: Config, output_dir: str) -> None:
    """Write the resolved config first, so that an output folder that cannot be used is told now.

    A result of an earlier run is no longer one: its `run.json` goes.

    Raises:
        ConfigError: Nothing can be written there.
    """
    folder = Folder(output_dir)
    try:
        folder.remove("run.json")
        folder.write_text("config.yaml", run.to_yaml())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"Cannot write to output_dir {output_dir!r}: {error}") from None


def output_folder(output_dir: str) -> str:
    """An output folder as it is seen from here; a URL stays as it is."""
    return output_dir if "://" in output_dir else os.path.abspath(os.path.expanduser(output_dir))


def located_run(run: EvaluateConfig) -> EvaluateConfig:
    """The run with local paths as they are seen from here, for processes that run elsewhere."""
    return run.model_copy(
        update={
            "reward_models": located(run.reward_models),
            "benchmarks": [
                benchmark.model_copy(update={"path": absolute(benchmark.path)})
                for benchmark in run.benchmarks
            ],
            "downstream": absolute(run.downstream),
            "output_dir": output_folder(run.output_dir),
        }
    )


def _is_seen_everywhere(snapshot: Snapshot) -> bool:
    """Whether the driver and every other node find the same rows there."""
    if Folder(snapshot.url).names() != snapshot.windows:
        return False
    task = ray.remote(_digest)
    here = ray.get_runtime_context().get_node_id()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes]
    # a file and no listing, which network file systems may remember for a minute
    window = snapshot.url, snapshot.windows[0]
    pending = [task.options(num_cpus=0, scheduling_strategy=s).remote(*window) for s in strategies]
    theirs = set(ray.get(pending))
    return not theirs or theirs == {_digest(*window)}


def _digest(url: str, name: str) -> str | None:
    """Of the content of a file; None where there is none."""
    try:
        return hashlib.blake2b(Folder(url).read_bytes(name)).hexdigest()
    except FileNotFoundError:
        return None


def take_snapshots(
    benchmarks: Sequence[BenchmarkConfig],
    limit: int | None,
    output_dir: str,
    *,
    only_prompts: bool = False,
) -> list[Snapshot]:
    """Read all benchmarks at once, on the driver's node, where local files are.

    Raises:
        ConfigError: The output folder is not the same one everywhere.
        DataFormatError: A benchmark cannot be read.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    task = ray.remote(take_snapshot).options(num_cpus=0, scheduling_strategy=here)
    pending = [
        task.remote(benchmark, limit, output_dir, only_prompts=only_prompts)
        for benchmark in benchmarks
    ]
    try:
        snapshots: list[Snapshot] = ray.get(pending)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, RMClusterError) else error) from None
    for snapshot in snapshots:
        if not _is_seen_everywhere(snapshot):
            raise ConfigError(
                f"output_dir={output_dir!r} is not the same folder on every node. Use a shared "
                "file system or a URL such as s3://bucket/run."
            )
        logger.info(
            "%s: %d prompts, %d rows set aside",
            snapshot.benchmark.name,
            snapshot.num_rows,
            snapshot.num_rejected,
        )
    return snapshots
