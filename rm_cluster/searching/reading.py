"""From files and reward models to the pool of a search.

The reward models score the pool through the main job, in `evaluate/` of the output folder, so that
what is stored is not measured again and nothing is measured in a trial.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.best_of_n import combine_members
from rm_cluster.best_of_n.pools import unknown_name
from rm_cluster.config import (
    ClassifierConfig,
    EvaluateConfig,
    LogprobConfig,
    SearchConfig,
)
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.evaluation import evaluate
from rm_cluster.metrics.judged import Floats
from rm_cluster.searching.choice import ENSEMBLE
from rm_cluster.searching.pool import Columns, Kept, SearchPool
from rm_cluster.searching.similarity import similarity
from rm_cluster.types import Row

logger = logging.getLogger(__name__)

GOLD, LABELS, WORST_CASE = "gold", "labels", "worst_case"
_ROUNDING = 1e-3
"""What sums of log-probabilities may be above 0."""
EVALUATE = "evaluate"
"""The folder of the main job's result inside the output folder."""


class Read(NamedTuple):
    """What came of reading.

    Attributes:
        pool: The pool.
        prompts: [P] what they say; two rows may be of one prompt.
        counts: What was read and left out.
    """

    pool: SearchPool
    prompts: list[str]
    counts: dict[str, int]


def read_pool(run: SearchConfig) -> Read:
    """Read the pool, have it scored, and put it together.

    Raises:
        ConfigError: Something is named that is not there, or cannot be used.
        DataFormatError: The pool is not what it should be.
        ScoringError: The reward models could not be run.
    """
    rows, num_rejected = _read_rows(run)
    stored = _stored(rows)
    # before anything is measured; ensembles and the like among them have no rewards yet
    _check_names(run, {**stored, **{model.name: [] for model in run.reward_models}})
    values: dict[str, Sequence[Any]] = {
        **stored, **_measured(run, rows), LABELS: [row["labels"] for row in rows]
    }  # fmt: skip
    _check_names(run, values)
    columns = Columns(
        [row["id"] for row in rows], [len(row["completions"]) for row in rows], values
    )
    names = searched_names(run, values)
    gold = run.gold if any(value is not None for value in values[run.gold]) else None
    if gold is None and run.criterion == GOLD:
        raise ConfigError(
            "criterion: gold, but the pool has no labels. Name a gold reward model in `gold`, or "
            "in `criterion` one that is held out, or worst_case."
        )
    sought = [*names, *(name for name in (gold, _own_criterion(run), *_ref(run, values)) if name)]
    padded = {name: columns.padded(name) for name in dict.fromkeys(sought)}
    for name in _ref(run, values):
        _check_logprobs(columns.ids, name, padded[name])
    kept = Kept.of(list(padded.values()), columns.sizes)
    rewards = np.stack([kept.take(padded[name]) for name in names])
    if rewards.shape[2] < 2:
        raise DataFormatError("Every prompt has one candidate; there is nothing to pick from.")
    pool = SearchPool(
        names=tuple(names),
        rewards_MPN=rewards,
        criterion_PN=_criterion(run, gold, kept, padded, rewards),
        gold_PN=None if gold is None else kept.take(padded[gold]),
        similarity_PNN=similarity(run, rows, columns, kept),
        ref_logprobs_PN=kept.take(padded[_ref(run, values)[0]]) if _ref(run, values) else None,
        **_tokens(run, columns, kept),
    )
    counts = {
        "n_prompts": len(kept.rows),
        "n_candidates": int(kept.present_PN.sum()),
        "n_rejected_rows": num_rejected,
        "n_candidates_left_out": kept.num_left_out[0],
        "n_prompts_left_out": kept.num_left_out[1],
        "smallest_pool": int(pool.sizes_P.min()),
        "largest_pool": int(pool.sizes_P.max()),
    }
    logger.info(
        "%d prompts, %d candidates; %d candidates and %d prompts left out",
        *(counts[name] for name in ("n_prompts", "n_candidates")), *kept.num_left_out,
    )  # fmt: skip
    return Read(pool, [json.dumps(rows[row]["prompt"]) for row in kept.rows], counts)


def searched_names(run: SearchConfig, values: Mapping[str, Any]) -> list[str]:
    """The reward models that are searched.

    Raises:
        ConfigError: There is none, or one has a name that is taken.
    """
    for word in (GOLD, WORST_CASE):
        if word == run.criterion and word in values and word != run.gold:
            raise _taken(word)
    taken = {run.gold, run.criterion, run.ref_logprobs, *_OWN}
    names = run.space.reward_models or [name for name in values if name not in taken]
    if ENSEMBLE in names:
        raise _taken(ENSEMBLE)
    if not names:
        raise ConfigError(
            "There is no reward model to search: give some in reward_models, or their rewards in "
            "the pool's column `rewards`."
        )
    return list(dict.fromkeys(names))


def _taken(word: str) -> ConfigError:
    return ConfigError(
        f"A reward model cannot be called {word!r} here, where that means something else. Give it "
        "another name."
    )


_OWN = (LABELS, "logprobs", "num_tokens", "ended", "embeddings")
"""Columns of a pool that are no rewards."""


def _read_rows(run: SearchConfig) -> tuple[list[Row], int]:
    """The rows with completions, and how many records were set aside."""
    rows: list[Row] = []
    num_rejected, reason = 0, "it is empty"
    for row in read_rows(run.pool):
        if isinstance(row, RejectedRow):
            num_rejected += 1
            reason = f"{row.file}:{row.line}: {row.reason}"
        else:
            rows.append(row)
        if len(rows) == run.limit:
            break
    if not rows:
        raise DataFormatError(f"The pool {run.pool.name!r} holds no candidates: {reason}")
    return rows, num_rejected


