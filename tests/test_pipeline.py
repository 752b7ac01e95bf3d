"""The sender apart from Ray: what it does when replicas die."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from rm_cluster.encoding import Prompt
from rm_cluster.pipeline import Score
from rm_cluster.scorers.scorer import EncodedGroup, GroupRewards
from rm_cluster.store import RewardStore

KILLER, BROKEN = 13, 7


def prompt(number: int, token: int) -> Prompt:
    error = "too long" if token == BROKEN else None
    ids = [np.array([token], dtype=np.int32)]
    group = EncodedGroup(ids, [1], [False], error)
    return Prompt(f"key {number}", str(number), "mine", group, 0)


class Replicas:
    """Answers a token with itself, unless `kills` says that a request ends who takes it."""

    def __init__(self, kills: Callable[[list[int]], bool]) -> None:
        self.kills = kills
        self.num_deaths = 0
        self.score = SimpleNamespace(remote=self.answer)

    async def answer(self, groups: list[list[Any]]) -> list[GroupRewards]:
        tokens = [int(group[0][0]) for group in groups]
        if self.kills(tokens):
            self.num_deaths += 1
            raise ActorDiedError()
        return [GroupRewards([float(token)]) for token in tokens]


def send(
    replicas: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *requests: list[Prompt]
) -> tuple[list[dict[str, list[Any]]], dict[str, Any]]:
    """What is told of each request, and the error or reward stored of each prompt."""

    async def no_time(seconds: float) -> None:
        await yielding(0)

    yielding = asyncio.sleep
    monkeypatch.setattr("rm_cluster.pipeline.asyncio.sleep", no_time)
    monkeypatch.setattr("rm_cluster.pipeline.serve.get_deployment_handle", lambda *_: replicas)
    store = RewardStore(str(folder), "contract")

    async def run() -> list[dict[str, list[Any]]]:
        stage = Score("app", "model", store, None, 4, 8, 3)
        table = pa.table({"request": [pickle.dumps(request) for request in requests]})
        return [told async for told in stage(table)]

    told = asyncio.run(run())
    files = sorted(folder.rglob("*.parquet"))
    rows = [row for file in files for row in pa.parquet.read_table(file).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows), "stored once"
    return told, {row["id"]: row["error"] or row["values"][0] for row in rows}


@pytest.mark.parametrize("place", [0, 5, 31, 32, 63])
def test_a_killer_is_found_and_the_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    request = [prompt(i, 100 + i) for i in range(64)]
    request[place] = prompt(place, KILLER)
    request[40] = prompt(40, BROKEN)
    replicas = Replicas(lambda tokens: KILLER in tokens)
    (told,), stored = send(replicas, tmp_path, monkeypatch, request)
    assert told["failure"] == [""]
    assert told["num_prompts"] == [64]
    died = "8 replicas died with it: ActorDiedError: "
    assert stored.pop(str(place)).startswith(died)
    assert stored.pop("40") == "too long"
    assert stored == {str(i): 100.0 + i for i in range(64) if i not in (place, 40)}
    # three together, of 64, 32, 16, 8, 4 and 2, and eight alone
    assert told["num_retries"] == [replicas.num_deaths] == [6 * 3 + 8]


def test_what_dies_for_another_reason_is_answered_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = Replicas(lambda tokens: replicas.num_deaths < 7)
    (told,), stored = send(replicas, tmp_path, monkeypatch, [prompt(0, 100)])
    assert (told["failure"], told["num_retries"]) == ([""], [7])
    assert stored == {"0": 100.0}


def test_many_killers_end_the_run_unless_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killers = [[prompt(i, KILLER)] for i in range(4)]
    replicas = Replicas(lambda tokens: KILLER in tokens)
    told, stored = send(replicas, tmp_path / "a", monkeypatch, *killers)
    (failure,) = (one["failure"][0] for one in told if one["failure"][0])
    assert failure.startswith("model: a request of 1 prompts failed 8 times: ActorDiedError")
    assert len(stored) == 3
    mixed = [prompt(i, KILLER if i % 4 else 100) for i in range(16)]
    (whole,), stored = send(replicas, tmp_path / "b", monkeypatch, mixed)
    assert whole["failure"] == [""]
    assert {i for i, found in stored.items() if found == 100.0} == {"0", "4", "8", "12"}
    assert len(stored) == 16


def test_a_model_that_cannot_be_loaded_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def tell(groups: list[Any]) -> str:
        asked.append(groups)
        return "m lacks a head"

    replicas = SimpleNamespace(score=SimpleNamespace(remote=tell))
    (told,), stored = send(replicas, tmp_path, monkeypatch, [prompt(0, 100), prompt(1, 101)])
    assert (told["failure"], len(asked), stored) == (["m lacks a head"], 1, {})


def test_a_cluster_that_takes_no_requests_is_nobodys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(groups: list[Any]) -> None:
        raise BackPressureError(1, 1)

    replicas = SimpleNamespace(score=SimpleNamespace(remote=refuse))
    (told,), stored = send(replicas, tmp_path, monkeypatch, [prompt(0, 100), prompt(1, 101)])
    assert told["failure"][0].startswith("model: a request of 2 prompts failed 8 times: ")
    assert stored == {}
