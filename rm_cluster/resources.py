"""How many replicas a cluster has room for, and what each of them gets."""

from __future__ import annotations

import math
from typing import NamedTuple

import ray

from rm_cluster.config import ServingConfig
from rm_cluster.errors import ConfigError

ENCODER_CPUS, SENDER_CPUS = 0.25, 0.1
DATA_CPUS = ENCODER_CPUS + SENDER_CPUS
"""What the least of Ray Data's actors need, or no prompt would ever reach a replica."""


class Resources(NamedTuple):
    """What a `ServingConfig` comes to on this cluster for one scorer."""

    min_replicas: int
    max_replicas: int
    num_gpus: float
    num_cpus: float
    num_threads: int | None


def resolve(serving: ServingConfig, *, uses_gpu: bool) -> Resources:
    """Fill in what a config left open from what the cluster has, or can scale to.

    Raises:
        ConfigError: Replicas ask for more GPUs than the cluster can ever have.
    """
    total = _cluster_limits()
    gpus = total.get("GPU", 0.0)
    num_gpus = serving.num_gpus
    if num_gpus is None:
        num_gpus = 1.0 if uses_gpu and gpus else 0.0
    if num_gpus > gpus:
        raise ConfigError(
            f"serving.num_gpus={num_gpus:g}, but the cluster has {gpus:g} GPUs and cannot get "
            "more. Set it to 0 to run on CPUs, or start GPU nodes."
        )
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    places = math.floor(gpus / num_gpus) if num_gpus else nodes
    max_replicas = serving.max_replicas or max(1, places, serving.min_replicas)
    cpus = total.get("CPU", 0.0)
    num_cpus = serving.num_cpus or (1.0 if num_gpus else _share(cpus, max_replicas))
    at_once = max(1, serving.min_replicas)
    for name, needed, there in (
        ("CPUs", round(num_cpus * at_once + DATA_CPUS, 2), cpus),
        ("GPUs", num_gpus * at_once, gpus),
    ):
        if needed > there:
            raise ConfigError(
                f"serving: {at_once} replicas and Ray Data need {needed:g} {name}, but the cluster "
                f"has {there:g}. Lower min_replicas, or what each of them reserves."
            )
    per_node = math.ceil(max_replicas / nodes)
    num_threads = None if num_gpus else max(1, round(cpus / nodes / per_node))
    return Resources(serving.min_replicas, max_replicas, num_gpus, num_cpus, num_threads)


def _share(cpus: float, max_replicas: int) -> float:
    """CPUs to reserve for each replica so that all of them fit beside Ray Data's actors."""
    return max(0.01, min(0.4, math.floor(100 * (cpus - DATA_CPUS) / max_replicas) / 100))


def _cluster_limits() -> dict[str, float]:
    """Resources that the cluster has, or an autoscaler may bring it to."""
    total = {name: float(amount) for name, amount in ray.cluster_resources().items()}
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    return {
        name: max(total.get(name, 0.0), float(limits.get(name, 0.0))) for name in {*total, *limits}
    }
