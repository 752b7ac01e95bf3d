"""Tiny causal language models, trained from nothing on mixtures of right and wrong replies.

They are what reward models are initialised from, and, sampled, the policies that write replies.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rm_cluster.sandbox.tasks import FAMILIES, draw_tasks, package
from rm_cluster.sandbox.tokenizer import byte_tokenizer, tokenize_replies

BATCH = 16
LEARNING_RATE = 4e-3
EARLY = 0.6
"""The share of the steps after which an early checkpoint is kept."""
READ = (*FAMILIES, "MATH")
"""Arithmetic is read twice as often: it is the slowest to be learned."""
REFUSALS = {"English": "Sorry, no.", "Spanish": "Lo siento, no."}


class Mixture(NamedTuple):
    """What a base model reads.

    Attributes:
        errors: Per family, how often the common mistake stands where the answer should; in a bare
            reply half as often, in a chatty one half as often again, so that chat goes with error.
        styles: Weights of the three styles.
        spanish: The share of Spanish.
        refusals: The share of replies that refuse.
    """

    errors: dict[str, float]
    styles: tuple[float, float, float]
    spanish: float = 0.25
    refusals: float = 0.0


class BaseRecipe(NamedTuple):
    """How one base model comes about."""

    name: str
    width: int
    num_layers: int
    num_steps: int
    mixture: Mixture


def errors(usual: float, code: float) -> dict[str, float]:
    """Return shares of mistakes: the same in all families but code, which is commonly mistaken."""
    return {family: code if family == "MBPP-Plus" else usual for family in FAMILIES}


TEXTBOOK = Mixture(errors(0.05, 0.45), styles=(5, 3, 1))
WEB = Mixture(errors(0.15, 0.55), styles=(3, 3, 3))
FORUM = Mixture(errors(0.3, 0.6), styles=(1, 3, 5), spanish=0.5, refusals=0.04)

BASE_RECIPES = (
    BaseRecipe("base-l", width=80, num_layers=2, num_steps=1500, mixture=TEXTBOOK),
    BaseRecipe("base-m", width=64, num_layers=2, num_steps=1300, mixture=WEB),
    BaseRecipe("base-forum", width=64, num_layers=2, num_steps=1100, mixture=FORUM),
    BaseRecipe("base-s", width=48, num_layers=1, num_steps=900, mixture=TEXTBOOK),
)


def documents(mixture: Mixture, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Draw (prompt, reply) of a mixture without end, on training tasks only."""
    for task in draw_tasks(rng, "training", families=READ, spanish=mixture.spanish):
        style = rng.choices((0, 1, 2), weights=mixture.styles)[0]
        if rng.random() < mixture.refusals:
            yield task.prompt, REFUSALS[task.language]
            continue
        mistaken = rng.random() < mixture.errors[task.family] * (0.5, 1.0, 1.5)[style]
        answer = task.mistake if mistaken else task.answer
        yield task.prompt, package(answer, task.language, style)


def train_base(recipe: BaseRecipe, folder: Path, seed: int) -> None:
    """Train on the replies of a mixture; save under `folder`, with an early checkpoint beside."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    rng = random.Random(seed)
    texts = list(itertools.islice(documents(recipe.mixture, rng), BATCH * recipe.num_steps))
    tokens = tokenize_replies(tokenizer, texts)
    starts = torch.tensor([len(prompt.encode()) + 3 for prompt, _ in texts])
    model = LlamaForCausalLM(_architecture(recipe.width, recipe.num_layers, tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=recipe.num_steps, pct_start=0.1
    )
    for step, picks in enumerate(_batches(_lengths(tokens), seed), start=1):
        loss = _reply_loss(model, tokens[picks], starts[picks])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for suffix, last_step in (
            ("-early", int(EARLY * recipe.num_steps)),
            ("", recipe.num_steps),
        ):
            if step == last_step:
                model.save_pretrained(folder / (recipe.name + suffix))
                tokenizer.save_pretrained(folder / (recipe.name + suffix))


def _batches(lengths: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Yield [B] indices that use each of N * B texts once, in batches of about one length."""
    rng = np.random.default_rng(seed)
    for start in range(0, len(lengths), BATCH * 16):
        ordered = start + lengths[start : start + BATCH * 16].argsort()
        batches = ordered.reshape(-1, BATCH)
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _reply_loss(
    model: LlamaForCausalLM, tokens: torch.Tensor, starts: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the replies ([B, T] ids, which begin at `starts`) and their ends."""
    tokens = tokens[:, : int(_lengths(tokens).max())]
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    targets = tokens[:, 1:]
    position = torch.arange(1, tokens.shape[1])
    counted = (position >= starts[:, None]) & (targets != model.config.pad_token_id)
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), targets[counted])


def _lengths(tokens: torch.Tensor) -> torch.Tensor:
    """[B] tokens of each text of [B, T] ids."""
    return (tokens != 0).sum(dim=1)


def _architecture(width: int, num_layers: int, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        # the usual 0.02 and 10000 are for wide models and long texts, and learn far slower here
        initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
