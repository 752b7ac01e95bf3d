"""One Ray Serve app around one model: deployed for a run, gone after it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from rm_cluster.config import ClassifierConfig, LogprobConfig, ScoringConfig, ServingConfig
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.resources import Resources
from rm_cluster.scorers import AnyModelConfig, build_model
from rm_cluster.scorers.generator import GroupSamples, sample_groups
from rm_cluster.scorers.scorer import GroupRewards, TokenIds, score_groups

logger = logging.getLogger(__name__)

DEPLOYMENT = "RewardModel"
_APP_PREFIX = "rm-cluster"
_CHECK_S = 10.0
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)

T = TypeVar("T", GroupRewards, GroupSamples)


class Replica:
    """A model with its weights in memory, answering one request at a time.

    Where the engine bears it two: the batches of the next one take the cores that the last batches
    of the other leave idle.
    """

    def __init__(
        self, config: AnyModelConfig, scoring: ScoringConfig, num_threads: int | None
    ) -> None:
        apart = isinstance(config, ClassifierConfig | LogprobConfig) and config.engine == "torch"
        self._free = asyncio.Semaphore(2 if apart else 1)
        self._problem: str | None = None
        try:
            self._model: Any = build_model(config, scoring)
            # seconds to import, so only for those that need it
            if (transformers := sys.modules.get("transformers")) is not None:
                transformers.utils.logging.disable_progress_bar()
            self._model.load(num_threads)
        except ConfigError as error:
            # told to whoever asks; raised here, Serve would try again and again, and requests wait
            self._problem = str(error)
        except Exception as error:  # whatever a library raises, such as that memory is short
            logger.exception("%s cannot be loaded", config.name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            self._problem = f"{config.name} cannot be loaded: {reason}"

    async def problem(self) -> str | None:
        """What kept the model from loading."""
        return self._problem

    async def score(self, groups: Sequence[Sequence[TokenIds]]) -> list[GroupRewards] | str:
        """Score whole prompt groups; a group that fails carries its error.

        Without a model it is `problem`, which is returned: of what is raised, Serve logs pages.
        """
        return await self._run(score_groups, groups)

    async def sample(
        self, groups: Sequence[Sequence[TokenIds]], first: int
    ) -> list[GroupSamples] | str:
        """Sample completions from number `first` on; the rest as for `score`."""
        return await self._run(sample_groups, groups, first)

    async def _run(self, function: Callable[..., list[T]], *arguments: Any) -> list[T] | str:
        if self._problem is not None:
            return self._problem
        async with self._free:
            # in a thread, so that health checks are answered meanwhile
            found = await asyncio.to_thread(function, self._model, *arguments)
        error = next((one.error for one in found if one.error), None)
        if error and _device_is_lost():
            # another replica takes its place, and the request is sent again
            logger.error("The GPU is lost to this process, which ends: %s", error)
            os._exit(1)
        return found


def _device_is_lost() -> bool:
    # torch takes seconds to import, and what has not imported it has lost nothing
    device = sys.modules.get("rm_cluster.engines.device")
    return device is not None and bool(device.is_lost())


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Use the Ray cluster at hand, or start a local one for as long as this lasts.

    Raises:
        ConfigError: RAY_ADDRESS leads to none.
    """
    _quiet()
    started = not ray.is_initialized()
    if started:
        # a dashboard would cost seconds and a port, and be gone with the run
        try:
            ray.init(configure_logging=False, include_dashboard=False)
        except ConnectionError as error:
            where = os.environ.get("RAY_ADDRESS")
            raise ConfigError(
                f"Cannot reach the Ray cluster of RAY_ADDRESS={where!r}; start it, or unset the "
                f"variable for one on this machine: {' '.join(str(error).split())[:160]}"
            ) from None
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def connect() -> Iterator[None]:
    """`ray_cluster`, with Serve on it.

    Serve is left up where it was, and where this process owns the cluster.
    """
    with ray_cluster(), _serve():
        yield


