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


def versions() -> dict[str, str | None]:
    """What ran: Python and the packages that decide the numbers; None for what is not installed."""
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        "vllm": vllm_arguments.version(),
    }
