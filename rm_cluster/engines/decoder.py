"""The body of a model on torch: token ids in, hidden states out, exact for each text.

Texts of a causal model are packed into one row in which common prefixes are there once, where its
attention is known to allow that; all others go in length-sorted padded batches. Packed batches go
side by side, one on each core.

Shapes: B texts of a batch, T tokens of its longest, N tokens of all, H hidden.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rm_cluster.config import PretrainedConfig
from rm_cluster.engines.cores import Cores
from rm_cluster.engines.device import device
from rm_cluster.engines.packing import (
    Positions,
    TokenIds,
    filled_up,
    mixed_length,
    pack,
    tree_batches,
)
from rm_cluster.engines.tree_attention import NAME, Tree

_ROW_BY_ROW = ("q_proj", "o_proj", "dense", "mlp")
"""Parts of a layer that give nothing to other tokens: all but keys, values and the attention."""

_ROWS = 64
"""A row is filled up to a multiple: oneDNN prepares, and keeps, a product of each shape."""


class States(NamedTuple):
    """The hidden states of some texts."""

    indices: list[int]
    """Which texts."""
    hidden: torch.Tensor
    """[N, H], right in the rows that were asked for."""
    where: list[Positions]
    """Of each of these texts, the rows of `hidden` that are its tokens' that were asked for."""


def token_budget(config: PretrainedConfig) -> int:
    """The token budget of a forward pass."""
    return config.tokens_per_batch or 8192


def enough(tokens_per_batch: int) -> int:
    """Tokens after which a batch may end; a CPU is fastest while a layer's states are in cache."""
    return min(tokens_per_batch, 1024) if device().type == "cpu" else tokens_per_batch


def padded_batches(
    lengths: Sequence[int], tokens_per_batch: int, mixed: int | None = None
) -> list[list[int]]:
    """Cut texts, longest first, into batches of at most `tokens_per_batch` padded tokens.

    With `mixed`, a text of more tokens goes with others of its length alone.

    Returns:
        Indices into `lengths`; a longer text has a batch to itself.
    """
    found: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        apart = mixed is not None and lengths[index] != width > mixed
        if found and not apart and width * (len(found[-1]) + 1) <= tokens_per_batch:
            found[-1].append(index)
        else:
            width = lengths[index]
            found.append([index])
    return found


