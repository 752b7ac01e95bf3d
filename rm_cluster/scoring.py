"""Ray Data streams windows of rows through a Serve app into the score store.

    windows -> Encode (render, tokenize, sort by length, cut into requests) -> Score (send, store)

A window is a file of rows, so that neither the driver nor a caller ever holds more than a few. What
is stored is taken out by the driver before anything is sent.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.util.debug import log_once

from rm_cluster.config import EvaluateConfig, ScoringConfig
from rm_cluster.errors import ScoringError
from rm_cluster.progress import progress_bar
from rm_cluster.scorers import AnyScorerConfig, build_scorer
from rm_cluster.scorers.scorer import EncodedGroup, GroupRewards, Scorer, contract_id
from rm_cluster.serving import DEPLOYMENT, Resources, deployed, resolve
from rm_cluster.snapshot import Snapshot
from rm_cluster.store import Folder, RewardStore, StoredRewards

logger = logging.getLogger(__name__)

MAX_TRIES = 8
MAX_WAIT_S = 10.0
_REQUESTS_PER_BLOCK = 4


class Window(NamedTuple):
    """A file of rows of one benchmark, and which of them are to be measured."""

    benchmark: str
    url: str
    file: str
    positions: list[int]


class Prompt(NamedTuple):
    """A prompt group on its way to a replica."""

    key: str
    id: str
    benchmark: str
    group: EncodedGroup


class Measured(NamedTuple):
    """What the scoring of one reward model came to, in prompts and seconds."""

    num_stored: int
    num_scored: int
    num_requests: int
    num_retries: int
    seconds: float
    resources: Resources | None


def score(
    config: AnyScorerConfig, scorer: Scorer, snapshots: Sequence[Snapshot], run: EvaluateConfig
) -> Measured:
    """Measure whatever the store lacks of one reward model on all benchmarks.

    Raises:
        ConfigError: The model cannot be loaded.
        ScoringError: No replica came up, or a request failed on `MAX_TRIES` replicas.
    """
    started = time.monotonic()
    store = RewardStore(run.output_dir, contract_id(scorer.contract))
    windows, num_missing = _missing(snapshots, stored_rewards(run, scorer))
    num_stored = sum(snapshot.num_rows for snapshot in snapshots) - num_missing
    logger.info("%s: %d prompts stored, %d to score", config.name, num_stored, num_missing)
    if not windows:
        return Measured(num_stored, 0, 0, 0, time.monotonic() - started, None)
    resources = resolve(run.serving, uses_gpu=scorer.uses_gpu)
    num_requests = num_retries = 0
    with (
        deployed(config, run.scoring, run.serving, resources) as app,
        progress_bar(num_missing, config.name, "prompt") as progress,
    ):
        for batch in _stream(config, windows, app, store, scorer, resources, run):
            for failure in filter(None, batch["failure"]):
                raise ScoringError(
                    f"{failure}\nWhat was scored is stored in {run.output_dir}; run again to go on."
                )
            num_requests += len(batch["num_prompts"])
            num_retries += int(batch["num_retries"].sum())
            progress.set_postfix(requests=num_requests, retries=num_retries, refresh=False)
            progress.update(int(batch["num_prompts"].sum()))
    return Measured(
        num_stored, num_missing, num_requests, num_retries, time.monotonic() - started, resources
    )


def _stream(
    config: AnyScorerConfig,
    windows: Sequence[Window],
    app: str,
    store: RewardStore,
    scorer: Scorer,
    resources: Resources,
    run: EvaluateConfig,
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Run the pipeline, yielding counts of what has been stored."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # prompts say more than blocks do
    log_once("ray_data_progress_manager_disabled")  # so Ray Data need not say so
    # an encoder's memory is its imports, not its data; there is nothing to heed in that warning
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    # a block of a few requests: they spread over the senders, and progress shows as they are done
    context.target_max_block_size = _REQUESTS_PER_BLOCK * run.scoring.tokens_per_request * 4
    max_in_flight = int(1.5 * resources.max_replicas * run.serving.max_ongoing_requests) + 1
    num_senders = max(1, resources.max_replicas // 16)
    scored = (
        ray.data.from_items(
            [window._asdict() for window in windows],
            override_num_blocks=min(len(windows), 512),
        )
        .map_batches(
            Encode,
            fn_constructor_args=(config, run.scoring),
            batch_size=1,
            num_cpus=0.25,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=max(1, resources.max_replicas // 2)
            ),
        )
        .map_batches(
            Score,
            fn_constructor_args=(
                app,
                config.name,
                store,
                scorer.contract.get("max_length"),
                max_in_flight,
                MAX_TRIES,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0.1,
            compute=ray.data.ActorPoolStrategy(
                size=num_senders,
                max_tasks_in_flight_per_actor=1 + max_in_flight // _REQUESTS_PER_BLOCK,
                max_concurrent_calls_per_actor=1 + max_in_flight // _REQUESTS_PER_BLOCK,
            ),
        )
    )
    return iter(scored.iter_batches(batch_size=None, prefetch_batches=0))


def stored_rewards(run: EvaluateConfig, scorer: Scorer) -> StoredRewards:
    """What the store of a run holds of a reward model under its contract."""
    contract = scorer.contract
    store = RewardStore(run.output_dir, contract_id(contract))
    return store.read(contract.get("max_length"), contract.get("truncation", "error"))


def _missing(snapshots: Sequence[Snapshot], stored: StoredRewards) -> tuple[list[Window], int]:
    """The anti-join: which rows of which windows the store cannot answer for."""
    windows, total = [], 0
    for snapshot in snapshots:
        folder = Folder(snapshot.url)
        for file in snapshot.windows:
            positions = stored.missing(folder.read_table(file, ["content"])["content"]).tolist()
            total += len(positions)
            if positions:
                windows.append(Window(snapshot.benchmark.name, snapshot.url, file, positions))
    return windows, total


def _num_encoders(resources: Resources) -> int:
    return max(1, resources.max_replicas // 2)


def _num_senders(resources: Resources) -> int:
    return max(1, resources.max_replicas // 16)


class Encode:
    """Turns a window of rows into requests: whole prompt groups, alike in length, in token ids."""

    def __init__(self, config: AnyScorerConfig, scoring: ScoringConfig) -> None:
        self._scorer = build_scorer(config, scoring)
        self._tokens_per_request = scoring.tokens_per_request

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for benchmark, url, file, positions in zip(
            batch["benchmark"], batch["url"], batch["file"], batch["positions"], strict=True
        ):
            rows = Folder(url).read_table(file).take(positions).to_pylist()
            prompts = [
                Prompt(row["content"], row["id"], benchmark, group)
                for row, group in zip(rows, self._scorer.encode(rows), strict=True)
            ]
            yield {
                "request": [
                    pickle.dumps(request, protocol=5)
                    for request in requests(prompts, self._tokens_per_request)
                ]
            }


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
        store: RewardStore,
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
            answers, num_retries = await self._send([group.token_ids for group in encoded])
            scored = iter(answers)
            rewards = [
                next(scored)
                if prompt.group.error is None
                else GroupRewards(None, prompt.group.error)
                for prompt in request
            ]
            rows = [self._stored(*pair) for pair in zip(request, rewards, strict=True)]
            await asyncio.to_thread(self._store.append, rows)
        return num_retries

    async def _send(self, groups: list[Any]) -> tuple[list[GroupRewards], int]:
        if not groups:
            return [], 0
        for attempt in range(self._max_tries):
            try:
                return await self._handle.score.remote(groups), attempt
            except RayTaskError:
                raise
            except (RayError, BackPressureError) as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("%s: sending a request again: %s", self._model, reason)
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(MAX_WAIT_S, 0.5 * 2**attempt))
        raise ScoringError(
            f"{self._model}: a request of {len(groups)} prompts failed {self._max_tries} times: "
            f"{reason}"
        )

    def _stored(self, prompt: Prompt, rewards: GroupRewards) -> dict[str, Any]:
        return {
            "key": prompt.key,
            "id": prompt.id,
            "benchmark": prompt.benchmark,
            "model": self._model,
            "kind": "reward",
            "values": rewards.values,
            "num_tokens": prompt.group.num_tokens,
            "truncated": prompt.group.truncated,
            "max_length": self._max_length,
            "error": rewards.error,
        }
