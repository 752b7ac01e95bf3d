"""A Ray head as `ray start --head` makes it, beside whatever else runs here."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # a cluster of its own, whose driver and workers find the scorers of these tests
    return {**kept, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT), **more}


def wait_until(true: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} took longer than {seconds} s"
        time.sleep(0.1)


@contextlib.contextmanager
def ray_head(*options: str, port: int = 0, **changes: str) -> Iterator[dict[str, str]]:
    """Start one, with `changes` to its environment, and yield the environment of its clients."""
    with contextlib.ExitStack() as open_probes:
        probes = [open_probes.enter_context(socket.socket()) for _ in range(4)]
        for probe, wanted in zip(probes, (port, 0, 0, 0), strict=True):
            probe.bind(("127.0.0.1", wanted))
        port, dashboard, agent, client = (probe.getsockname()[1] for probe in probes)
    clients = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{dashboard}",
        RAY_ADDRESS=f"127.0.0.1:{port}",
    )
    # in a folder of its own, so that no other driver takes it for the machine's cluster
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    start = f"start --head --block --num-cpus=2 --object-store-memory=500000000 --port={port}"
    # the agent's port is a fixed one by default, which another cluster here may have taken
    start += f" --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}"
    start += f" --ray-client-server-port={client} --disable-usage-stats --temp-dir={folder}"
    starting = {name: value for name, value in clients.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [*RAY, *start.split(), *options],
        env=starting | changes,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_up() -> bool:
        trial = [sys.executable, "-c", "import ray; ray.init()"]
        return subprocess.run(trial, env=clients, capture_output=True, check=False).returncode == 0

    try:
        wait_until(is_up, "the head")
        yield clients
    finally:
        # the whole group: `ray start` ends without its children, `ray stop` ends others' too
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        # nodes that an autoscaler launched are in groups of their own
        for one in psutil.process_iter(["cmdline"]):
            if any(folder in word for word in one.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        shutil.rmtree(folder, ignore_errors=True)