def right_padded(texts: Sequence[TokenIds], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [B, T] token ids with `pad` on the right, and [B] lengths."""
    lengths = torch.tensor([len(ids) for ids in texts])
    input_ids = torch.full((len(texts), int(lengths.max())), pad)
    for row, ids in zip(input_ids, texts, strict=True):
        row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return input_ids.to(device()), lengths.to(device())


def masked(model: Any, texts: Sequence[TokenIds]) -> dict[str, torch.Tensor]:
    """What an encoder takes; some look for the last token by what pads, whatever the mask."""
    input_ids, lengths = right_padded(texts, model.config.get_text_config().pad_token_id or 0)
    mask = torch.arange(input_ids.shape[1], device=device()) < lengths[:, None]
    return {"input_ids": input_ids, "attention_mask": mask.long()}


def distinct(texts: Sequence[TokenIds]) -> tuple[list[TokenIds], list[int]]:
    """Return the texts that differ, and which of them each text is.

    Equal texts are computed once, so that they tie exactly.
    """
    known: dict[bytes, int] = {}
    index = [
        known.setdefault(np.asarray(ids, dtype=np.int32).tobytes(), len(known)) for ids in texts
    ]
    return [np.frombuffer(text, dtype=np.int32) for text in known], index


def require_known(texts: Sequence[TokenIds], num_tokens: int) -> None:
    """Refuse token ids that a model has no embedding of, at which a GPU would be lost.

    Raises:
        ValueError: There are some; its text says which.
    """
    highest = max((int(ids.max()) for ids in texts if len(ids)), default=0)
    if highest >= num_tokens:
        raise ValueError(
            f"token {highest} is none of the model's {num_tokens}; is it the model's tokenizer?"
        )


class Decoder:
    """A causal model without its head.

    Args:
        model: Any causal model of transformers, with its head.
        packed: As `packing.is_packed` says.
        tokens_per_batch: At most so many in one forward pass.
        num_threads: Cores to use on a CPU; as many as torch uses if None.
    """

    def __init__(
        self, model: Any, *, packed: bool, tokens_per_batch: int, num_threads: int | None
    ) -> None:
        self._body = model.base_model
        self._packed = packed
        self._tokens_per_batch = tokens_per_batch
        self._mixed = mixed_length(model.config)
        # models whose attention is not ours may keep something between layers
        self._cores = Cores(num_threads, side_by_side=packed)
        self._batch = threading.local()
        if packed:
            model.set_attn_implementation(NAME)
            for name, module in self._body.layers[-1].named_modules():
                if name.endswith(_ROW_BY_ROW):
                    module.forward = functools.partial(self._in_rows, module.forward)
            if device().type == "cuda":
                # what stands between two matrix products becomes one kernel
                for layer in self._body.layers[:-1]:
                    layer.compile(dynamic=True)

    def each(
        self, texts: Sequence[TokenIds], first: Positions, use: Callable[[States], None]
    ) -> None:
        """Hand the hidden states of texts that differ to `use`, some texts at a time.

        Batches come in no order, and several at a time.

        Args:
            texts: Token ids of each.
            first: [B] the first token of each whose state is asked for; all after it are, too.
            use: Called with them, in inference mode.
        """
        if not texts:
            return
        some = enough(self._tokens_per_batch)
        if self._packed:
            batches = tree_batches(texts, self._tokens_per_batch, some)
        else:
            batches = padded_batches([len(ids) for ids in texts], some, self._mixed)
        states = self._packed_states if self._packed else self._padded_states
        self._cores.each(lambda indices: use(states(texts, first, indices)), batches)

    def _packed_states(
        self, texts: Sequence[TokenIds], first: Positions, indices: list[int]
    ) -> States:
        inputs, where = packed_inputs([texts[i] for i in indices])
        where = [places[first[i] :] for i, places in zip(indices, where, strict=True)]
        self._batch.rows = torch.from_numpy(np.unique(np.concatenate(where))).to(device())
        return States(indices, self._hidden(inputs), where)

    def _padded_states(
        self, texts: Sequence[TokenIds], first: Positions, indices: list[int]
    ) -> States:
        # causal states of a text cannot see the padding to its right, so no mask is needed, and
        # without one attention takes its fast causal path
        input_ids, _ = right_padded([texts[i] for i in indices])
        width = input_ids.shape[1]
        where = [
            np.arange(k * width + first[i], k * width + len(texts[i]))
            for k, i in enumerate(indices)
        ]
        return States(indices, self._hidden({"input_ids": input_ids}), where)

    def _hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        hidden: torch.Tensor = self._body(**inputs, use_cache=False)[0]
        return hidden.flatten(0, 1)

    def _in_rows(
        self, forward: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor
    ) -> torch.Tensor:
        """Of the last layer, compute only the rows that are asked for; the others are zeros."""
        rows = self._batch.rows
        here = forward(hidden[:, rows])
        out = here.new_zeros(1, hidden.shape[1], here.shape[-1])
        out[:, rows] = here
        return out


def packed_inputs(texts: Sequence[TokenIds]) -> tuple[dict[str, Any], list[Positions]]:
    """What a model with tree attention takes, and where each text is in its row."""
    packing = filled_up(pack(texts), _ROWS)
    inputs = {
        "input_ids": torch.from_numpy(packing.token_ids.astype(np.int64))[None].to(device()),
        "position_ids": torch.from_numpy(packing.position_ids)[None].to(device()),
        "tree": Tree(packing, device()),
    }
    return inputs, packing.where
