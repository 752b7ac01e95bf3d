"""How far one driver reaches: replicas kept busy, memory at a million pairs, cost per request.

    python bench/scale.py [replicas=1,2,4,8,16,32,64] [service_s=2] [requests_per_replica=20]
                          [pairs=10000,100000,1000000]

The reward model is a sleep of `service_s` per request, so that any number of replicas fits on any
machine and what is measured is Ray and this package alone, through the whole job: Ray Data, Serve
and the score store. Replicas note when they serve. `busy` is the share of their time that goes into
serving while there is work for all: from when the last one has its first request to when no more
than two requests for each are left to begin. What is missing are gaps that the driver, the callers
or the control plane left, `gap_ms` from one request of a replica to its next. `busy_overall` is
from the first request to the last answer, with the time in which replicas still start and the last
ones end. `cpu_ms_per_request` is what each kind of process took from the first answer to the last,
so that the next bottleneck can be read off: a process reaches one core at 1000 divided by its own,
and the node when their sum times the requests per second is what it has. Then `length` scores
growing sets, each in a process and on a Ray of its own, and the memory of the driver and of the
largest worker is watched while it scores; the driver's is told for the whole job, too, in which it
reads every reward for the metrics. No other Ray may run on the machine. Writes
`bench/results/scale.json`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from options import read_options

import rm_cluster as rmc
from rm_cluster.scorers.scorer import EncodedGroup
from rm_cluster.types import Row

WATCH_EVERY_S = 0.2
KINDS = {
    "replicas": b"ray::ServeReplica",
    "senders": b"ray::MapWorker(MapBatches(Score",
    "encoders": b"ray::MapWorker(MapBatches(Encode",
    "controller": b"ray::ServeController",
    "raylet": b"/raylet/raylet",
    "gcs": b"/gcs_server",
}
"""Parts of the command lines that Ray gives its processes."""


class Sleeper:
    """Takes a fixed time for every request, and gives every completion the same reward."""

    uses_gpu = False

    def __init__(self, service_s: float, notes: str) -> None:
        self.contract = {"type": "sleeper", "service_s": service_s}
        self._service_s = service_s
        self._notes = Path(notes) / f"{os.getpid()}.txt"

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        ids = np.zeros(64, dtype=np.int32)
        return [EncodedGroup([ids, ids], [64, 64], [False, False]) for _ in rows]

    def load(self, num_threads: int | None = None) -> None:
        pass

    def score_encoded(self, groups: Sequence[Sequence[Any]]) -> list[Any]:
        start = time.time()
        time.sleep(self._service_s)
        with self._notes.open("a") as stream:
            stream.write(f"{start} {time.time()}\n")
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
    notes = folder / f"notes-{num_replicas}"
    notes.mkdir()
    options = {"service_s": service_s, "notes": str(notes)}
    config = {
        "reward_models": [{"type": "scale:Sleeper", "name": "sleeper", "options": options}],
        "benchmarks": [{"name": "pairs", "path": str(data)}],
        "serving": {
            "min_replicas": num_replicas,
            "max_replicas": num_replicas,
            "num_cpus": 0.01,
        },
        "scoring": {"tokens_per_request": 64},
        "output_dir": str(folder / f"replicas-{num_replicas}"),
    }
    with Watch() as watch:
        result = rmc.evaluate(config)
    served = [np.loadtxt(file, ndmin=2) for file in notes.iterdir()]
    requests = np.concatenate(served)
    first, last = requests[:, 1].min(), requests[:, 1].max()
    used = watch.cpu_seconds(first, last)
    found = {
        "replicas": len(served),
        "requests": len(requests),
        "service_s": service_s,
        **usage(served),
        "cpu_ms_per_request": {
            kind: round(1000 * seconds / len(requests), 2) for kind, seconds in used.items()
        },
        "cores_used": round(sum(used.values()) / (last - first), 2),
        "whole_job_s": result.run["seconds"],
    }
    print(json.dumps(found), flush=True)
    return found


def usage(served: Sequence[Any]) -> dict[str, Any]:
    """Shares of time that replicas serve, and what passes between their requests.

    Args:
        served: Of each replica, [R, 2] when each request began and ended, in seconds.
    """
    requests = np.concatenate(served)
    start, end = requests[:, 0].min(), requests[:, 1].max()
    all_busy = max(spans[0, 0] for spans in served)
    # one replica may run out of work when others have some left
    enough = np.sort(requests[:, 0])[-2 * len(served)]
    inside = np.clip(requests, all_busy, enough)
    served_s = (inside[:, 1] - inside[:, 0]).sum()
    steady_s = enough - all_busy
    ended = (requests[:, 1] >= all_busy) & (requests[:, 1] < enough)
    nexts = np.concatenate([np.stack([its[:-1, 1], its[1:, 0]], axis=1) for its in served])
    gaps = np.diff(nexts[(nexts[:, 0] >= all_busy) & (nexts[:, 1] < enough)])
    gap_ms = 1000 * np.quantile(gaps, (0.5, 0.95, 1.0))
    whole = (requests[:, 1] - requests[:, 0]).sum() / (len(served) * (end - start))
    return {
        "steady_s": round(steady_s, 2),
        "busy": round(served_s / (len(served) * steady_s), 4),
        "busy_overall": round(whole, 4),
        "requests_per_s": round(ended.sum() / steady_s, 1),
        "gap_ms": dict(zip(("median", "p95", "max"), gap_ms.round(1), strict=True)),
    }


class Watch(threading.Thread):
    """Looks at every process of the job until it is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._done = threading.Event()
        self._taken: dict[tuple[str, int], float] = defaultdict(float)
        """CPU seconds of each process, of those that have ended, too."""
        self.looks: list[tuple[float, dict[str, float], dict[str, float]]] = []
        """The time of each look, CPU seconds so far, and resident MB of the largest, by kind."""

    def run(self) -> None:
        while not self._done.wait(WATCH_EVERY_S):
            seconds: dict[str, float] = defaultdict(float)
            largest: dict[str, float] = defaultdict(float)
            for kind, pid in processes():
                self._taken[kind, pid] = max(self._taken[kind, pid], cpu_seconds(pid))
                largest[kind] = max(largest[kind], resident_mb(pid))
            for (kind, _), taken in self._taken.items():
                seconds[kind] += taken
            self.looks.append((time.time(), seconds, largest))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def cpu_seconds(self, start: float, end: float) -> dict[str, float]:
        """Of each kind of process between two times."""
        first = min(self.looks, key=lambda look: abs(look[0] - start))[1]
        last = min(self.looks, key=lambda look: abs(look[0] - end))[1]
        return {kind: last[kind] - first[kind] for kind in (*KINDS, "driver")}

    def peak_mb(self, kinds: Sequence[str], end: float = math.inf) -> float:
        """Of the largest process of these kinds."""
        return max(look[2][kind] for look in self.looks for kind in kinds if look[0] <= end)


