from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rm_cluster

PACKAGE = Path(rm_cluster.__file__).parent

# What each part may import of the others; what is not named here may import everything.
LAYERS = [
    {"errors", "types", "columns"},
    {"config", "parsing", "progress"},
    {
        "benchmarks",
        "scorers",
        "engines",
        "metrics",
        "rewards",
        "downstream",
        "published",
        "sandbox",
    },
    {"best_of_n"},
    {"pairing", "labeling"},
    {"derived", "store", "snapshot", "imported", "versions"},
    {"composition", "judging", "sweeps"},
    {"limits", "resources", "serving", "encoding", "pipeline", "scoring", "preparing"},
    {"measurement"},
    {"record"},
    {"result", "correlation", "candidates", "annotated", "report", "parity", "search_result"},
    {"evaluation", "generation", "annotation"},
    {"searching"},
]
MAY_IMPORT_RAY = {
    "limits.py", "resources.py", "serving.py", "pipeline.py", "scoring.py", "preparing.py",
    "evaluation.py", "generation.py", "tuning.py", "trial.py",
}  # fmt: skip


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows_point_one_way(file: Path) -> None:
    layer_of = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part not in layer_of:
        return
    for name in imports(file):
        if name.startswith("rm_cluster."):
            other = name.split(".")[1]
            assert layer_of.get(other, 0) <= layer_of[part], f"{part} imports {other}"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_ray_stays_out_of_pure_modules(file: Path) -> None:
    uses_ray = any(name.split(".")[0] == "ray" for name in imports(file))
    if str(file.relative_to(PACKAGE)) == "benchmarks/__init__.py":
        return  # load_benchmark imports it when called
    assert not uses_ray or file.name in MAY_IMPORT_RAY


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rm_cluster", ("torch", "ray", "transformers", "pandas")),
        ("import rm_cluster.benchmarks", ("torch", "ray", "transformers")),
        ("import rm_cluster.metrics.table", ("torch", "ray", "transformers", "scipy.stats")),
        ("import rm_cluster; rm_cluster.correlate", ("torch", "ray", "transformers", "sklearn")),
        ("import rm_cluster.best_of_n", ("torch", "ray", "transformers", "scipy.stats", "sklearn")),
        ("import rm_cluster; rm_cluster.Classifier", ("torch", "ray", "transformers")),
        ("import rm_cluster; rm_cluster.doctor", ("torch", "ray", "transformers")),
        ("import rm_cluster; rm_cluster.load_result", ("torch", "ray", "transformers")),
        # every process of every model pays for what these import
        ("import rm_cluster.encoding", ("torch", "ray", "scipy", "rm_cluster.metrics")),
        ("import rm_cluster.pipeline", ("torch", "scipy", "rm_cluster.metrics")),
    ],
)
def test_import_is_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(absent) & set(loaded)
