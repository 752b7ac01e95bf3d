"""Texts as a tree of token ids, laid out in one row: what texts begin with alike is there once.

A prompt with its K completions becomes one segment with K below it, and a template that begins many
prompts a segment above theirs. The tree is found from the token ids alone: texts are sorted, and
neighbors are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.config import PretrainedConfig

TokenIds = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]

MIN_SAVED = 16
"""A common prefix is shared where that saves as many tokens; fewer cost less than one more call."""

_LITTLE = 8
"""To compute an eighth of a batch again costs less than a batch that is too large for the cache."""

VERIFIED = frozenset(
    (
        "cohere", "gemma", "gemma2", "gemma3_text", "gpt_neox", "granite", "llama", "mistral",
        "olmo2", "phi3", "qwen2", "qwen3", "smollm3",
    )
)  # fmt: skip
"""Model types whose packed rewards and log-probs the tests compare with one text at a time."""


class Segment(NamedTuple):
    """A piece of the row, all of whose tokens belong to the same texts."""

    start: int
    end: int
    stop: int
    """Where the segments below it, which follow it without a gap, end."""
    path: Positions
    """[L] where in the row its text stands from its first token to the end of this segment."""


class Packing(NamedTuple):
    """Texts in one row of N tokens."""

    token_ids: TokenIds
    position_ids: Positions
    """[N] the position of each token in its own text."""
    segments: list[Segment]
    where: list[Positions]
    """Of each text, [T] the places of its tokens in the row."""


def is_packed(config: PretrainedConfig, hf_config: Any) -> bool:
    """Whether torch puts the texts of a causal model into shared rows; else into padded batches.

    They do where its attention was verified, unless the user chose another one.
    """
    if config.attn_implementation is not None or hf_config.model_type not in VERIFIED:
        return False
    if config.trust_remote_code and getattr(hf_config, "auto_map", None):
        return False  # whatever that code does
    slides = "sliding_attention" in (getattr(hf_config, "layer_types", None) or ())
    if slides and getattr(hf_config, "use_sliding_window", True) is False:
        return False  # masks and attention would read the contradiction in two ways
    return mixed_length(hf_config) is None and is_causal(hf_config)


def is_causal(hf_config: Any) -> bool:
    """Whether tokens see none to come; some encoders are decoders with that switched off."""
    config = hf_config.get_text_config()
    if getattr(config, "use_bidirectional_attention", False):
        return False
    return getattr(config, "is_causal", True) is not False


def mixed_length(hf_config: Any) -> int | None:
    """Tokens up to which texts of different lengths may share a batch; None if all may.

    Beyond what the model was first trained on, rotary embeddings called dynamic and longrope change
    with the longest position in the batch, so that a text would depend on its company. BigBird
    leaves out nothing while a batch is no longer than what its blocks see anyway.
    """
    config = hf_config.get_text_config()
    if getattr(config, "attention_type", None) == "block_sparse":
        return int((5 + 2 * config.num_random_blocks) * config.block_size)
    told = getattr(config, "rope_parameters", None) or {}
    if not any(kind in str(told) for kind in ("dynamic", "longrope")):
        return None
    kinds = [told, *(value for value in told.values() if isinstance(value, dict))]
    first = [kind.get("original_max_position_embeddings") for kind in kinds]
    return min(int(length) for length in (*first, config.max_position_embeddings) if length)


def common_prefixes(texts: Sequence[TokenIds]) -> list[int]:
    """How many tokens each text and the next begin with alike."""
    return [_common_prefix(a, b) for a, b in pairwise(texts)]


def num_computed(texts: Sequence[TokenIds]) -> int:
    """How many tokens texts have, what they begin with alike counted once."""
    ordered = sorted(texts, key=lambda ids: ids.tobytes())
    return sum(map(len, ordered)) - sum(common_prefixes(ordered))


def tree_batches(
    texts: Sequence[TokenIds], tokens_per_batch: int, enough: int | None = None
) -> list[list[int]]:
    """Cut different texts into batches of at most so many tokens, what they share counted once.

    With `enough` tokens a batch ends where the next text shares little with the one before, which
    would be computed again.

    Returns:
        Indices into `texts`, sorted by content in and across batches; a longer text has a batch to
        itself.
    """
    order = sorted(range(len(texts)), key=lambda i: texts[i].tobytes())
    shared = [0, *common_prefixes([texts[i] for i in order])]
    found: list[list[int]] = []
    size = tokens_per_batch
    for index, num_shared in zip(order, shared, strict=True):
        new = len(texts[index]) - num_shared
        full = enough is not None and size + new > enough and num_shared * _LITTLE <= size
        if full or size + new > tokens_per_batch:
            size = len(texts[index])
            found.append([index])
        else:
            size += new
            found[-1].append(index)
    return found


def pack(texts: Sequence[TokenIds]) -> Packing:
    """Lay out texts that differ and are sorted as `tree_batches` sorts them."""
    shared = np.array(common_prefixes(texts), dtype=np.int64)
    row: list[TokenIds] = []
    segments: list[Segment] = []
    last: list[int] = []  # text below each segment
    where: list[Positions] = [np.empty(0, dtype=np.int64)] * len(texts)
    size = 0
    # texts low, ..., high - 1 begin alike, and that is in the row, as `path`, so far
    pending = [(0, len(texts), np.empty(0, dtype=np.int64))]
    while pending:
        low, high, path = pending.pop()
        common = shared[low : high - 1]
        end = int(common.min()) if len(common) else len(texts[low])
        piece = texts[low][len(path) : end]
        if not len(common) or len(common) * len(piece) >= MIN_SAVED:
            path = np.concatenate([path, np.arange(size, size + len(piece))])
            if len(piece):
                row.append(piece)
                segments.append(Segment(size, size + len(piece), 0, path))
                last.append(high - 1)
                size += len(piece)
        if len(common):
            cuts = [low, *(low + 1 + np.flatnonzero(common == end)).tolist(), high]
            pending.extend(reversed([(a, b, path) for a, b in pairwise(cuts)]))
        else:
            where[low] = path
    depths = [np.arange(len(s.path) + s.start - s.end, len(s.path)) for s in segments]
    # the last text below a segment has tokens of its own, the last that are below it
    stops = [int(where[text][-1]) + 1 for text in last]
    return Packing(
        np.concatenate(row),
        np.concatenate(depths),
        [s._replace(stop=stop) for s, stop in zip(segments, stops, strict=True)],
        where,
    )


def filled_up(packing: Packing, multiple: int) -> Packing:
    """Add a text that nobody asked for, so that the row is a multiple long."""
    size = len(packing.token_ids)
    depths = np.arange(-size % multiple)
    if not len(depths):
        return packing
    path = size + depths
    end = size + len(depths)
    return Packing(
        np.concatenate([packing.token_ids, np.zeros(len(depths), dtype=np.int32)]),
        np.concatenate([packing.position_ids, depths]),
        [*packing.segments, Segment(size, end, end, path)],
        packing.where,
    )


def _common_prefix(a: TokenIds, b: TokenIds) -> int:
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
