"""Ray Data streams windows of rows through a Serve app into the store of what is measured.

    windows -> Encode (render, tokenize, sort by length, cut into requests) -> Score (send, store)
                                                                            or Sample (the same)

A window is a file of rows, so that neither the driver nor a caller ever holds more than a few. What
is stored is taken out by the driver before anything is sent.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.util.debug import log_once

from rm_cluster.config import (
    ClassifierConfig,
    CustomScorerConfig,
    EvaluateConfig,
    GenerateConfig,
    GeneratorConfig,
    JudgeConfig,
    LengthConfig,
    LogprobConfig,
    RouterConfig,
    ServingConfig,
)
from rm_cluster.encoding import Encode, Window
from rm_cluster.errors import ScoringError
from rm_cluster.pipeline import Sample, Score
from rm_cluster.progress import progress_bar
from rm_cluster.resources import ENCODER_CPUS, SENDER_CPUS, Resources, resolve
from rm_cluster.scorers import AnyModelConfig, AnyScorerConfig, Generator
from rm_cluster.scorers.scorer import Scorer, contract_id
from rm_cluster.serving import deployed
from rm_cluster.snapshot import Snapshot
from rm_cluster.store import Folder, RewardStore, SampleStore, Store, StoredRewards

logger = logging.getLogger(__name__)

MAX_TRIES = 8
_MAX_LOST = 3
"""How many prompts in a row may kill every replica that meets them, before it is not the prompts.

