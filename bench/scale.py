"""How far one driver reaches: replicas kept busy, memory at a million pairs, cost per request.

    python bench/scale.py [replicas=1,2,4,8,16] [service_s=0.5] [requests_per_replica=30]
                          [pairs=10000,100000]

The reward model is a sleep of `service_s` per request, so that any number of replicas fits on any
machine and what is measured is Ray and this package alone, through the whole job: Ray Data, Serve
and the score store. `busy` is the share of the replicas' time, from the first to the last stored
answer, that went into serving; what is missing are gaps that the driver, the callers or the control
plane left. Then `length` scores sets of growing size, and the memory of the driver and of the
largest worker is watched. Writes `bench/results/scale.json`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

import rm_cluster as rmc
from rm_cluster.scorers.scorer import EncodedGroup
from rm_cluster.types import Row

WATCH_EVERY_S = 0.2


class Sleeper:
    """Takes a fixed time for every request, and gives every completion the same reward."""

    uses_gpu = False

    def __init__(self, service_s: float) -> None:
        self.contract = {"type": "sleeper", "service_s": service_s}
        self._service_s = service_s

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        ids = np.zeros(64, dtype=np.int32)
        return [EncodedGroup([ids, ids], [64, 64], [False, False]) for _ in rows]

    def load(self, num_threads: int | None = None) -> None:
        pass

    def score_encoded(self, groups: Sequence[Sequence[Any]]) -> list[Any]:
        time.sleep(self._service_s)
        return [np.zeros(len(group)) for group in groups]


def write_pairs(file: Path, num_pairs: int) -> Path:
    with file.open("w") as stream:
        for i in range(num_pairs):
            row = {"prompt": f"Prompt {i}", "chosen": f"A reply to {i}.", "rejected": f"Not {i}."}
            stream.write(json.dumps(row) + "\n")
    return file


def keep_busy(folder: Path, num_replicas: int, service_s: float, num_requests: int) -> Any:
    """Score `num_requests` prompts, one to a request, on so many replicas."""
    data = write_pairs(folder / "pairs.jsonl", num_requests)
    out = folder / f"replicas-{num_replicas}"
    sleeper = {"type": "scale:Sleeper", "name": "sleeper", "options": {"service_s": service_s}}
    result = rmc.evaluate(
        {
            "reward_models": [sleeper],
            "benchmarks": [{"name": "pairs", "path": str(data)}],
            "serving": {
                "min_replicas": num_replicas,
                "max_replicas": num_replicas,
                "num_cpus": 0.01,
            },
            "scoring": {"tokens_per_request": 128},
            "output_dir": str(out),
        }
    )
    # a file appears with every answer
    ends = sorted(file.stat().st_mtime for file in (out / "rewards").rglob("*.parquet"))
    steady_s = ends[-1] - ends[0] + service_s
    capacity = num_replicas * steady_s
    return {
        "replicas": num_replicas,
        "requests": len(ends),
        "service_s": service_s,
        "steady_s": round(steady_s, 2),
        "busy": round(len(ends) * service_s / capacity, 4),
        "requests_per_s": round(len(ends) / steady_s, 1),
        "lost_ms_per_request": round(1000 * (capacity / len(ends) - service_s), 1),
        "whole_job_s": result.run["seconds"],
    }


def watch(job: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run a job; return what it returns, and the peaks of memory while it scored, in MB."""
    peaks = {"driver_mb": 0.0, "largest_worker_mb": 0.0}
    done = threading.Event()

    def look() -> None:
        while not done.wait(WATCH_EVERY_S):
            peaks["driver_mb"] = max(peaks["driver_mb"], resident_mb(os.getpid()))
            workers = map(resident_mb, map_workers())
            peaks["largest_worker_mb"] = max(peaks["largest_worker_mb"], *workers, 0.0)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        result = job()
    finally:
        done.set()
        watcher.join()
    return result, {name: round(peak, 1) for name, peak in peaks.items()}


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def map_workers() -> list[int]:
    """Process ids of Ray Data's actors, by the title that Ray gives them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::MapWorker"):
                found.append(int(folder.name))
    return found


def score_many(folder: Path, num_pairs: int) -> dict[str, Any]:
    data = write_pairs(folder / f"{num_pairs}.jsonl", num_pairs)
    started = time.monotonic()
    result, peaks = watch(
        lambda: rmc.evaluate(
            {
                "reward_models": [{"type": "length"}],
                "benchmarks": [{"name": "pairs", "path": str(data)}],
                "output_dir": str(folder / f"pairs-{num_pairs}"),
            }
        )
    )
    seconds = result.run["reward_models"]["length"]["seconds"]
    return {
        "pairs": num_pairs,
        "scoring_s": seconds,
        "pairs_per_s": round(num_pairs / seconds),
        "whole_job_s": round(time.monotonic() - started, 1),
        **peaks,
    }


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    replicas = [int(n) for n in options.get("replicas", "1,2,4,8,16").split(",") if n]
    service_s = float(options.get("service_s", 0.5))
    per_replica = int(options.get("requests_per_replica", 30))
    pairs = [int(n) for n in options.get("pairs", "10000,100000").split(",") if n]
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    ray.init(address="local", object_store_memory=500_000_000, configure_logging=False)
    try:
        result = {
            "replicas": [keep_busy(folder, n, service_s, per_replica * n) for n in replicas],
            "memory": [score_many(folder, n) for n in pairs],
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, ray {ray.__version__}",
        }
    finally:
        ray.shutdown()
        shutil.rmtree(folder)
    target = Path(__file__).parent / "results" / "scale.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
