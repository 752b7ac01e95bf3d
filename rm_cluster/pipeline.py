"""The two stages of the pipeline that scores or samples; each runs in actors of Ray Data.

`Encode` renders and tokenizes windows of rows and cuts them into requests; `Score` and `Sample`
send requests to the replicas and store the answers.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from rm_cluster.config import ScoringConfig
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.scorers import AnyModelConfig, Generator, build_model
from rm_cluster.scorers.generator import GroupSamples
from rm_cluster.scorers.scorer import EncodedGroup, GroupRewards, Scorer
from rm_cluster.serving import DEPLOYMENT
from rm_cluster.store import Folder, Store

logger = logging.getLogger(__name__)

MAX_WAIT_S = 10.0


class Window(NamedTuple):
    """A file of rows of one benchmark, and which of them are to be measured."""

    benchmark: str
    url: str
    file: str
    positions: list[int]
    first: int = 0
    """The number of the first sample to draw; how many of each prompt are stored."""


class Prompt(NamedTuple):
    """A prompt group on its way to a replica."""

    key: str
    id: str
    benchmark: str
    group: EncodedGroup
    first: int


class Encode:
    """Turns a window of rows into requests: whole prompt groups, alike in length, in token ids."""

    def __init__(
        self, config: AnyModelConfig, scoring: ScoringConfig, built: Scorer | Generator | None
    ) -> None:
        self._model = built or build_model(config, scoring)
        self._tokens_per_request = scoring.tokens_per_request

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for benchmark, url, file, positions, first in zip(
            *(batch[field] for field in Window._fields), strict=True
        ):
            rows = Folder(url).read_table(file).take(positions).to_pylist()
            prompts = [
                Prompt(row["content"], row["id"], benchmark, group, int(first))
                for row, group in zip(rows, self._encode(rows), strict=True)
            ]
            yield {
                "request": [
                    pickle.dumps(request, protocol=5)
                    for request in requests(prompts, self._tokens_per_request)
                ]
            }

    def _encode(self, rows: list[Any]) -> list[EncodedGroup]:
        if isinstance(self._model, Generator):
            return self._model.encode([row["prompt"] for row in rows])
        return self._model.encode(rows)


def requests(prompts: Sequence[Prompt], tokens_per_request: int) -> list[list[Prompt]]:
    """Cut prompts into requests of at most so many tokens, long ones first.

    A larger prompt group is a request of its own; prompts with an error weigh nothing.
    """
    found: list[list[Prompt]] = []
    room = 0
    for prompt in sorted(prompts, key=lambda prompt: -_longest(prompt.group)):
        tokens = sum(map(len, prompt.group.token_ids))
        if found and tokens <= room:
            found[-1].append(prompt)
            room -= tokens
        else:
            found.append([prompt])
            room = tokens_per_request - tokens
    return found


def _longest(group: EncodedGroup) -> int:
    return max(map(len, group.token_ids), default=0)


class Score:
    """Sends requests to the replicas, many at a time, and stores each answer as it comes.

    What a dead or draining replica leaves unanswered is sent again, after a wait that grows and has
    jitter; what fails for the last time is a `failure` that ends the run.
    """

    def __init__(
        self,
        app: str,
        model: str,
        store: Store,
        max_length: int | None,
        max_in_flight: int,
        max_tries: int,
    ) -> None:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._handle = serve.get_deployment_handle(DEPLOYMENT, app)
        self._store = store
        self._model = model
        self._max_length = max_length
        self._max_tries = max_tries
        self._slots = asyncio.Semaphore(max_in_flight)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[dict[str, list[Any]]]:
        requests = [pickle.loads(request) for request in batch["request"].to_pylist()]
        tasks = [asyncio.create_task(self._measure(request)) for request in requests]
        for request, task in zip(requests, tasks, strict=True):
            num_retries, failure = 0, ""
            try:
                num_retries = await task
            except ScoringError as error:
                failure = str(error)  # for the driver to raise: Ray Data would bury it in its own
            yield {
                "num_prompts": [len(request)],
                "num_retries": [num_retries],
                "failure": [failure],
            }

    async def _measure(self, request: list[Prompt]) -> int:
        async with self._slots:
            encoded = [prompt.group for prompt in request if prompt.group.error is None]
            groups = [group.token_ids for group in encoded]
            answers, num_retries = await self._send(groups, request[0].first)
            found = iter(answers)
            rows = [
                self._stored(prompt, next(found) if prompt.group.error is None else None)
                for prompt in request
            ]
            await asyncio.to_thread(self._store.append, rows)
        return num_retries

    async def _send(self, groups: list[Any], first: int) -> tuple[list[Any], int]:
        if not groups:
            return [], 0
        for attempt in range(self._max_tries):
            try:
                return await self._ask(groups, first), attempt
            except RayTaskError as error:
                if isinstance(error.cause, ConfigError):  # of a replica that could not load
                    raise ScoringError(str(error.cause)) from None
                raise
            except (RayError, RayServeException) as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("%s: sending a request again: %s", self._model, reason)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(MAX_WAIT_S, 0.5 * 2**attempt))
        raise ScoringError(
            f"{self._model}: a request of {len(groups)} prompts failed {self._max_tries} times: "
            f"{reason}"
        )

    def _ask(self, groups: list[Any], first: int) -> Awaitable[list[Any]]:
        """Send a request; `first` is for those that sample."""
        answer: Awaitable[list[GroupRewards]] = self._handle.score.remote(groups)
        return answer

    def _stored(self, prompt: Prompt, rewards: GroupRewards | None) -> dict[str, Any]:
        """The row to store; what could not be encoded has no rewards."""
        return {
            "key": prompt.key,
            "id": prompt.id,
            "benchmark": prompt.benchmark,
            "model": self._model,
            "values": rewards.values if rewards else None,
            "num_tokens": prompt.group.num_tokens,
            "truncated": prompt.group.truncated,
            "max_length": self._max_length,
            "error": rewards.error if rewards else prompt.group.error,
        }


class Sample(Score):
    """Sends prompts to the replicas of a policy, and stores the completions."""

    def _ask(self, groups: list[Any], first: int) -> Awaitable[list[Any]]:
        answer: Awaitable[list[GroupSamples]] = self._handle.sample.remote(groups, first)
        return answer

    def _stored(self, prompt: Prompt, samples: Any) -> dict[str, Any]:
        completions = (samples.completions if samples else None) or []
        return {
            "key": prompt.key,
            "id": prompt.id,
            "benchmark": prompt.benchmark,
            "model": self._model,
            "first": prompt.first,
            "completions": [completion.text for completion in completions],
            "num_tokens": [completion.num_tokens for completion in completions],
            "logprobs": [completion.logprob for completion in completions],
            "ended": [completion.ended for completion in completions],
            "error": samples.error if samples else prompt.group.error,
        }
