"""What replicas may ask for: of clusters that are what they are, and of those that grow."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import rm_cluster as rmc
from rm_cluster import resources
from rm_cluster.config import ServingConfig
from rm_cluster.errors import ConfigError
from rm_cluster.limits import Limits, cluster_limits
from rm_cluster.resources import resolve
from tests.ray_head import ROOT, ray_head

FAKE = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 1,
    "provider": {
        "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    # what `ray up` would fill in
    "upscaling_speed": 1.0, "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [],
    "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
    "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 200_000_000},
            "node_config": {}, "min_workers": 0, "max_workers": 2,
        },
    },
}  # fmt: skip


def limits(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], is_open: bool) -> None:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    found = Limits(total, len(nodes), total, list(nodes), is_open)
    monkeypatch.setattr(resources, "cluster_limits", lambda: found)


def test_a_replica_that_fits_no_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, {"CPU": 4}, {"CPU": 4}, {"CPU": 8, "GPU": 1}, is_open=False)
    with pytest.raises(ConfigError, match="needs 10 CPUs, which no single node"):
        resolve(ServingConfig(num_cpus=10, num_gpus=0), uses_gpu=False)
    with pytest.raises(ConfigError, match="cannot get more"):
        resolve(ServingConfig(num_gpus=2), uses_gpu=True)
    assert resolve(ServingConfig(num_cpus=8, num_gpus=0), uses_gpu=False).num_cpus == 8


def test_where_more_may_come_what_was_asked_for_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits(monkeypatch, {"CPU": 4}, is_open=True)
    found = resolve(ServingConfig(num_gpus=1, max_replicas=8), uses_gpu=True)
    assert (found.max_replicas, found.num_gpus) == (8, 1)
    assert "needs 1 CPUs, 1 GPUs, which no node has" in caplog.text
    assert resolve(ServingConfig(), uses_gpu=True).num_gpus == 0


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_local_cluster_is_what_it_is() -> None:
    found = cluster_limits()
    assert not found.is_open
    assert found.total == found.here
    assert found.num_nodes == len(found.kinds) == 1


@pytest.mark.ray
def test_gpu_nodes_come_when_replicas_ask_for_them(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    record = {"prompt": "p", "chosen": "longer", "rejected": "short"}
    data.write_text(json.dumps(record) + "\n")
    config: dict[str, Any] = {
        "reward_models": [{"type": "tests.scorers:OnGpu", "name": "gpu"}],
        "benchmarks": [str(data)],
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(FAKE))
    with contextlib.ExitStack() as stack:
        try:
            clients = stack.enter_context(
                ray_head(
                    f"--autoscaling-config={cluster}",
                    port=6379,  # the only one at which the provider's nodes look for their head
                    AUTOSCALER_UPDATE_INTERVAL_S="1",
                    RAY_FAKE_CLUSTER="1",
                )
            )
        except OSError:
            pytest.skip("another Ray head is on its port")
        done = subprocess.run(
            [sys.executable, "jobs/evaluate.py", str(tmp_path / "config.yaml")],
            cwd=ROOT, env=clients, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    about = rmc.load_result(str(tmp_path / "out")).run["reward_models"]["gpu"]
    assert about["resources"]["num_gpus"] == 1
    assert about["resources"]["max_replicas"] == 2
