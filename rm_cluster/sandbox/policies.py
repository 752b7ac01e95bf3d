"""Policies: base models at a temperature, really sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaForCausalLM

from rm_cluster.sandbox.tasks import Task
from rm_cluster.sandbox.tokenizer import tokenize_prompts

MAX_NEW_TOKENS = 21
BATCH = 512


class Policy(NamedTuple):
    """A base model that is sampled at a temperature."""

    name: str
    base: str
    temperature: float


class Ask(NamedTuple):
    """A task that a policy shall reply to a number of times."""

    task: Task
    policy: Policy
    num_replies: int = 1


def _policies() -> tuple[Policy, ...]:
    finished, early = (0.3, 0.6, 0.9), (0.4, 0.8)
    return tuple(
        Policy(f"{base}{suffix}-t{temperature}", base + suffix, temperature)
        for base in ("base-l", "base-m", "base-forum", "base-s")
        for suffix, temperatures in (("", finished), ("-early", early))
        for temperature in temperatures
    )


POLICIES = _policies()


def sample(folder: Path, asks: Sequence[Ask], seed: int) -> list[list[str]]:
    """Sample the replies to each ask from the base model in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    replies: list[list[str]] = [[] for _ in asks]
    # prompts of about the same length go together, so that little is padding
    order = sorted(range(len(asks)), key=lambda i: len(asks[i].task.prompt))
    waiting = [i for i in order for _ in range(asks[i].num_replies)]
    for start in range(0, len(waiting), BATCH):
        batch = waiting[start : start + BATCH]
        prompts = tokenize_prompts(tokenizer, [asks[i].task.prompt for i in batch])
        temperatures = torch.tensor([asks[i].policy.temperature for i in batch])
        sampled = _sample(model, prompts, temperatures, generator)
        texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            replies[i].append(text)
    return replies


@torch.inference_mode()
def _sample(
    model: LlamaForCausalLM,
    prompts: torch.Tensor,
    temperatures: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """[B, N] sampled ids after [B, T] ids of prompts padded on the left; padding after the end."""
    pad, eos = model.config.pad_token_id, model.config.eos_token_id
    mask = (prompts != pad).long()
    position = mask.cumsum(dim=1) - 1
    tokens, cache, sampled = prompts, DynamicCache(), []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for step in range(MAX_NEW_TOKENS):
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position.clamp(min=0),
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        logits[:, [pad, model.config.bos_token_id]] = -torch.inf
        if step == 0:  # no reply is empty
            logits[:, eos] = -torch.inf
        chances = (logits / temperatures[:, None]).softmax(dim=1)
        tokens = chances.multinomial(1, generator=generator).masked_fill(ended[:, None], pad)
        sampled.append(tokens)
        ended |= tokens[:, 0] == eos
        if ended.all():
            break
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        position = position[:, -1:] + 1
    return torch.cat(sampled, dim=1)
