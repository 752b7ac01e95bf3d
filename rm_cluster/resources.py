"""How many replicas a cluster has room for, and what each of them gets."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from rm_cluster.config import ServingConfig
from rm_cluster.errors import ConfigError
from rm_cluster.limits import Limits, cluster_limits

logger = logging.getLogger(__name__)

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
        ConfigError: Replicas ask for more than the cluster can ever have, or one for more than a
            node has.
    """
    limits = cluster_limits()
    gpus, cpus = limits.total.get("GPU", 0.0), limits.here.get("CPU", 0.0)
    num_gpus = serving.num_gpus
    if num_gpus is None:
        num_gpus = 1.0 if uses_gpu and gpus else 0.0
    if num_gpus > gpus and not limits.is_open:
        raise ConfigError(
            f"serving.num_gpus={num_gpus:g}, but the cluster has {gpus:g} GPUs and cannot get "
            "more. Set it to 0 to run on CPUs, or start GPU nodes."
        )
    places = math.floor(gpus / num_gpus) if num_gpus else limits.num_nodes
    max_replicas = serving.max_replicas or max(1, places, serving.min_replicas)
    num_cpus = serving.num_cpus or (1.0 if num_gpus else _share(cpus, max_replicas))
    _check(limits, max(1, serving.min_replicas), {"CPU": num_cpus, "GPU": num_gpus})
    per_node = math.ceil(max_replicas / limits.num_nodes)
    num_threads = None if num_gpus else max(1, round(cpus / limits.num_nodes / per_node))
    return Resources(serving.min_replicas, max_replicas, num_gpus, num_cpus, num_threads)


def _share(cpus: float, max_replicas: int) -> float:
    """CPUs to reserve for each replica so that all of them fit beside Ray Data's actors."""
    return max(0.01, min(0.4, math.floor(100 * (cpus - DATA_CPUS) / max_replicas) / 100))


def _check(limits: Limits, num_replicas: int, each: dict[str, float]) -> None:
    """Tell at once what would wait for ever."""
    wanted = ", ".join(f"{amount:g} {name}s" for name, amount in each.items() if amount)
    beside = {"CPU": DATA_CPUS, "GPU": 0.0}
    for name, amount in each.items():
        needed, there = round(amount * num_replicas + beside[name], 2), limits.total.get(name, 0.0)
        if needed > there and not limits.is_open:
            raise ConfigError(
                f"serving: {num_replicas} replicas and Ray Data need {needed:g} {name}s, but the "
                f"cluster has {there:g}. Lower min_replicas, or what each of them reserves."
            )
    if any(all(node.get(n, 0.0) >= x for n, x in each.items()) for node in limits.kinds):
        return
    if not limits.is_open:
        raise ConfigError(
            f"serving: a replica needs {wanted}, which no single node of the cluster has. Lower "
            "serving.num_cpus or serving.num_gpus."
        )
    logger.warning("A replica needs %s, which no node has; waiting for one that does", wanted)
