"""Trials on Ray Tune, with parameters from Optuna.

A trial reads what is stored and starts nothing, so it cannot wait for its own placement group, and
its actor takes up the next trial when it is done: a trial costs milliseconds, not the start of a
process.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from tqdm import tqdm

from rm_cluster.config import CallbackConfig, SearchConfig
from rm_cluster.errors import ConfigError
from rm_cluster.progress import progress_bar
from rm_cluster.searching.pool import SearchPool
from rm_cluster.searching.study import MEASURED, REPEATS, Space, done, sampler
from rm_cluster.searching.trial import RUNGS, SearchTrial

logger = logging.getLogger(__name__)

FINISHED = tuple(state for state in TrialState if state.is_finished())
MAX_REPEATS = 100
"""Suggestions in a row that were tried before, after which nothing seems to be left to try."""
CALLBACKS = {
    "tensorboard": ("ray.tune.logger", "TBXLoggerCallback", "tensorboardX"),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", "mlflow"),
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", "wandb"),
    "csv": ("ray.tune.logger", "CSVLoggerCallback", "ray"),
}
"""Module, class and needed package of Tune's own."""


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Ray Tune's bridge to a study, which keeps what was measured and tries nothing twice.

    Another search may work on the same study: all that this one goes by stands in the study.

    Args:
        space: What is tried.
        study: To go on with.
        objectives: Metrics of a result.
        num_trials: Of the study, after which the search ends.
        num_prompts: Of a trial that was not stopped before its end.
        seed: Of the sampler.
    """

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        objectives: list[str],
        num_trials: int,
        num_prompts: int,
        seed: int,
    ) -> None:
        modes = ["max" if objective == "value" else "min" for objective in objectives]
        several = len(objectives) > 1
        super().__init__(
            space.suggest,
            metric=objectives if several else objectives[0],
            mode=modes if several else modes[0],
            storage=study._storage,
            study_name=study.study_name,
            sampler=sampler(study, seed),
        )
        self._num_trials, self._num_prompts = num_trials, num_prompts

    def suggest(self, trial_id: str) -> Any:
        for _ in range(MAX_REPEATS):
            if len(self._tried()) >= self._num_trials:
                return Searcher.FINISHED
            config = super().suggest(trial_id)
            trial = self._ot_trials[trial_id]
            # one that is taken up again stands among them itself, and before its repeats
            for other in self._tried():
                if other.number < trial.number and other.params == trial.params:
                    self._repeat(self._ot_trials.pop(trial_id), other.number)
                    break
            else:
                return config
        logger.warning("The last %d suggestions were tried before: the search ends", MAX_REPEATS)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):
            super().on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        stopped = result is not None and result["num_prompts"] < self._num_prompts
        trial = self._ot_trials[trial_id]
        # a search that started meanwhile took it for one that was left, and tries it too: the
        # outcome is the same, and the first to tell it is heard
        with contextlib.suppress(UpdateFinishedTrialError):
            self._ot_study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            if result is not None:
                names = ("value", "tokens", "kl", "num_prompts", "seconds")
                trial.set_user_attr(MEASURED, {n: result[n] for n in names})
            # without a result it counts as pruned, by what it reported on the way
            super().on_trial_complete(trial_id, None if stopped else result, error)

    def _tried(self) -> list[FrozenTrial]:
        """Trials of the study that count, or are being tried and may."""
        states = (*FINISHED, TrialState.RUNNING)
        trials = self._ot_study.get_trials(deepcopy=False, states=states)
        return [trial for trial in trials if REPEATS not in trial.user_attrs]

    def _repeat(self, trial: optuna.Trial, number: int) -> None:
        """Tell the sampler what is known of a trial, as Optuna's manual has it for duplicates."""
        known = self._ot_study.get_trials(deepcopy=False)[number]
        trial.set_user_attr(REPEATS, number)
        if known.state == TrialState.COMPLETE:
            self._ot_study.tell(trial, known.values)
        else:
            self._ot_study.tell(trial, state=TrialState.FAIL)


def run_trials(run: SearchConfig, space: Space, study: optuna.Study, pool: SearchPool) -> None:
    """Try until the study holds `num_trials`, on the development prompts of a pool.

    Raises:
        ConfigError: A callback cannot be used.
    """
    num_missing = run.num_trials - len(done(study))
    if num_missing <= 0:
        return
    steps = RUNGS if run.scheduler else 1
    # files may be sorted, and the first eighth of the prompts must stand for all
    order = np.random.default_rng(run.seed).permutation(len(pool.criterion_PN))
    pool = pool.prompts(order) if run.scheduler else pool
    searcher = StudySearch(
        space, study, list(run.objectives), run.num_trials, len(pool.criterion_PN), run.seed
    )
    scheduler = ASHAScheduler(
        metric="value", mode="max", max_t=RUNGS, grace_period=1, reduction_factor=2
    )
    trainable = tune.with_parameters(SearchTrial, pool=pool, num_steps=steps)
    progress = _Progress(num_missing)
    tuner = tune.Tuner(
        # it computes for milliseconds, and must not wait for CPUs that others reserve; 0 is refused
        tune.with_resources(trainable, {"CPU": 0.01}),
        tune_config=tune.TuneConfig(
            num_samples=num_missing,
            max_concurrent_trials=run.max_concurrent_trials,
            search_alg=searcher,
            scheduler=scheduler if run.scheduler else None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{study.study_name}-{time.time_ns():x}",
            storage_path=f"{run.output_dir}/tune",
            verbose=0,
            # nothing is worth keeping that the study does not hold
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[
                JsonLoggerCallback(), progress, *(build_callback(c) for c in run.callbacks)
            ],
        ),
    )  # fmt: skip
    with _quiet_tune():
        tuner.fit()


def build_callback(config: CallbackConfig) -> tune.Callback:
    """Build one of Tune's callbacks.

    Raises:
        ConfigError: Its package is not installed, it cannot be built, or is no callback.
    """
    module, name, package = CALLBACKS.get(config.type) or (*config.type.split(":"), "")
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"callbacks: {config.type} needs the package {package}, which is not installed."
        )
    try:
        callback: tune.Callback = getattr(importlib.import_module(module), name)(**config.options)
    except Exception as error:  # it is the user's code, or another package's
        raise ConfigError(f"callbacks: cannot build {config.type!r}: {error}") from None
    if not isinstance(callback, tune.Callback):
        raise ConfigError(
            f"callbacks: {config.type!r} is no ray.tune.Callback; derive it from that."
        )
    return callback


class _Progress(tune.Callback):  # type: ignore[misc]
    """A bar over the trials of this run."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: tqdm[Any] | None = None

    def setup(self, **info: Any) -> None:
        self._bar = progress_bar(self._total, "searching", "trial")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        assert self._bar is not None
        self._bar.update()

    def on_experiment_end(self, trials: Any, **info: Any) -> None:
        assert self._bar is not None
        self._bar.close()


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune from adding loggers of its own, which write files for every trial, and tables."""
    wanted = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
