"""The Optuna study behind a search: what is tried, where it is kept, what came of it.

The storage is the memory of a search. A study is named by everything that decides its values, so
that running the same search again goes on with it, and another search in the same storage is
another study.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.storages import journal
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rm_cluster.config import SearchConfig
from rm_cluster.errors import ConfigError
from rm_cluster.metrics.estimate import CONFIDENCE
from rm_cluster.searching.choice import ENSEMBLE, WITHOUT_BETA
from rm_cluster.searching.pool import SearchPool

MEASURED, REPEATS = "measured", "repeats"
"""User attributes of a trial: what Tune reported of it, and the trial that it repeats."""
DIRECTIONS = {
    "value": StudyDirection.MAXIMIZE,
    "tokens": StudyDirection.MINIMIZE,
    "kl": StudyDirection.MINIMIZE,
}
NUM_DRAWS = 100
"""Bootstrap draws of importances."""


class Space(NamedTuple):
    """What is tried: lists to choose from, and a range of strengths."""

    names: list[str]
    ensembles: list[str]
    rules: list[str]
    ns: list[int]
    normalizations: list[str]
    beta: tuple[float, float]

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask for the parameters of a trial; what a rule has no use for is not asked.

        A parameter with a single value is one all the same, so that every trial says all.
        """
        rule = trial.suggest_categorical("rule", self.rules)
        trial.suggest_categorical("n", self.ns)
        if rule != "mbr":
            models = [*self.names, ENSEMBLE] if self.ensembles else self.names
            if trial.suggest_categorical("reward_model", models) == ENSEMBLE:
                trial.suggest_categorical("ensemble", self.ensembles)
            elif rule != "bon":
                trial.suggest_categorical("normalize", self.normalizations)
        if rule not in WITHOUT_BETA:
            trial.suggest_float("beta", *self.beta, log=True)

    @property
    def plain(self) -> dict[str, Any]:
        """Plain Best-of-N by the first reward model among all candidates: trial 0."""
        return {"rule": "bon", "n": max(self.ns), "reward_model": self.names[0]}


def open_storage(run: SearchConfig) -> optuna.storages.BaseStorage:
    """The storage that a search is kept in.

    Raises:
        ConfigError: It cannot be opened.
    """
    where = run.storage or f"{run.output_dir}/study.journal"
    try:
        if "://" in where:
            return optuna.storages.RDBStorage(where)
        backend = journal.JournalFileBackend(where)
        _cut_unfinished_line(where)
        return optuna.storages.JournalStorage(backend)
    except Exception as error:  # of SQLAlchemy, its drivers and the file system
        reason = " ".join(str(error).split())[:240]
        raise ConfigError(f"Cannot open the storage {where!r}: {reason}") from None


def _cut_unfinished_line(file: str) -> None:
    """Take off what a run that was killed wrote of its last line: Optuna cannot read past it."""
    lock = journal.JournalFileSymlinkLock(file)
    lock.acquire()
    try:
        with open(file, "r+b") as stream:
            content = stream.read()
            # another kind of file is not ours to change
            if content.startswith(b'{"op_code"'):
                stream.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def name_study(run: SearchConfig, space: Space, pool: SearchPool) -> str:
    """A name that is the same exactly for searches that may go on with each other."""
    identity = [space._asdict(), pool.digest(), run.objectives, run.scheduler, run.dev_fraction]
    text = json.dumps([*identity, run.seed], sort_keys=True)
    return f"search-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def open_study(run: SearchConfig, space: Space, pool: SearchPool) -> optuna.Study:
    """Create the study, or take it up where it was left.

    Trials that a killed run left unfinished are put back to be tried again, under their numbers and
    with their parameters.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage, name = open_storage(run), name_study(run, space, pool)
    directions = [DIRECTIONS[objective] for objective in run.objectives]
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True
    )
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(space.plain)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    return study


def sampler(study: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    """TPE, seeded anew for what is there already, lest it draws what it drew before."""
    drawn = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))])
    return optuna.samplers.TPESampler(seed=int(drawn.generate_state(1)[0]))


def done(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: finished, and no repeats."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and REPEATS not in trial.user_attrs
    ]


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per trial that counts: number, state, parameters and what was measured."""
    params = ("rule", "reward_model", "ensemble", "normalize", "n", "beta")
    lines = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            **{name: trial.params.get(name) for name in params},
            **trial.user_attrs.get(MEASURED, {}),
        }
        for trial in done(study)
    ]
    measured = ("value", "tokens", "kl", "num_prompts", "seconds")
    table = pd.DataFrame(lines, columns=["trial", "state", *params, *measured])
    kinds = {"beta": float, "value": float, "tokens": float, "kl": float, "seconds": float}
    return table.astype({**kinds, "num_prompts": "Int64"}).sort_values("trial", ignore_index=True)


def importances(study: optuna.Study, seed: int) -> pd.DataFrame:
    """How much of the spread of the value each parameter explains, by PED-ANOVA.

    Conditional parameters take part where they are there (arXiv 2304.10255, 2601.20800).

    Returns:
        parameter, importance (they sum to 1), ci_low and ci_high by a bootstrap over trials, and n,
        the complete trials that have it. No rows where nothing can be told apart.
    """
    trials = [t for t in done(study) if t.state == TrialState.COMPLETE]
    found = _importances(trials)
    rng = np.random.default_rng(seed)
    draws = [
        _importances([trials[i] for i in rng.integers(len(trials), size=len(trials))])
        for _ in range(NUM_DRAWS if found else 0)
    ]
    tail = (1 - CONFIDENCE) / 2
    lines = []
    for parameter, importance in found.items():
        ends = np.quantile([draw.get(parameter, 0.0) for draw in draws], (tail, 1 - tail))
        n = sum(parameter in trial.params for trial in trials)
        lines.append((parameter, importance, float(ends[0]), float(ends[1]), n))
    return pd.DataFrame(lines, columns=["parameter", "importance", "ci_low", "ci_high", "n"])


def _importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    values = [trial.values[0] for trial in trials]
    if len(set(values)) < 2:
        return {}
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(
        [
            optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value)
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    with warnings.catch_warnings():
        # that few trials tell little is what the interval says
        warnings.simplefilter("ignore")
        found: dict[str, float] = optuna.importance.get_param_importances(copy)
    return {name: value for name, value in found.items() if np.isfinite(value)}
