"""Which versions ran, for the record of a run."""

from __future__ import annotations

import importlib.metadata
import platform

from rm_cluster.engines import vllm_arguments

_PACKAGES = (
    "rm-cluster",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "scikit-learn",
    "altair",
)


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of Python and of packages, vLLM among them; None for what is not installed."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in packages or _PACKAGES},
        "vllm": vllm_arguments.version(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
