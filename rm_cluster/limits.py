"""What a Ray cluster has, or its autoscaler may bring it to.

Ray tells what there is. What its autoscaler may launch is known to the monitor on the head node
alone, so the file that this was started with is read there. Where there is no monitor, as on
Kubernetes, an autoscaler outside may bring nodes that nobody inside knows of.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Amounts = dict[str, float]

_HEAD = "node:__internal_head__"


class Limits(NamedTuple):
    """Resources by name, as Ray calls them: CPU, GPU."""

    here: Amounts
    """What the cluster has."""
    num_nodes: int
    """Of those that are there."""
    total: Amounts
    """What it has, or is known to be able to get."""
    kinds: list[Amounts]
    """What a node has, of each kind that there is or may come."""
    is_open: bool
    """Whether nodes may come that nobody here knows of."""


def cluster_limits() -> Limits:
    """Find out the limits of the cluster at hand."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here: Amounts = {name: float(n) for name, n in ray.cluster_resources().items()}
    total = dict(here)
    kinds: list[Amounts] = [node["Resources"] for node in nodes]
    reported = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    started = _on_head(nodes)
    head = [node["Resources"] for node in nodes if _HEAD in node["Resources"]]
    launched: Counter[str] = Counter(*head)
    for resources, num_nodes in _node_types(started or {}):
        kinds.append(resources)
        launched.update({name: amount * num_nodes for name, amount in resources.items()})
    for most in (reported, launched):
        total |= {name: max(total.get(name, 0.0), float(n)) for name, n in most.items()}
    return Limits(here, len(nodes), total, kinds, is_open=started is None or bool(reported))


def _on_head(nodes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the monitor was started with, or None where there is no monitor."""
    head = next((node["NodeID"] for node in nodes if _HEAD in node["Resources"]), None)
    if head is None:
        return None
    task = ray.remote(_autoscaling_config).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=True)
    )
    found: dict[str, Any] | None = ray.get(task.remote(ray.get_runtime_context().gcs_address))
    return found


def _autoscaling_config(gcs_address: str) -> dict[str, Any] | None:
    import psutil  # type: ignore[import-untyped]  # Ray brings it along

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        options = dict(word.split("=", 1) for word in words if "=" in word)
        is_monitor = any(word.endswith("monitor.py") for word in words)
        if is_monitor and options.get("--gcs-address") == gcs_address:
            file = options.get("--autoscaling-config")
            return yaml.safe_load(Path(file).expanduser().read_text()) if file else {}
    return None


def _node_types(config: dict[str, Any]) -> list[tuple[Amounts, int]]:
    """Resources of each type of node that is launched, and how many there may be of it."""
    most = config.get("max_workers", 2)
    return [
        (kind.get("resources", {}), min(most, kind.get("max_workers", most)))
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type")
    ]