More where a run may lose more, or one that has nothing but such prompts left would never end.
"""
_REQUESTS_PER_BLOCK = 4
_WINDOWS_AT_ONCE = 128
"""To look up: each time goes through all that is stored."""


class Measured(NamedTuple):
    """What the scoring or sampling of one model came to, in prompts and seconds.

    Of equal prompts one is scored; the others count as stored, which they are when that is done.
    """

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
    kind = "verdict" if isinstance(config, JudgeConfig | RouterConfig) else "reward"
    store = RewardStore(run.output_dir, contract_id(scorer.contract), kind)
    windows = _missing(snapshots, stored_rewards(run, scorer))
    return _measure(config, scorer, Score, store, windows, snapshots, run)


def sample(
    policy: GeneratorConfig, generator: Generator, snapshot: Snapshot, run: GenerateConfig
) -> Measured:
    """Sample whatever the store lacks of a policy's completions.

    Raises:
        ConfigError: The policy cannot be loaded.
        ScoringError: No replica came up, or a request failed on `MAX_TRIES` replicas.
    """
    store = SampleStore(run.output_dir, contract_id(generator.contract))
    stored, folder = store.read(), Folder(snapshot.url)
    windows = []
    asked: set[str] = set()
    for file in snapshot.windows:
        by_first: dict[int, list[int]] = {}
        for position, key in enumerate(folder.read_table(file, ["content"])["content"].to_pylist()):
            if key not in asked:
                by_first.setdefault(stored.num_stored(key), []).append(position)
            asked.add(key)
        windows += [
            Window(snapshot.benchmark.name, snapshot.url, file, positions, first)
            for first, positions in sorted(by_first.items())
            if first < policy.n
        ]
    return _measure(policy, generator, Sample, store, windows, [snapshot], run)


def _measure(
    config: AnyModelConfig,
    model: Scorer | Generator,
    stage: type[Score],
    store: Store,
    windows: Sequence[Window],
    snapshots: Sequence[Snapshot],
    run: EvaluateConfig | GenerateConfig,
) -> Measured:
    """Send windows through an app of the model, into the store."""
    started = time.monotonic()
    num_missing = sum(len(window.positions) for window in windows)
    num_stored = sum(snapshot.num_rows for snapshot in snapshots) - num_missing
    logger.info("%s: %d prompts stored or repeated, %d to go", config.name, num_stored, num_missing)
    if not windows:
        return Measured(num_stored, 0, 0, 0, time.monotonic() - started, None)
    serving = _serving(config, run.serving)
    resources = resolve(serving, uses_gpu=model.uses_gpu)
    num_requests = num_retries = 0
    with (
        deployed(config, run.scoring, serving, resources) as app,
        progress_bar(num_missing, config.name, "prompt") as progress,
    ):
        max_lost = max(_MAX_LOST, int(run.scoring.max_failed_fraction * (num_missing + num_stored)))
        for batch in _stream(config, windows, app, stage, store, model, resources, run, max_lost):
            for failure in filter(None, batch["failure"]):
                raise ScoringError(
                    f"{failure}\nWhat is done is stored in {run.output_dir}; run again to go on."
                )
            if not num_requests:
                logger.info("%s: scoring after %.1f s", config.name, time.monotonic() - started)
            num_requests += len(batch["num_prompts"])
            num_retries += int(batch["num_retries"].sum())
            progress.set_postfix(requests=num_requests, retries=num_retries, refresh=False)
            progress.update(int(batch["num_prompts"].sum()))
    return Measured(
        num_stored, num_missing, num_requests, num_retries, time.monotonic() - started, resources
    )


def _serving(config: AnyModelConfig, serving: ServingConfig) -> ServingConfig:
    """How replicas run; what asks an endpoint is one, or its limits would hold for each of many."""
    if isinstance(config, JudgeConfig) and config.endpoint is not None:
        return serving.model_copy(update={"min_replicas": 0, "max_replicas": 1, "num_gpus": 0.0})
    return serving


def _stream(
    config: AnyModelConfig,
    windows: Sequence[Window],
    app: str,
    stage: type[Score],
    store: Store,
    model: Scorer | Generator,
    resources: Resources,
    run: EvaluateConfig | GenerateConfig,
    max_lost: int,
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Run the pipeline, yielding counts of what has been stored."""
    max_in_flight = int(1.5 * resources.max_replicas * run.serving.max_ongoing_requests) + 1
    with ray.data.DataContext.current(_data_context(run.scoring.tokens_per_request)):
        scored = (
            ray.data.from_items(
                [window._asdict() for window in windows],
                override_num_blocks=min(len(windows), 512),
            )
            .map_batches(
                Encode,
                fn_constructor_args=(config, run.scoring, model if _travels(config) else None),
                batch_size=1,
                num_cpus=ENCODER_CPUS,
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=min(len(windows), max(1, resources.max_replicas // 2))
                ),
            )
            .map_batches(
                stage,
                fn_constructor_args=(
                    app,
                    config.name,
                    store,
                    model.contract.get("max_length"),
                    max_in_flight,
                    MAX_TRIES,
                    max_lost,
                ),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=SENDER_CPUS,
                compute=ray.data.ActorPoolStrategy(
                    size=min(len(windows), max(1, resources.max_replicas // 16)),
                    # a request with many completions of its prompts is a block of its own
                    max_tasks_in_flight_per_actor=max_in_flight,
                    max_concurrent_calls_per_actor=max_in_flight,
                ),
            )
        )
        yield from scored.iter_batches(batch_size=None, prefetch_batches=0)


def _travels(config: AnyModelConfig) -> bool:
    """Whether the encoders may take the model as the driver built it.

    It spares them the files and seconds of imports; but classes from the hub's code cannot be
    unpickled elsewhere, and of the user's own nobody knows.
    """
    match config:
        case ClassifierConfig() | GeneratorConfig():
            return not config.trust_remote_code
        case LogprobConfig():
            writer = config.renderer
            return not (config.trust_remote_code or (writer and writer.trust_remote_code))
        case JudgeConfig():
            return config.endpoint is not None or not config.trust_remote_code
        case LengthConfig():
            return True
        case CustomScorerConfig():
            return False


def _data_context(tokens_per_request: int) -> ray.data.DataContext:
    """The user's settings of Ray Data, with those that this pipeline needs."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # prompts say more than blocks do
    log_once("ray_data_progress_manager_disabled")  # so Ray Data need not say so
    # an encoder's memory is its imports, not its data; there is nothing to heed in that warning
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    # a block of a few requests, of one where prompts have many completions: they spread over the
    # senders, and progress shows as they are done
    context.target_max_block_size = _REQUESTS_PER_BLOCK * tokens_per_request * 4
    return context


def stored_rewards(run: EvaluateConfig, scorer: Scorer) -> StoredRewards:
    """What the store of a run holds of a reward model under its contract."""
    contract = scorer.contract
    store = RewardStore(run.output_dir, contract_id(contract))
    return store.read(contract.get("max_length"), contract.get("truncation", "error"))


def lost(name: str, num: int, output_dir: str) -> ScoringError:
    """The error of a run whose answers went where the driver does not see them."""
    return ScoringError(
        f"{name}: {num} prompts were answered, and output_dir={output_dir!r} does not hold the "
        "answers. It must be the same folder on every node: a shared file system, or a URL such as "
        "s3://bucket/run."
    )


def _missing(snapshots: Sequence[Snapshot], stored: StoredRewards) -> list[Window]:
    """The anti-join: which rows of which windows the store cannot answer for.

    Equal rows of windows that are looked up together are measured once.
    """
    places = [(snapshot, file) for snapshot in snapshots for file in snapshot.windows]
    return [
        window
        for start in range(0, len(places), _WINDOWS_AT_ONCE)
        for window in _missing_of(places[start : start + _WINDOWS_AT_ONCE], stored)
    ]


def _missing_of(places: Sequence[tuple[Snapshot, str]], stored: StoredRewards) -> Iterator[Window]:
    """The same for some windows."""
    contents: list[pa.Table] = []
    for url, its in itertools.groupby(places, key=lambda place: place[0].url):
        contents += Folder(url).read_tables([file for _, file in its], ["content"])
    missing = stored.missing(pa.concat_tables(contents)["content"])
    first = 0
    for (snapshot, file), content in zip(places, contents, strict=True):
        here = missing[(missing >= first) & (missing < first + len(content))] - first
        first += len(content)
        if len(here):
            yield Window(snapshot.benchmark.name, snapshot.url, file, here.tolist())
