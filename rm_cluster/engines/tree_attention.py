"""Attention over a row of packed texts, in which each token sees its own text and no other.

Registered with transformers as an attention implementation, it serves any model whose layers hand
their window and soft cap to the implementation, and whose positions are given (rotary embeddings).

Shapes: N tokens of the row, L of a path, S of a segment, H heads, D of a head.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from rm_cluster.engines.packing import Packing

NAME = "rm_cluster_tree"

_LEAST_DIM = 16
"""Of a head, for flex attention on a GPU."""
_BLOCK = 128
_SMALL_BLOCK = 64
_SMALL_KERNEL = {
    "BLOCK_M": _SMALL_BLOCK, "BLOCK_N": _SMALL_BLOCK, "num_warps": 4, "num_stages": 2
}  # fmt: skip
"""Of texts of a few hundred tokens, flex attention's usual blocks hold much that the mask leaves
out: on an H200, with heads of 128 in bfloat16, they take 1.37 times as long as small ones."""
_MOST_DIM = 128
"""Of a head of short floats, for small blocks: more would not fit every GPU."""

_QUERIES_AT_ONCE = 1024
"""Of a text, where scores or masks are written out."""
_PIECE = 128
"""Tokens that attend to each other in one call on a CPU, whose kernel computes what the causal mask
hides: of a longer piece, the halves do, and then the second attends to the first."""
_ROWS = 32
"""That kernel takes queries in so many rows or a multiple."""


class Tree:
    """The segments of a row, as the layers of one forward pass use them."""

    def __init__(self, packing: Packing, device: torch.device) -> None:
        self.segments = packing.segments
        self.longest = int(packing.position_ids.max()) + 1
        self._positions = packing.position_ids
        self._device = device
        self._masks: dict[tuple[int | None, int], BlockMask] = {}

    @functools.cached_property
    def parts(self) -> tuple[list[slice], list[tuple[slice, slice]]]:
        """Pieces of the row, all within a text, and pairs of what is above and what is below it.

        A token sees what is before it in its piece, and all of above where it is in below.
        """
        pieces: list[slice] = []
        pairs: list[tuple[slice, slice]] = []
        for start, end, stop, _ in self.segments:
            _halve(start, end, pieces, pairs)
            if stop > end:
                pairs.append((slice(start, end), slice(end, stop)))
        return pieces, pairs

    @functools.cached_property
    def paths(self) -> list[torch.Tensor]:
        """Of each segment, where its text stands in the row."""
        return [torch.from_numpy(segment.path).to(self._device) for segment in self.segments]

    def block_mask(self, sliding_window: int | None, block: int) -> BlockMask:
        """What each token of the row sees, for flex attention; layers share it."""
        key = (sliding_window, block)
        if key not in self._masks:
            self._masks[key] = self._block_mask(*key)
        return self._masks[key]

    def _block_mask(self, sliding_window: int | None, block: int) -> BlockMask:
        ends = np.concatenate([np.full(end - start, stop) for start, end, stop, _ in self.segments])
        stop, position = (torch.from_numpy(x).to(self._device) for x in (ends, self._positions))

        def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            # what is below a token follows its segment without a gap
            return (k <= q) & (q < stop[k])

        def sees_near(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            assert sliding_window is not None
            return sees(b, h, q, k) & (position[q] - position[k] < sliding_window)

        mask = sees if sliding_window is None else sees_near
        return create_block_mask(
            mask, None, None, len(ends), len(ends), device=self._device, BLOCK_SIZE=block
        )


def _halve(start: int, end: int, pieces: list[slice], pairs: list[tuple[slice, slice]]) -> None:
    """Cut what stands between two places into pieces and pairs."""
    size = end - start
    if size <= _PIECE:
        pieces.append(slice(start, end))
    else:
        middle = start + math.ceil(size / (2 * _ROWS)) * _ROWS
        _halve(start, middle, pieces, pairs)
        _halve(middle, end, pieces, pairs)
        pairs.append((slice(start, middle), slice(middle, end)))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it asks what a tree is like
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
    if sliding_window is not None and sliding_window >= tree.longest:
        sliding_window = None
    on_cpu = query.device.type == "cpu"
    if on_cpu and softcap is None and sliding_window is None:
        out = _merged(query, key, value, tree, scaling)
    elif not on_cpu and query.shape[-1] >= _LEAST_DIM:
        out = _flex(_compiled(), query, key, value, tree, scaling, sliding_window, softcap)
    else:
        out = _along_paths(query, key, value, tree, scaling, sliding_window, softcap)
    return out.transpose(1, 2), None


def _merged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tree: Tree, scaling: float
) -> torch.Tensor:
    """Each piece attends to itself, then all that is below something to it, in one call.

    Partial softmaxes are put together by their log-sum-exps, so that nothing is copied or masked.
    """
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    pieces, pairs = tree.parts
    for here in pieces:
        out[:, :, here], lse[:, :, here] = attend(
            query[:, :, here], key[:, :, here], value[:, :, here], 0.0, True, scale=scaling
        )
    for above, below in pairs:
        more, more_lse = attend(
            query[:, :, below], key[:, :, above], value[:, :, above], 0.0, False, scale=scaling
        )
        weight = torch.sigmoid(more_lse - lse[:, :, below])[..., None].to(out.dtype)
        out[:, :, below] = torch.lerp(out[:, :, below], more, weight)
        lse[:, :, below] = torch.logaddexp(lse[:, :, below], more_lse)
    return out


@functools.cache
def _compiled() -> Callable[..., torch.Tensor]:
    """Flex attention as one kernel; only compiled does it skip what the mask leaves out."""
    # a soft cap is a number of the model: as an input, the kernel cannot be compiled
    torch._dynamo.config.specialize_float = True
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention)
    return compiled


def _flex(
    attend: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: Tree,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """The whole row in one call of flex attention, `attend`."""

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    small = query.dtype != torch.float32 and query.shape[-1] <= _MOST_DIM
    return attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else capped,
        block_mask=tree.block_mask(sliding_window, _SMALL_BLOCK if small else _BLOCK),
        scale=scaling,
        enable_gqa=True,
        kernel_options=_SMALL_KERNEL if small else None,
    )


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
        before = len(path) - (segment.end - segment.start)
        # some at a time, or long texts would take memory by the square of their length
        for start in range(segment.start, segment.end, _QUERIES_AT_ONCE):
            here = slice(start, min(start + _QUERIES_AT_ONCE, segment.end))
            first, last = (before + place - segment.start for place in (here.start, here.stop))
            near = path[max(0, first + 1 - (sliding_window or last)) : last]
            mask = _mask(len(near), last - first, sliding_window, query.device)
            keys, values = (x[:, :, near].repeat_interleave(groups, 1) for x in (key, value))
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
