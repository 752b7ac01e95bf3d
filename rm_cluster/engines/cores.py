"""The cores of a replica, among which the batches of its requests are shared out.

Operators that split their work among threads wait for the slowest of them, so that a core lost to
other work for a moment is lost to all; and on a cluster there is other work on every node. So each
batch stays on one core, and batches go side by side.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rm_cluster.engines.device import device

T = TypeVar("T")

# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Cores:
    """Threads that compute batches; several callers may share them at a time.

    Args:
        num_threads: Cores to use on a CPU; as many as torch uses if None.
        side_by_side: A batch on each core, which the model must bear; else one batch after the
            other, each on all cores. On a GPU it is always one after the other.
    """

    def __init__(self, num_threads: int | None, *, side_by_side: bool) -> None:
        usual = torch.get_num_threads()
        total = num_threads or usual
        apart = side_by_side and device().type == "cpu"
        num_workers, threads_each = (total, 1) if apart else (1, total)
        if apart:
            _keep_freed_memory()
        all_there = threading.Barrier(num_workers)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first look at the number would undo the next line
            torch.set_num_threads(threads_each)
            all_there.wait()

        self._pool = ThreadPoolExecutor(num_workers, initializer=begin)
        list(self._pool.map(bool, range(num_workers)))
        # it is the number for threads to come, too: leave those of others as they were
        torch.set_num_threads(usual)

    def each(self, function: Callable[[T], None], batches: Iterable[T]) -> None:
        """Call a function on every batch and return when all are done.

        Raises:
            Exception: What the function raised first; batches that had not begun are left out.
        """

        def call(batch: T) -> None:
            with torch.inference_mode():
                function(batch)

        for _ in self._pool.map(call, batches):
            pass


def _keep_freed_memory() -> None:
    """Let glibc keep what one batch frees for the next one.

    It hands large pieces back to the system, which gives them again page by page, each filled with
    zeros first: a tenth of the time of a small model. Pieces beyond 32 MiB still go back: kept ones
    that differ in size add up, and larger models take long enough to compute theirs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not all systems have it
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**25)
