"""The search job, from its configuration to its result."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from rm_cluster.benchmarks.source import find_files
from rm_cluster.best_of_n import development_prompts, over_prompts
from rm_cluster.config import EmbeddingConfig, SearchConfig
from rm_cluster.config.listing import absolute, located
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.metrics.judged import Bools, Floats
from rm_cluster.parsing import parse_config
from rm_cluster.preparing import announce, output_folder
from rm_cluster.search_result import SearchResult
from rm_cluster.searching import judging
from rm_cluster.searching.choice import Choice, combinations, exact_optimum, try_choice
from rm_cluster.searching.pool import SearchPool, check_rules
from rm_cluster.searching.reading import Read, read_pool
from rm_cluster.searching.study import (
    REPEATS,
    Space,
    done,
    importances,
    open_study,
    trials_table,
)
from rm_cluster.searching.tuning import build_callback, run_trials
from rm_cluster.serving import ray_cluster
from rm_cluster.versions import versions

logger = logging.getLogger(__name__)

_PACKAGES = ("rm-cluster", "ray", "optuna", "numpy", "pandas", "scipy", "scikit-learn")


def search(config: SearchConfig | Mapping[str, Any] | str | Path) -> SearchResult:
    """Search reward models, rules, N and beta for Best-of-N, and save and return what comes of it.

    Uses the Ray cluster at hand, or starts a local one. What `output_dir` already holds of earlier
    runs, rewards and trials, is neither measured nor tried again: a search that was killed goes on,
    and one with a larger `num_trials` is extended.

    Args:
        config: A `SearchConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration or a model cannot be used.
        DataFormatError: The pool cannot be read, or is not what it should be.
        ScoringError: The reward models could not be run, or no trial came to its end.
    """
    run = _absolute(parse_config(SearchConfig, config))
    started = time.monotonic()
    if run.pool.path is not None:
        find_files(run.pool.path)
    for callback in run.callbacks:
        build_callback(callback)  # one that cannot be used is told before anything starts
    announce(run, run.output_dir)
    with ray_cluster():
        read = read_pool(run)
        space = _space(run, read.pool)
        is_dev = _split(run, read)
        dev, test = read.pool.prompts(is_dev), read.pool.prompts(~is_dev)
        study = open_study(run, space, read.pool)
        num_stored = len(done(study))
        began = time.monotonic()
        run_trials(run, space, study, dev)
    seconds = time.monotonic() - began
    logger.info("%d trials, %d of them stored before", len(done(study)), num_stored)
    result = _analyze(run, space, study, dev, test)
    result.run.update(
        {
            "partial": run.limit is not None,
            "seconds": round(time.monotonic() - started, 3),
            "seconds_of_trials": round(seconds, 3),
            "seed": run.seed,
            "versions": versions(*_PACKAGES),
            "n_trials_from_storage": num_stored,
            **read.counts,
        }
    )
    result.save(run.output_dir)
    return result


def _space(run: SearchConfig, pool: SearchPool) -> Space:
    """Fill in what the configuration left open from what the pool has."""
    largest = pool.rewards_MPN.shape[2]
    # of one candidate there is nothing to try
    ns = sorted(set(run.space.n or judging.powers_of_two(largest)[1:]))
    if ns[-1] > largest:
        raise ConfigError(
            f"space.n: {ns[-1]} candidates are more than the largest pool has, {largest}."
        )
    for objective, known in (("tokens", pool.cost_PN), ("kl", pool.ref_logprobs_PN)):
        if objective in run.objectives and known is None:
            raise ConfigError(
                f"objectives: the pool lacks what {objective} needs, num_tokens or logprobs. Name "
                "the policy in ref_logprobs (a logprob reward model)."
            )
    return Space(
        names=list(pool.names),
        ensembles=list(run.space.ensembles) if len(pool.names) > 1 else [],
        rules=check_rules(pool, run.space.rules),
        ns=ns,
        normalizations=list(dict.fromkeys(run.space.normalize)),
        beta=(run.space.beta.low, run.space.beta.high),
    )


def _split(run: SearchConfig, read: Read) -> Bools:
    """[P] the prompts that choose; rows of one prompt are on the same side."""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(read.prompts))}
    num_prompts = len(places)
    if num_prompts < 2:
        raise ConfigError(
            f"The pool has {num_prompts} prompt ({read.counts['n_prompts_left_out']} left out for "
            "lack of a value that the search needs); one must choose and another judge."
        )
    num_dev = min(max(1, round(run.dev_fraction * num_prompts)), num_prompts - 1)
    dev = development_prompts(num_prompts, num_dev, run.seed)
    return dev[[places[prompt] for prompt in read.prompts]]


def _analyze(
    run: SearchConfig, space: Space, study: optuna.Study, dev: SearchPool, test: SearchPool
) -> SearchResult:
    """Everything that is computed of the trials and of the pool itself."""
    trials = trials_table(study)
    whole = trials[(trials["state"] == "complete")].reset_index(drop=True)
    if not len(whole):
        raise ScoringError(
            f"None of {len(trials)} trials came to its end; see the logs of Ray Tune in "
            f"{run.output_dir}/tune."
        )
    plain = Choice.of(space.plain)
    choices = [_choice(line) for line in whole.to_dict("records")]
    judged = judging.judge(test, choices, [plain] * len(choices), run.seed)
    judged.insert(0, "trial", whole["trial"])
    models = judging.models_of(test, space.ensembles)
    chosen, strengths = judging.choose_strengths(dev, models, space.rules, space.beta, run.seed)
    return SearchResult(
        trials=trials.merge(judged, "left", "trial"),
        best=_best(run, space, study, whole, dev, test),
        curves=judging.curves(test, chosen, run.seed),
        beta_curves=judging.beta_curves(test, chosen, space.beta, run.seed),
        choices=_choices_table(test, chosen, strengths, run.seed),
        hacking=judging.hacking(test, models, run.seed),
        importances=importances(study, run.seed),
        config=run,
        run={
            "n_dev": len(dev.criterion_PN),
            "n_test": len(test.criterion_PN),
            "n_trials": len(trials),
            "n_complete": len(whole),
            "n_stopped_early": int((trials["state"] == "pruned").sum()),
            "n_failed": int((trials["state"] == "fail").sum()),
            "n_repeats_not_tried": sum(
                REPEATS in t.user_attrs for t in study.get_trials(deepcopy=False)
            ),
            "study_name": study.study_name,
            "space": space._asdict(),
        },
    )


def _choices_table(
    test: SearchPool, chosen: list[Choice], strengths: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Each reward model and rule with its chosen beta, against its own plain Best-of-N."""
    first = next(choice for choice in chosen if choice.rule == "bon")
    baselines = [
        first if choice.rule == "mbr" else choice._replace(rule="bon", beta=0.0)
        for choice in chosen
    ]
    named = pd.DataFrame([choice._asdict() for choice in chosen])
    named["beta"] = named["beta"].where(named["rule"].map(lambda rule: rule not in ("bon", "mbr")))
    judged = judging.judge(test, chosen, baselines, seed)
    return pd.concat([named.drop(columns="normalize"), strengths, judged], axis=1)


def _best(
    run: SearchConfig,
    space: Space,
    study: optuna.Study,
    whole: pd.DataFrame,
    dev: SearchPool,
    test: SearchPool,
) -> dict[str, Any]:
    """The best trial beside plain Best-of-N and the exact optimum."""
    line = whole.to_dict("records")[int(whole["value"].to_numpy().argmax())]
    best = _choice(line)
    plain = Choice.of(space.plain)
    combined = combinations(
        space.names, space.ensembles, space.rules, space.ns, space.normalizations
    )
    optimum, _, count = exact_optimum(dev, combined)
    found, reference = (try_choice(dev, c).value_P for c in (best, optimum))
    told: dict[str, Any] = {
        "best": {"trial": int(line["trial"]), **_told(best, dev, test, plain, run.seed)},
        "plain_best_of_n": {"trial": 0, **_told(plain, dev, test, plain, run.seed)},
        "exact_optimum": {"num_compared": count, **_told(optimum, dev, test, plain, run.seed)},
        "regret": _estimate(reference - found, run.seed),
        "regret_on_test": _estimate(
            try_choice(test, optimum).judged_P - try_choice(test, best).judged_P, run.seed
        ),
        "judged_by": run.criterion if test.gold_PN is None else run.gold,
        "criterion": run.criterion,
    }
    if len(run.objectives) > 1:
        front = {trial.number for trial in study.best_trials}
        told["pareto_front"] = sorted(int(t) for t in whole["trial"] if t in front)
    return told


def _told(
    choice: Choice, dev: SearchPool, test: SearchPool, plain: Choice, seed: int
) -> dict[str, Any]:
    """A choice with its value on either side of the split."""
    (judged,) = judging.judge(test, [choice], [plain], seed).to_dict("records")
    value = _estimate(try_choice(dev, choice).value_P, seed)
    numbers = {str(name): _finite(number) for name, number in judged.items()}
    return {"choice": choice._asdict(), "label": str(choice), "dev": value, "test": numbers}


def _estimate(values_P: Floats, seed: int) -> dict[str, Any]:
    found = over_prompts(values_P, seed)
    low, high = found.interval
    return {
        "value": _finite(found.value),
        "ci_low": _finite(low),
        "ci_high": _finite(high),
        "n": found.n,
    }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _choice(line: Mapping[Any, Any]) -> Choice:
    """From a line of the table of trials."""
    params = {name: line[name] for name in Choice._fields}
    known = {name: value for name, value in params.items() if not _missing(value)}
    return Choice.of({**known, "n": int(known["n"])})


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _absolute(run: SearchConfig) -> SearchConfig:
    """Local paths as they are seen from here, for processes that run elsewhere."""
    pool = run.pool.model_copy(update={"path": absolute(run.pool.path)})
    similarity = run.similarity
    if isinstance(similarity, EmbeddingConfig):
        similarity = similarity.model_copy(update={"model": absolute(similarity.model)})
    storage = run.storage and output_folder(run.storage)
    return run.model_copy(
        update={
            "pool": pool,
            "reward_models": located(run.reward_models),
            "similarity": similarity,
            "storage": storage,
            "output_dir": output_folder(run.output_dir),
        }
    )
