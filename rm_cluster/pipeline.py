"""The second stage of the pipeline that scores or samples, in actors of Ray Data.

`Score` and `Sample` send requests to the replicas and store the answers.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pyarrow as pa
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from rm_cluster.encoding import Prompt
from rm_cluster.errors import ScoringError
from rm_cluster.scorers.generator import GroupSamples
from rm_cluster.scorers.scorer import GroupRewards
from rm_cluster.serving import DEPLOYMENT
from rm_cluster.store import Store

logger = logging.getLogger(__name__)

MAX_WAIT_S = 10.0


class Score:
    """Sends requests to the replicas, many at a time, and stores each answer as it comes.

    What a dead or draining replica leaves unanswered is sent again, after a wait that grows and has
    jitter. What replicas keep dying with is cut in halves, until the prompt that kills them is
    found: a row that failed. Where other requests fail for the last time, or prompt after prompt
    kills what it meets, that is a `failure` and ends the run.
    """

    def __init__(
        self,
        app: str,
        model: str,
        store: Store,
        max_length: int | None,
        max_in_flight: int,
        max_tries: int,
        max_lost: int,
    ) -> None:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._handle = serve.get_deployment_handle(DEPLOYMENT, app)
        self._store = store
        self._model = model
        self._max_length = max_length
        self._max_tries = max_tries
        self._max_lost = max_lost
        self._slots = asyncio.Semaphore(max_in_flight)
        self._num_lost = 0

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
            return await self._settle(request)

    async def _settle(self, request: list[Prompt]) -> int:
        """Send a request and store the answers; return how often it was sent again."""
        groups = [prompt.group.token_ids for prompt in request if prompt.group.error is None]
        answers, num_retries = await self._send(groups, request[0].first)
        if answers is None:
            # one after the other, so that the half without a killer meets a living replica
            for half in (request[: len(request) // 2], request[len(request) // 2 :]):
                num_retries += await self._settle(half)
            return num_retries
        found = iter(answers)
        rows = [
            self._stored(prompt, next(found) if prompt.group.error is None else None)
            for prompt in request
        ]
        await asyncio.to_thread(self._store.append, rows)
        return num_retries

    async def _send(self, groups: list[Any], first: int) -> tuple[list[Any] | None, int]:
        """Send prompt groups until they are answered; None where replicas die with several."""
        if not groups:
            return [], 0
        num_deaths = 0
        for attempt in range(self._max_tries):
            try:
                answers = await self._ask(groups, first)
                if isinstance(answers, str):  # what kept the replica from loading its model
                    raise ScoringError(answers)
                self._num_lost = 0
                return answers, attempt
            except RayTaskError:
                raise
            except (RayError, RayServeException) as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("%s: sending a request again: %s", self._model, reason)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(MAX_WAIT_S, 0.5 * 2**attempt))
                num_deaths += isinstance(error, RayActorError)
            if len(groups) > 1 and num_deaths >= self._max_tries / 3:
                return None, attempt + 1
        if num_deaths == self._max_tries and self._num_lost < self._max_lost:
            self._num_lost += 1
            return [self._lost(f"{num_deaths} replicas died with it: {reason}")], num_deaths
        raise ScoringError(
            f"{self._model}: a request of {len(groups)} prompts failed {self._max_tries} times: "
            f"{reason}"
        )

    def _ask(self, groups: list[Any], first: int) -> Awaitable[list[Any] | str]:
        """Send a request; `first` is for those that sample."""
        answer: Awaitable[list[GroupRewards] | str] = self._handle.score.remote(groups)
        return answer

    def _lost(self, error: str) -> Any:
        """The answer to a prompt that got none."""
        return GroupRewards(None, error)

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

    def _ask(self, groups: list[Any], first: int) -> Awaitable[list[Any] | str]:
        answer: Awaitable[list[GroupSamples] | str] = self._handle.sample.remote(groups, first)
        return answer

    def _lost(self, error: str) -> Any:
        return GroupSamples(None, error)

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
