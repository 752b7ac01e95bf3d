"""A small world whose truth is known: what the jobs run on when they are given nothing else.

Tasks with exact verifiers (`tasks`), tiny language models trained on them (`base_models`) and
sampled as policies (`policies`), simulated voters (`voters`), reward models trained on their votes
(`reward_models`), and the files that come of it (`ppe`, `outcomes`, `world`). It is built once, in
the user's cache folder, under a key that changes with this package's code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SEED = 1
SEARCHED = (
    "base-m-30000-votes",
    "base-l-30000-votes",
    "base-forum-30000-votes",
    "base-s-12000-votes",
    "base-s-1200-votes",
    "base-m-30000-votes-noise30",
)
"""Reward models of the search: on each base model one, and two poor ones."""


def evaluate_config() -> dict[str, Any]:
    """Return the embedded default of the main job, building its world if there is none yet."""
    world = build()
    models = sorted(path.name for path in (world / "reward_models").iterdir())
    return {
        "reward_models": [
            {"type": "classifier", "name": name, "model": str(world / "reward_models" / name)}
            for name in models
        ]
        + [{"type": "length"}],
        "benchmarks": [{"name": "ppe", "path": str(world / "ppe")}],
        "downstream": str(world / "outcomes.csv"),
    }


def annotate_config() -> dict[str, Any]:
    """Return the embedded default of the annotate job: a pool of samples and a reward model."""
    world = build()
    return {
        "reward_models": [
            {"type": "classifier", "model": str(world / "reward_models" / "base-m-30000-votes")}
        ],
        "candidates": {"name": "pool", "path": str(world / "pool.jsonl")},
    }


def generate_config() -> dict[str, Any]:
    """Return the embedded default of the generate job, building its world if there is none yet."""
    world = build()
    return {
        "policy": {
            "model": str(world / "base_models" / "base-m"),
            "n": 32,
            "max_new_tokens": 24,
            "temperature": 0.9,
            # so small a model is fastest on many texts at a time
            "tokens_per_batch": 16384,
        },
        "prompts": str(world / "prompts.jsonl"),
        "verifier": "rm_cluster.sandbox.tasks:verify_row",
    }


def search_config(pool: str) -> dict[str, Any]:
    """Return the embedded default of the search job, on candidates of `generate_config`.

    Args:
        pool: Where they are.
    """
    world = build()
    return {
        "pool": pool,
        "reward_models": [
            {"type": "classifier", "name": name, "model": str(world / "reward_models" / name)}
            for name in SEARCHED
        ],
        "space": {
            "rules": ["mbr", "rbon_kl", "rbon_wd", "rbon_l", "srbon_kl", "soft_bon"],
        },
    }


def build() -> Path:
    """Return the folder of the sandbox; it appears whole or not at all.

    It holds `ppe/` (the benchmark's files), `outcomes.csv`, `pool.jsonl`, `prompts.jsonl`,
    `base_models/` and `reward_models/`.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rm-cluster"
    world = cache / f"sandbox-{_version()}"
    if world.is_dir():
        return world
    # torch is needed only here
    from rm_cluster.sandbox.world import Plan, build_world

    logger.info("Building the sandbox in %s, once", world)
    cache.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix="sandbox-", dir=cache))
    try:
        build_world(partial, Plan(), SEED)
        partial.rename(world)
    except OSError:
        if not world.is_dir():
            raise
        # another run was faster
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("Built the sandbox in %.0f s", time.monotonic() - began)
    return world


def _version() -> str:
    """A hash of this package's code: another sandbox is built when it changes."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
