"""Reward models: sequence classifiers that begin as a base model and learn from simulated votes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from rm_cluster.sandbox.tokenizer import tokenize_replies
from rm_cluster.sandbox.voters import Winner

REPLIES = 4
"""Replies to one prompt that are compared with each other."""
PAIRS = tuple(itertools.combinations(range(REPLIES), 2))
BATCH = 8
LEARNING_RATE = 8e-4
TARGETS: dict[Winner, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Ballot(NamedTuple):
    """Replies to one prompt, and how a voter decided each of `PAIRS`."""

    prompt: str
    replies: Sequence[str]
    winners: Sequence[Winner]


class Recipe(NamedTuple):
    """How reward models come about in one pass over votes.

    Attributes:
        base: The base model that they begin as.
        num_votes: After how many votes there is a reward model.
        noise: The share of votes that are turned round.
    """

    base: str
    num_votes: Sequence[int]
    noise: float = 0.0

    def name(self, num_votes: int) -> str:
        """What the reward model after so many votes is called."""
        noise = f"-noise{self.noise:.0%}".rstrip("%") if self.noise else ""
        return f"{self.base}-{num_votes}-votes{noise}"


RECIPES = (
    Recipe("base-l", (6_000, 30_000)),
    Recipe("base-m", (6_000, 30_000)),
    Recipe("base-m", (30_000,), noise=0.3),
    Recipe("base-forum", (6_000, 30_000)),
    Recipe("base-s", (1_200, 12_000)),
)


def train(recipe: Recipe, world: Path, ballots: Sequence[Ballot], seed: int) -> None:
    """Train by the Bradley-Terry loss, and save as transformers does.

    A tie counts as half a vote for either side.
    """
    torch.manual_seed(seed)
    base = world / "base_models" / recipe.base
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    ballots = ballots[: max(recipe.num_votes) // len(PAIRS)]
    replies = [(ballot.prompt, reply) for ballot in ballots for reply in ballot.replies]
    tokens = tokenize_replies(tokenizer, replies).reshape(len(ballots), REPLIES, -1)
    targets = _targets(ballots, recipe.noise, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    batches = torch.arange(len(ballots)).chunk(-(-len(ballots) // BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=len(batches), pct_start=0.1
    )
    seen = 0
    for batch in batches:
        texts, goals = tokens[batch], targets[batch]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(_margins(model, texts), goals)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        before, seen = seen, seen + goals.numel()
        for num_votes in recipe.num_votes:
            if before < num_votes <= seen:
                folder = world / "reward_models" / recipe.name(num_votes)
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)


def _targets(ballots: Sequence[Ballot], noise: float, seed: int) -> torch.Tensor:
    """[G, 6] how much of each vote is for the first of `PAIRS`; a share `noise` is turned round."""
    targets = torch.tensor([[TARGETS[winner] for winner in b.winners] for b in ballots])
    turned = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < noise
    return torch.where(turned, 1 - targets, targets)


def _margins(model: LlamaForSequenceClassification, tokens: torch.Tensor) -> torch.Tensor:
    """[G, 6] margins of `PAIRS`, of [G, 4, T] token ids."""
    flat = tokens.flatten(0, 1)
    flat = flat[:, : int((flat != model.config.pad_token_id).sum(dim=1).max())]
    # padding on the right does not reach the last token of a causal model, so no mask is needed
    rewards = model(input_ids=flat, use_cache=False).logits.reshape(-1, REPLIES)
    first, second = zip(*PAIRS, strict=True)
    margins: torch.Tensor = rewards[:, first] - rewards[:, second]
    return margins
