"""Scorers that fail in the ways that reward models do."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rm_cluster.errors import ConfigError
from rm_cluster.scorers.scorer import EncodedGroup
from rm_cluster.types import Row


class ByteSum:
    """The sum of a completion's bytes; slow on purpose, and fails on words that it is told of."""

    uses_gpu = False

    def __init__(self, seconds: float = 0.0, pids: str = "", fail: str = "") -> None:
        self.contract: dict[str, Any] = {"type": "byte-sum"}
        self.seconds, self.pids, self.fail = seconds, pids, fail

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        groups = []
        for row in rows:
            ids = [
                np.frombuffer(c.encode(), dtype=np.uint8).astype(np.int32)
                for c in row["completions"]
            ]
            groups.append(EncodedGroup(ids, [len(i) for i in ids], [False] * len(ids)))
        return groups

    def load(self, num_threads: int | None = None) -> None:
        if self.fail == "load":
            raise RuntimeError("no memory")
        if self.fail == "weights":
            raise ConfigError("sum lacks a head")
        if self.pids:
            (Path(self.pids) / str(os.getpid())).touch()

    def score_encoded(self, groups: Sequence[Sequence[Any]]) -> list[Any]:
        time.sleep(self.seconds)
        return [np.array([self._reward(ids) for ids in group]) for group in groups]

    def _reward(self, ids: Any) -> float:
        text = bytes(ids.astype(np.uint8)).decode(errors="replace")
        for word in self.fail.split():
            if word in text:
                return self._fail(word, float(ids.sum()))
        return float(ids.sum())

    def _fail(self, word: str, reward: float) -> float:
        if word == "die":
            os._exit(1)
        if word == "nan":
            return float("nan")
        if word != "lost":
            raise ValueError(f"cannot score {word}")
        self._lose_the_gpu()
        return reward

    def _lose_the_gpu(self) -> None:
        """In the first process alone."""
        from rm_cluster.engines import device

        marker = Path(self.pids) / "lost"
        if not marker.exists() or marker.read_text() == str(os.getpid()):
            marker.write_text(str(os.getpid()))
            device.is_lost = lambda: True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class OnGpu(ByteSum):
    """One that asks for a GPU and uses none."""

    uses_gpu = True
