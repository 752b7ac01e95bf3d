"""The body of a model on torch: token ids in, hidden states out, exact for each text.

Texts of a causal model are packed into one row in which common prefixes are there once, where its
attention is known to allow that; all others go in length-sorted padded batches.

Shapes: B texts of a batch, T tokens of its longest, N tokens of all, H hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rm_cluster.config import PretrainedConfig
from rm_cluster.engines.packing import Positions, TokenIds, pack, tree_batches
from rm_cluster.engines.tree_attention import NAME, Tree

_ROW_BY_ROW = ("q_proj", "o_proj", "dense", "mlp")
"""Parts of a layer that give nothing to other tokens: all but keys, values and the attention."""


class States(NamedTuple):
    """The hidden states of some texts."""

    indices: list[int]
    """Which texts."""
    hidden: torch.Tensor
    """[N, H], right in the rows that were asked for."""
    where: list[Positions]
    """Of each of these texts, the rows of `hidden` that are its tokens' that were asked for."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def token_budget(config: PretrainedConfig) -> int:
    """The token budget of a forward pass; a CPU is fastest while a layer's states are in cache."""
    return config.tokens_per_batch or (2048 if device().type == "cpu" else 8192)


def padded_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Cut texts, longest first, into batches of at most `tokens_per_batch` padded tokens.

    Returns:
        Indices into `lengths`; a longer text has a batch to itself.
    """
    found: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and width * (len(found[-1]) + 1) <= tokens_per_batch:
            found[-1].append(index)
        else:
            width = lengths[index]
            found.append([index])
    return found


def right_padded(texts: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [B, T] token ids with zeros on the right, and [B] lengths."""
    lengths = torch.tensor([len(ids) for ids in texts])
    input_ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(input_ids, texts, strict=True):
        row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return input_ids.to(device()), lengths.to(device())


def distinct(texts: Sequence[TokenIds]) -> tuple[list[TokenIds], list[int]]:
    """Return the texts that differ, and which of them each text is.

    Equal texts are computed once, so that they tie exactly.
    """
    known: dict[bytes, int] = {}
    index = [known.setdefault(ids.tobytes(), len(known)) for ids in texts]
    return [np.frombuffer(text, dtype=np.int32) for text in known], index


class Decoder:
    """A causal model without its head.

    Args:
        model: Any causal model of transformers, with its head.
        packed: As `packing.is_packed` says.
        tokens_per_batch: At most so many in one forward pass.
    """

    def __init__(self, model: Any, *, packed: bool, tokens_per_batch: int) -> None:
        self._body = model.base_model
        self._packed = packed
        self._tokens_per_batch = tokens_per_batch
        self._rows: torch.Tensor | None = None
        if packed:
            model.set_attn_implementation(NAME)
            for name, module in self._body.layers[-1].named_modules():
                if name.endswith(_ROW_BY_ROW):
                    module.forward = functools.partial(self._in_rows, module.forward)

    def states(self, texts: Sequence[TokenIds], first: Positions) -> Iterator[States]:
        """Yield the hidden states of texts that differ, some texts at a time.

        Args:
            texts: Token ids of each.
            first: [B] the first token of each whose state is asked for; all after it are, too.
        """
        if self._packed:
            for indices in tree_batches(texts, self._tokens_per_batch):
                inputs, where = packed_inputs([texts[i] for i in indices])
                where = [places[first[i] :] for i, places in zip(indices, where, strict=True)]
                self._rows = torch.from_numpy(np.unique(np.concatenate(where))).to(device())
                yield States(indices, self._hidden(inputs), where)
        else:
            for indices in padded_batches([len(ids) for ids in texts], self._tokens_per_batch):
                # causal states of a text cannot see the padding to its right, so no mask is
                # needed, and without one attention takes its fast causal path
                input_ids, _ = right_padded([texts[i] for i in indices])
                width = input_ids.shape[1]
                where = [
                    np.arange(k * width + first[i], k * width + len(texts[i]))
                    for k, i in enumerate(indices)
                ]
                yield States(indices, self._hidden({"input_ids": input_ids}), where)

    def _hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        hidden: torch.Tensor = self._body(**inputs, use_cache=False)[0]
        return hidden.flatten(0, 1)

    def _in_rows(
        self, forward: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor
    ) -> torch.Tensor:
        """Of the last layer, compute only the rows that are asked for; the others are zeros."""
        here = forward(hidden[:, self._rows])
        out = here.new_zeros(1, hidden.shape[1], here.shape[-1])
        out[:, self._rows] = here
        return out


def packed_inputs(texts: Sequence[TokenIds]) -> tuple[dict[str, Any], list[Positions]]:
    """What a model with tree attention takes, and where each text is in its row."""
    packing = pack(texts)
    inputs = {
        "input_ids": torch.from_numpy(packing.token_ids.astype(np.int64))[None].to(device()),
        "position_ids": torch.from_numpy(packing.position_ids)[None].to(device()),
        "tree": Tree(packing, device()),
    }
    return inputs, packing.where
