"""How the sandbox comes about: base models, what their policies reply, votes, reward models.

Every job has a generator of its own and one thread, so the world does not depend on how many run at
a time. On another processor, or with another torch, sums differ in their last digits and with them
some of the samples.
"""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import os
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from rm_cluster.progress import progress_bar
from rm_cluster.sandbox.base_models import BASE_RECIPES, BaseRecipe, train_base
from rm_cluster.sandbox.mistakes import mistake_pairs
from rm_cluster.sandbox.outcomes import as_row, outcomes, pool_record
from rm_cluster.sandbox.policies import POLICIES, Ask, sample
from rm_cluster.sandbox.ppe import K, battle_record, best_of_k_record, draw_battles
from rm_cluster.sandbox.reward_models import PAIRS, RECIPES, REPLIES, Ballot, Recipe, train
from rm_cluster.sandbox.tasks import FAMILIES, Task, draw_distinct, draw_tasks
from rm_cluster.sandbox.voters import vote
from rm_cluster.scorers import Classifier, Length
from rm_cluster.types import Record

GENERATORS = tuple(
    policy
    for policy in POLICIES
    if policy.name in ("base-l-t0.6", "base-l-early-t0.8", "base-m-t0.6", "base-forum-t0.6")
)
POOL_POLICY = next(policy for policy in POLICIES if policy.name == "base-m-t0.9")
POOL_SIZE = 16

Key = TypeVar("Key", bound=Hashable)


class Plan(NamedTuple):
    """How much of everything there is.

    Attributes:
        bases: The base models.
        reward_models: The reward models.
        num_ballots: Training prompts with four replies each, all pairs of which are voted on.
        num_battles: Battles on the human side.
        num_prompts: Prompts of a best-of-K file; each generator replies to all of them.
        max_rows: Rows of a best-of-K file per generator, of those that pass the filter.
        num_pool_prompts: Prompts of the pool, per family.
        num_mistakes: Pairs of a right answer and a mistake, per family.
        num_search_prompts: Prompts that policies are sampled on, per family.
    """

    bases: Sequence[BaseRecipe] = BASE_RECIPES
    reward_models: Sequence[Recipe] = RECIPES
    num_ballots: int = 5000
    num_battles: int = 2000
    num_prompts: int = 32
    max_rows: int = 20
    num_pool_prompts: int = 24
    num_mistakes: int = 80
    num_search_prompts: int = 48


def build_world(folder: Path, plan: Plan, seed: int) -> None:
    """Train, sample and vote until every file of the world is in `folder`."""
    _write_jsonl(folder / "mistakes.jsonl", mistake_pairs(plan.num_mistakes, seed))
    with _processes() as processes:
        _run(
            processes,
            "training base models",
            {base.name: (train_base, base, folder / "base_models", seed) for base in plan.bases},
        )
        ballots, pool = _write_data(processes, folder, plan, seed)
        found = _run(
            processes,
            "training reward models",
            {
                recipe: (_reward_models, recipe, folder, ballots, pool, seed)
                for recipe in plan.reward_models
            },
        )
    _write_prompts(folder, plan, seed)
    rewards = {name: arrays for its in found.values() for name, arrays in its.items()}
    rewards["length"] = Length().score([as_row(record) for record in pool])
    _write_csv(folder / "outcomes.csv", outcomes(pool, rewards, seed))


