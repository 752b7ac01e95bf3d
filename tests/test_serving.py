from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from rm_cluster.config import ClassifierConfig, LengthConfig, ScoringConfig
from rm_cluster.scorers import AnyModelConfig
from rm_cluster.serving import Replica

GROUPS = [[np.arange(5, 5 + n, dtype=np.int32) for n in (3, 40)]]


def most_at_a_time(config: AnyModelConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of three requests to a replica are inside its model at the same time."""
    replica = Replica(config, ScoringConfig(), 2)
    score = replica._model.score_encoded
    here: list[int] = []
    most: list[int] = []
    together = threading.Event()

    def counted(groups: list[list[np.ndarray]]) -> list[np.ndarray]:
        here.append(1)
        most.append(len(here))
        if len(here) > 1:
            together.set()
        together.wait(2)
        found: list[np.ndarray] = score(groups)
        here.pop()
        return found

    monkeypatch.setattr(replica._model, "score_encoded", counted)

    async def three() -> list[list[float]]:
        return [
            one[0].values for one in await asyncio.gather(*(replica.score(GROUPS) for _ in "abc"))
        ]

    first, second, third = asyncio.run(three())
    assert first == second == third
    return max(most)


def test_two_requests_at_a_time_fill_the_cores(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert most_at_a_time(ClassifierConfig(model=str(tiny_llama)), monkeypatch) == 2


def test_one_request_at_a_time_where_the_model_may_not_bear_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert most_at_a_time(LengthConfig(), monkeypatch) == 1


def test_what_keeps_a_model_from_loading_is_an_answer() -> None:
    # of what a replica raises, Serve would log a hundred lines for every request
    config = ClassifierConfig(model="/no/such/model", name="gone")

    async def ask() -> list[object]:
        replica = Replica(config, ScoringConfig(), 1)
        prompts = [group[:1] for group in GROUPS]
        return [
            await replica.problem(), await replica.score(GROUPS), await replica.sample(prompts, 0)
        ]  # fmt: skip

    told, scored, sampled = asyncio.run(ask())
    assert isinstance(told, str)
    assert "/no/such/model" in told
    assert scored == sampled == told
