from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


def test_cluster_yaml_fits_rays_schema() -> None:
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(cluster))
    assert cluster["available_node_types"]["gpu"]["min_workers"] == 0


def test_versions_agree_everywhere() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    assert pins["ray"] in (ROOT / "cluster.yaml").read_text()
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]