def processes() -> Iterator[tuple[str, int]]:
    """Kind and process id of all that takes part."""
    yield "driver", os.getpid()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            for kind, part in KINDS.items():
                if part in command:
                    yield kind, int(folder.name)


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def score_many(folder: Path, num_pairs: int) -> dict[str, Any]:
    data = write_pairs(folder / f"{num_pairs}.jsonl", num_pairs)
    out = folder / f"pairs-{num_pairs}"
    config = {
        "reward_models": [{"type": "length"}],
        "benchmarks": [{"name": "pairs", "path": str(data)}],
        "output_dir": str(out),
    }
    started = time.time()
    with Watch() as watch:
        result = rmc.evaluate(config)
    seconds = result.run["reward_models"]["length"]["seconds"]
    scored = max(file.stat().st_mtime for file in (out / "rewards").rglob("*.parquet"))
    found = {
        "pairs": num_pairs,
        "scoring_s": seconds,
        "pairs_per_s": round(num_pairs / seconds),
        "whole_job_s": round(time.time() - started, 1),
        "driver_mb": round(watch.peak_mb(["driver"], scored), 1),
        "largest_worker_mb": round(watch.peak_mb(["senders", "encoders", "replicas"]), 1),
        "driver_with_metrics_mb": round(watch.peak_mb(["driver"]), 1),
    }
    print(json.dumps(found), flush=True)
    return found


@contextlib.contextmanager
def own_ray() -> Iterator[Path]:
    """A Ray and a folder that go again."""
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    ray.init(
        address="local",
        object_store_memory=500_000_000,
        configure_logging=False,
        include_dashboard=False,
    )
    try:
        yield folder
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


def alone(num_pairs: int) -> None:
    """`score_many` in this process and on a Ray of its own."""
    with own_ray() as folder:
        score_many(folder, num_pairs)


def score_in_a_process(num_pairs: int) -> dict[str, Any]:
    """`alone` in a process that has done nothing else, whose memory is its own."""
    run = f"import scale; scale.alone({num_pairs})"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    options = read_options("replicas", "service_s", "requests_per_replica", "pairs")
    replicas = [int(n) for n in options.get("replicas", "1,2,4,8,16,32,64").split(",") if n]
    service_s = float(options.get("service_s", 2))
    per_replica = int(options.get("requests_per_replica", 20))
    pairs = [int(n) for n in options.get("pairs", "10000,100000,1000000").split(",") if n]
    if per_replica < 4:
        sys.exit(
            "requests_per_replica must be 4 or more: the first and the last two are not timed."
        )
    busy = []
    if replicas:
        with own_ray() as folder:
            busy = [keep_busy(folder, n, service_s, per_replica * n) for n in replicas]
    result = {
        "replicas": busy,
        "memory": [score_in_a_process(n) for n in pairs],
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, ray {ray.__version__}",
    }
    target = Path(__file__).parent / "results" / "scale.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    # a part that was not asked for stays
    result = {key: value or known.get(key, value) for key, value in result.items()}
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
