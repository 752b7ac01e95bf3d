"""Attention over a row of packed texts, in which each token sees its own text and no other.

Registered with transformers as an attention implementation, it serves any model whose layers hand
their window and soft cap to the implementation, and whose positions are given (rotary embeddings).

Shapes: N tokens of the row, L of a path, S of a segment, H heads, D of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface

from rm_cluster.engines.packing import Packing, Segment

NAME = "rm_cluster_tree"


class Tree:
    """The segments of a row, as the layers of one forward pass use them."""

    def __init__(self, packing: Packing, device: torch.device) -> None:
        self.segments = packing.segments
        self.paths = [torch.from_numpy(segment.path).to(device) for segment in packing.segments]


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    tree: Tree,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from [1, H, N, D] queries to what stands before each in its own text.

    Returns:
        [1, N, H, D], and no weights.
    """
    longest = max(len(segment.path) for segment in tree.segments)
    windowed = sliding_window is not None and sliding_window < longest
    if query.device.type == "cpu" and softcap is None and not windowed:
        out = _merged(query, key, value, tree.segments, scaling)
    else:
        out = _along_paths(query, key, value, tree, scaling, sliding_window, softcap)
    return out.transpose(1, 2), None


def _merged(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Sequence[Segment],
    scaling: float,
) -> torch.Tensor:
    """Each segment attends to itself, then all that is below a segment to it, in one call.

    Partial softmaxes are put together by their log-sum-exps, so that nothing is copied or masked.
    """
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    for start, end, _, _ in segments:
        here = slice(start, end)
        out[:, :, here], lse[:, :, here] = attend(
            query[:, :, here], key[:, :, here], value[:, :, here], 0.0, True, scale=scaling
        )
    for start, end, stop, _ in segments:
        if stop == end:
            continue
        above, below = slice(start, end), slice(end, stop)
        more, more_lse = attend(
            query[:, :, below], key[:, :, above], value[:, :, above], 0.0, False, scale=scaling
        )
        weight = torch.sigmoid(more_lse - lse[:, :, below])[..., None].to(out.dtype)
        out[:, :, below] = torch.lerp(out[:, :, below], more, weight)
        lse[:, :, below] = torch.logaddexp(lse[:, :, below], more_lse)
    return out


def _along_paths(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: Tree,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Each segment attends to its text from the beginning, with windows and soft caps."""
    out = torch.empty_like(query)
    groups = query.shape[1] // key.shape[1]
    for segment, path in zip(tree.segments, tree.paths, strict=True):
        here = slice(segment.start, segment.end)
        mask = _mask(len(path), segment.end - segment.start, sliding_window, query.device)
        keys, values = (x[:, :, path].repeat_interleave(groups, 1) for x in (key, value))
        if softcap is None:
            out[:, :, here] = torch.nn.functional.scaled_dot_product_attention(
                query[:, :, here], keys, values, mask, scale=scaling
            )
        else:
            out[:, :, here] = _capped(query[:, :, here], keys, values, mask, scaling, softcap)
    return out


def _mask(
    num_keys: int, num_queries: int, sliding_window: int | None, device: torch.device
) -> torch.Tensor:
    """[S, L] whether the key at a position is seen by the last S positions."""
    positions = torch.arange(num_keys, device=device)
    back = positions[num_keys - num_queries :, None] - positions
    return (back >= 0) & (back < (sliding_window or num_keys))


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores s become `softcap * tanh(s / softcap)` (Gemma 2)."""
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


AttentionInterface.register(NAME, tree_attention)