@contextlib.contextmanager
def _serve() -> Iterator[None]:
    started_serve = not _serve_is_up()
    # no HTTP port: requests come through handles only
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    if not started_serve:
        _delete_apps_of_dead_jobs()
    try:
        yield
    finally:
        # a local cluster takes Serve with it; on another one, apps of others keep it up
        if started_serve and not serve.status().applications and not _owns_cluster():
            serve.shutdown()


def _quiet() -> None:
    """Leave Ray's plans and state changes to its log files; warnings still reach the terminal."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


@contextlib.contextmanager
def deployed(
    config: AnyModelConfig, scoring: ScoringConfig, serving: ServingConfig, resources: Resources
) -> Iterator[str]:
    """Deploy a model and yield the app's name at once; requests wait until weights are loaded.

    Raises:
        ConfigError: The model cannot be loaded, or Serve refuses the autoscaling options.
        ScoringError: As raised inside, where it was not that.
    """
    app = f"{_APP_PREFIX}-{ray.get_runtime_context().get_job_id()}-{config.name}-{time.time_ns():x}"
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={"num_gpus": resources.num_gpus, "num_cpus": resources.num_cpus},
        max_ongoing_requests=serving.max_ongoing_requests,
        autoscaling_config=autoscaling(serving, resources),
        graceful_shutdown_wait_loop_s=0.1,  # when it is deleted, everything is answered
        logging_config=_QUIET,
    )
    logger.info(
        "%s: waiting for a replica (%d at most, each with %g GPUs and %g CPUs)",
        config.name,
        resources.max_replicas,
        resources.num_gpus,
        resources.num_cpus,
    )
    bound = deployment.bind(config, scoring, resources.num_threads)
    try:
        # Ray Data starts meanwhile
        (handle,) = serve.run_many(
            [serve.RunTarget(bound, name=app, route_prefix=None)],
            wait_for_applications_running=False,
        )
        try:
            yield app
        except ScoringError as error:
            _check(handle)
            raise error from None
    finally:
        serve.delete(app)


def autoscaling(serving: ServingConfig, resources: Resources) -> dict[str, Any]:
    """Return Serve's autoscaling options: ours for batch work, the user's on top.

    Raises:
        ConfigError: Serve does not know an option, or refuses its value.
    """
    options = {
        "min_replicas": resources.min_replicas,
        "max_replicas": resources.max_replicas,
        # the first replica is there when work begins; how many follow, demand decides
        "initial_replicas": max(1, resources.min_replicas),
        "target_ongoing_requests": 0.6 * serving.max_ongoing_requests,
        "upscale_delay_s": 2.0,
        "look_back_period_s": 12.0,
        **serving.autoscaling,
    }
    known = AutoscalingConfig.model_fields
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"serving.autoscaling: Ray Serve has no {unknown[0]!r}; "
            f"it has {', '.join(sorted(known))}."
        )
    try:
        AutoscalingConfig(**options)
    except ValueError as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"serving.autoscaling: {' '.join(' '.join(lines[1:3]).split())}"
        ) from None
    return options


def _check(handle: DeploymentHandle) -> None:
    """Raise what kept the model from loading, if that is known."""
    asked = handle.options(method_name="problem")
    try:
        problem = asked.remote().result(timeout_s=_CHECK_S)
    except (RayError, RayServeException, TimeoutError):
        return  # there is no replica to tell
    finally:
        # its thread would outlive ray.shutdown, and start Ray again by asking it for something
        asked.shutdown()
    if problem is not None:
        raise ConfigError(problem)


def _owns_cluster() -> bool:
    """Whether this process started the cluster that it uses."""
    owns: bool = ray._private.worker._global_node.is_head()
    return owns


def _serve_is_up() -> bool:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _delete_apps_of_dead_jobs() -> None:
    """Free what the apps of killed drivers hold: Serve keeps an app until somebody deletes it."""
    alive = {job["JobID"] for job in ray._private.state.jobs() if not job["IsDead"]}
    for app in serve.status().applications:
        job = re.match(rf"{_APP_PREFIX}-([0-9a-f]{{8}})-", app)
        if job is not None and job.group(1) not in alive:
            logger.info("Deleting %s, whose driver is gone", app)
            serve.delete(app)
