from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rm_cluster.config import ClassifierConfig, LogprobConfig
from rm_cluster.engines.cores import Cores
from rm_cluster.engines.torch_engine import ClassifierEngine, LogprobEngine
from tests.families import CAUSAL, save_family
from tests.models import tokenizer


def texts(seed: int, num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(5, 90, size=rng.integers(1, 60)).astype(np.int32)
        for _ in range(num)
    ]  # fmt: skip


@pytest.mark.parametrize(("side_by_side", "threads"), [(True, 1), (False, 3)])
def test_a_batch_has_one_core_or_all(side_by_side: bool, threads: int) -> None:
    usual = torch.get_num_threads()
    seen: list[tuple[str, int]] = []
    cores = Cores(3, side_by_side=side_by_side)
    cores.each(
        lambda _: seen.append((threading.current_thread().name, torch.get_num_threads())), range(30)
    )
    assert {number for _, number in seen} == {threads}
    assert len({name for name, _ in seen}) <= (3 if side_by_side else 1)
    assert len(seen) == 30
    # neither this thread nor those to come are changed by it
    assert torch.get_num_threads() == usual
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == usual


def test_batches_go_side_by_side() -> None:
    meet = threading.Barrier(2, timeout=60)
    Cores(2, side_by_side=True).each(lambda _: meet.wait(), range(2))


def test_the_first_error_is_raised() -> None:
    def fail(batch: int) -> None:
        raise ValueError(f"batch {batch}")

    cores = Cores(2, side_by_side=True)
    with pytest.raises(ValueError, match="batch 0"):
        cores.each(fail, range(5))
    cores.each(lambda _: None, range(5))


def test_two_callers_at_a_time_get_what_one_gets(tiny_llama: Path, tmp_path: Path) -> None:
    lm = save_family("Qwen3", tmp_path / "lm", tokenizer(), CAUSAL)
    classifier = ClassifierEngine(
        ClassifierConfig(model=str(tiny_llama), tokens_per_batch=100), "float32", num_threads=3
    )
    logprob = LogprobEngine(
        LogprobConfig(model=str(lm), tokens_per_batch=100), "float32", num_threads=3
    )
    sets = [texts(seed, 40) for seed in range(8)]
    alone = [
        (classifier.rewards(one), logprob.logprobs(one, [1] * len(one))) for one in sets
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as callers:
        rewards = list(callers.map(classifier.rewards, sets))
        sums = list(callers.map(lambda one: logprob.logprobs(one, [1] * len(one)), sets))
    for (reward, total), again, other in zip(alone, rewards, sums, strict=True):
        np.testing.assert_array_equal(again, reward)
        np.testing.assert_array_equal(other, total)
