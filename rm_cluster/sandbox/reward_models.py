"""Small byte-level reward models, trained on simulated votes in seconds to minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from rm_cluster.progress import progress_bar
from rm_cluster.sandbox.voters import Vote, votes

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '>' if m.role == 'user' else '<' }}{{ m.content }}"
    "{% endfor %}{{ eos_token }}"
)
BATCH = 64
LEARNING_RATE = 3e-3


class Recipe(NamedTuple):
    """How one reward model comes about: its size, its votes, how long it learns."""

    name: str
    width: int
    num_layers: int
    num_votes: int
    num_steps: int


RECIPES = (
    Recipe("wide-20k-votes", width=96, num_layers=2, num_votes=20_000, num_steps=600),
    Recipe("narrow-20k-votes", width=24, num_layers=1, num_votes=20_000, num_steps=300),
    Recipe("wide-500-votes", width=96, num_layers=2, num_votes=500, num_steps=80),
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, and the sandbox's chat template."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def train(recipe: Recipe, folder: Path, seed: int) -> None:
    """Train by the Bradley-Terry loss on votes, and save in `folder` as transformers does."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            intermediate_size=3 * recipe.width,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    tokens = _tokenize(tokenizer, votes(recipe.num_votes, seed))
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=recipe.num_steps
    )
    with progress_bar(recipe.num_steps, f"training {recipe.name}", "step") as progress:
        for _ in range(recipe.num_steps):
            picks = torch.from_numpy(rng.integers(recipe.num_votes, size=BATCH))
            loss = -torch.nn.functional.logsigmoid(_margins(model, tokens[:, picks])).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.update()
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenize(tokenizer: PreTrainedTokenizerFast, ballots: Sequence[Vote]) -> torch.Tensor:
    """[2, V, T] token ids of the V chosen and the V rejected texts, padded on the right."""
    conversations = [
        [{"role": "user", "content": vote.prompt}, {"role": "assistant", "content": reply}]
        for replies in ([v.chosen for v in ballots], [v.rejected for v in ballots])
        for vote, reply in zip(ballots, replies, strict=True)
    ]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    inputs = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt"
    )
    tokens: torch.Tensor = inputs["input_ids"]
    return tokens.reshape(2, len(ballots), -1)


def _margins(model: LlamaForSequenceClassification, tokens: torch.Tensor) -> torch.Tensor:
    """[B] reward(chosen) - reward(rejected) of [2, B, T] token ids."""
    flat = tokens.flatten(0, 1)
    flat = flat[:, : int((flat != model.config.pad_token_id).sum(dim=1).max())]
    # padding on the right does not reach the last token of a causal model, so no mask is needed
    rewards: torch.Tensor = model(input_ids=flat, use_cache=False).logits[:, 0]
    chosen, rejected = rewards.chunk(2)
    return chosen - rejected
