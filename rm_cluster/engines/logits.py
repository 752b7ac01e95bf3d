"""Logits in float32, whatever the dtype of the model: over a vocabulary, short floats round far."""

from __future__ import annotations

import copy
from typing import Any

import torch

from rm_cluster.engines.linear import speed_up

_LOGITS_IN_MEMORY = {"cpu": 2**24, "cuda": 2**27}
"""So many logits at once, whatever the vocabulary and the texts: 64 MiB on a core, 512 on a GPU,
which is slow at little."""


def float32_head(model: Any) -> Any:
    """Let the output embeddings of a causal language model give float32, and return them.

    The model's own forward pass then scales and caps its logits in float32, too.
    """
    head = model.get_output_embeddings()
    if model.dtype == torch.float32:
        return head
    # a copy, because embeddings that are tied to it keep the model's dtype
    head = _ShortHead(head) if head.weight.is_cuda else _LongHead(head)
    model.set_output_embeddings(head)
    return head


def rows_at_once(head: Any) -> int:
    """How many hidden states may meet output embeddings together."""
    weight = head.weight
    return max(1, _LOGITS_IN_MEMORY[weight.device.type] // int(weight.shape[0]))


class _ShortHead(torch.nn.Module):
    """Products of short floats are exact in float32, in which a GPU sums them up at once."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.flatten(0, -2).to(self.weight.dtype)
        logits = torch.mm(rows, self.weight.t(), out_dtype=torch.float32)
        if self.bias is not None:
            logits = logits.add_(self.bias)
        return logits.view(*hidden.shape[:-1], -1)


class _LongHead(torch.nn.Module):
    """On CPUs torch has no products of short floats with float32 sums."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self._head = copy.deepcopy(head).float()
        speed_up(self._head)
        self.weight = self._head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden.float())
        return logits