def _stored(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """What the pool itself says of its candidates, by name."""
    found: dict[str, list[Any]] = {}
    for position, row in enumerate(rows):
        held = json.loads(row["metadata"] or "{}")
        rewards = held.get("rewards") or {}
        if not isinstance(rewards, Mapping):
            raise DataFormatError(
                f"{row['id']!r}: rewards must be lists by name of the reward model, got "
                f"{type(rewards).__name__}."
            )
        own = {name: held[name] for name in _OWN[1:] if held.get(name) is not None}
        for name, values in {**rewards, **own}.items():
            found.setdefault(name, [None] * len(rows))[position] = values
    return found


def _measured(run: SearchConfig, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The rewards of the reward models that are run, by name."""
    if not run.reward_models:
        return {}
    for model in run.reward_models:
        if not isinstance(model, ClassifierConfig):
            continue
        if model.model.startswith(("/", ".", "~")) and not os.path.isdir(model.model):
            raise ConfigError(
                f"{model.name}: there is no reward model {model.model!r}. The search trains none: "
                "train it first, or leave it out."
            )
    result = evaluate(
        EvaluateConfig(
            reward_models=run.reward_models,
            benchmarks=[run.pool],
            limit=run.limit,
            serving=run.serving,
            scoring=run.scoring,
            output_dir=f"{run.output_dir}/{EVALUATE}",
            seed=run.seed,
        )
    )
    position = {row["id"]: i for i, row in enumerate(rows)}
    found: dict[str, list[Any]] = {}
    for line in result.scored.to_pylist():
        at = position[line["id"]]
        found.setdefault(line["reward_model"], [None] * len(rows))[at] = line["values"]
        if line["reward_model"] == run.ref_logprobs:
            found.setdefault("num_tokens", [None] * len(rows))[at] = line["num_tokens"]
    policy = next((m for m in run.reward_models if m.name == run.ref_logprobs), None)
    if isinstance(policy, LogprobConfig):
        # the token that ends a completion is one of those that were summed over
        counts = found["num_tokens"]
        found["ended"] = [
            None if count is None else [policy.include_eos] * len(count) for count in counts
        ]
    return found


def _check_names(run: SearchConfig, values: Mapping[str, Any]) -> None:
    """Hold what the configuration names against what there is."""
    rewards = [name for name in values if name not in _OWN]
    named = [("space.reward_models", name) for name in run.space.reward_models or []]
    named += [("gold", run.gold)] if run.gold != LABELS else []
    named += [("criterion", run.criterion)] if _own_criterion(run) else []
    for where, name in named:
        if name not in rewards:
            raise unknown_name(f"reward model in {where}", name, rewards)
    for where, judge in (("criterion", _own_criterion(run)), ("gold", run.gold)):
        if judge in (run.space.reward_models or []):
            raise ConfigError(
                f"{where}: {judge} is among space.reward_models, and what is searched cannot judge "
                "itself. Hold it out of them."
            )
    if run.ref_logprobs is not None:
        policies = [m.name for m in run.reward_models if isinstance(m, LogprobConfig)]
        if run.ref_logprobs not in policies:
            raise unknown_name("logprob reward model in ref_logprobs", run.ref_logprobs, policies)


def _own_criterion(run: SearchConfig) -> str | None:
    """The reward model that is held out as the criterion, if one is."""
    return None if run.criterion in (GOLD, WORST_CASE) else run.criterion


def _ref(run: SearchConfig, values: Mapping[str, Any]) -> list[str]:
    """Where the policy's log-probs stand, if there are any."""
    if run.ref_logprobs is not None:
        return [run.ref_logprobs]
    return ["logprobs"] if "logprobs" in values else []


def _check_logprobs(ids: Sequence[str], name: str, values_PN: Floats) -> None:
    """Hold log-probabilities to their sign: with the other, beta drives away from the policy."""
    wrong = np.argwhere(values_PN > _ROUNDING)
    if len(wrong):
        row, column = wrong[0]
        raise DataFormatError(
            f"{ids[row]!r} has {values_PN[row, column]:g} in {name!r}, and a log-probability is at "
            "most 0. Give sums of natural log-probabilities, not probabilities or minus their log."
        )


def _criterion(
    run: SearchConfig,
    gold: str | None,
    kept: Kept,
    padded: Mapping[str, Floats],
    rewards_MPN: Floats,
) -> Floats:
    if run.criterion == WORST_CASE:
        return combine_members(rewards_MPN, "worst_case")
    return kept.take(padded[_own_criterion(run) or gold or ""])


def _tokens(run: SearchConfig, columns: Columns, kept: Kept) -> dict[str, Floats | None]:
    """Tokens of the completions without and with the one that ended them."""
    if "num_tokens" not in columns.values:
        return {"num_tokens_PN": None, "cost_PN": None}
    cost = kept.take(columns.padded("num_tokens"), absent=0.0)
    ended = kept.take(columns.padded("ended"), absent=0.0) if "ended" in columns.values else 0.0
    if (cost < 0).any():
        raise DataFormatError("num_tokens must be 0 or more, and some in the pool are less.")
    unknown = int(np.isnan(cost).sum())
    if unknown:
        logger.warning(
            "num_tokens is not known of %d of the %d candidates: the search does without rbon_l, "
            "and tells no tokens",
            unknown,
            int(kept.present_PN.sum()),
        )
        return {"num_tokens_PN": None, "cost_PN": None}
    # an empty completion counts as one token, or nothing could be divided by its length
    num_tokens = np.where(kept.present_PN, np.maximum(cost - np.nan_to_num(ended), 1.0), np.nan)
    return {"num_tokens_PN": num_tokens, "cost_PN": cost}