def _write_data(
    processes: Executor, folder: Path, plan: Plan, seed: int
) -> tuple[list[Ballot], list[Record]]:
    """Sample all replies; write the PPE files and the pool; return the ballots and the pool."""
    rng = random.Random(seed)
    tasks = list(itertools.islice(draw_tasks(rng, "training"), plan.num_ballots))
    ballot_asks = [Ask(task, policy) for task in tasks for policy in rng.sample(POLICIES, REPLIES)]
    battles = draw_battles(draw_tasks(rng, "ppe"), plan.num_battles, rng)
    battle_asks = [ask for battle in battles for ask in battle.asks]
    set_asks = [
        Ask(task, generator, K)
        for family in FAMILIES
        for task in draw_distinct(rng, "ppe", family, plan.num_prompts)
        for generator in GENERATORS
    ]
    pool_asks = [
        Ask(task, POOL_POLICY, POOL_SIZE)
        for family in FAMILIES
        for task in draw_distinct(rng, "pool", family, plan.num_pool_prompts)
    ]
    asks = [*ballot_asks, *battle_asks, *set_asks, *pool_asks]
    replies = iter(_replies(processes, folder, asks, seed))
    ballots = [_ballot(task, [next(replies)[0] for _ in range(REPLIES)], rng) for task in tasks]
    ppe = folder / "ppe"
    _write_jsonl(
        ppe / "PPE-Human-Preference-V1.jsonl",
        (
            battle_record(f"battle-{i}", battle, (next(replies)[0], next(replies)[0]), rng)
            for i, battle in enumerate(battles)
        ),
    )
    rows = [best_of_k_record(ask, next(replies), rng) for ask in set_asks]
    for family in FAMILIES:
        mine = (row for row, ask in zip(rows, set_asks, strict=True) if ask.task.family == family)
        _write_jsonl(ppe / f"PPE-{family}-Best-of-K.jsonl", _capped(mine, plan.max_rows))
    pool = [pool_record(f"pool-{i}", ask, next(replies)) for i, ask in enumerate(pool_asks)]
    _write_jsonl(folder / "pool.jsonl", pool)
    return ballots, pool


def _write_prompts(folder: Path, plan: Plan, seed: int) -> None:
    """Write tasks with their answers, for policies to be sampled on (`jobs/generate.py`).

    The generator is one of its own, so that nothing else depends on them.
    """
    rng = random.Random(seed)
    records = (
        {"id": f"{family}-{i}", "domain": family, "prompt": task.prompt, "answer": task.answer}
        for family in FAMILIES
        for i, task in enumerate(draw_distinct(rng, "pool", family, plan.num_search_prompts))
    )
    _write_jsonl(folder / "prompts.jsonl", records)


def _ballot(task: Task, replies: Sequence[str], rng: random.Random) -> Ballot:
    """Let a voter decide every pair of the replies."""
    winners = [vote(task, replies[i], replies[j], rng) for i, j in PAIRS]
    return Ballot(task.prompt, replies, winners)


def _replies(processes: Executor, folder: Path, asks: Sequence[Ask], seed: int) -> list[list[str]]:
    """Sample the replies to every ask, one job per base model."""
    positions: dict[str, list[int]] = defaultdict(list)
    for i, ask in enumerate(asks):
        positions[ask.policy.base].append(i)
    found = _run(
        processes,
        "sampling policies",
        {
            base: (sample, folder / "base_models" / base, [asks[i] for i in its], seed)
            for base, its in positions.items()
        },
    )
    replies: list[list[str]] = [[]] * len(asks)
    for base, its in positions.items():
        for i, reply in zip(its, found[base], strict=True):
            replies[i] = reply
    return replies


def _reward_models(
    recipe: Recipe, world: Path, ballots: Sequence[Ballot], pool: Sequence[Record], seed: int
) -> dict[str, list[npt.NDArray[np.float64]]]:
    """Train the reward models of a recipe; return the rewards of the pool by each."""
    train(recipe, world, ballots, seed)
    rewards = {}
    for name in map(recipe.name, recipe.num_votes):
        classifier = Classifier(model=str(world / "reward_models" / name))
        classifier.load(num_threads=1)
        rewards[name] = classifier.score([as_row(record) for record in pool])
    return rewards


def _capped(rows: Iterable[Record | None], max_rows: int) -> list[Record]:
    """The first `max_rows` of each generator, of those that passed the filter."""
    counts: Counter[str] = Counter()
    kept = []
    for row in rows:
        if row is not None and counts[row["model_name"]] < max_rows:
            counts[row["model_name"]] += 1
            kept.append(row)
    return kept


def _processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        os.cpu_count(),
        # a forked torch may hang
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
    )


def _begin_process() -> None:
    """Take one thread, and leave progress to the parent."""
    torch.set_num_threads(1)
    disable_progress_bar()
    set_verbosity_error()  # that the head of a reward model is new is no news


def _run(processes: Executor, what: str, jobs: Mapping[Key, tuple[Any, ...]]) -> dict[Key, Any]:
    """Run jobs, each a function and its arguments, side by side."""
    futures = {processes.submit(*job): key for key, job in jobs.items()}
    with progress_bar(len(jobs), what, "job") as progress:
        for _ in as_completed(futures):
            progress.update()
    return {key: future.result() for future, key in futures.items()}


def _write_jsonl(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
