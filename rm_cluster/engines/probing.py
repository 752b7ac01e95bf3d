"""What a model on torch does, found out on a few tokens: its class and its config may not say it.

Each is asked once, when the weights are in memory.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rm_cluster.engines.device import device
from rm_cluster.engines.packing import TokenIds
from rm_cluster.errors import ConfigError

logger = logging.getLogger(__name__)

_SHORT, _LONG = (4, 5, 7), 24
"""Tokens of the texts that are padded together: odd numbers, too, for models that pool in pairs."""
_NEAR = 1e-5
"""Beyond rounding in float32; what the padding changes is mostly far beyond it."""


def num_known(model: Any) -> int:
    """How many token ids a model has embeddings of."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except NotImplementedError:  # it hashes characters (Canine), and knows them all
        return sys.maxunicode + 1


def some_tokens(model: Any, count: int) -> torch.Tensor:
    """[count] token ids that a model knows, none of which pads or ends a text."""
    special = {token for kind in ("pad", "eos", "bos") for token in _marks(model, kind)}
    known = range(min(num_known(model), count + 9))
    usable = [token for token in known if token not in special] or [0]
    return torch.tensor((usable * count)[:count], device=device())


def _marks(model: Any, kind: str) -> list[int]:
    """The tokens that pad, end or begin a text, of which a config may list several."""
    found = getattr(model.config.get_text_config(), f"{kind}_token_id", None)
    return [token for token in (found if isinstance(found, list) else [found]) if token is not None]


def alike(a: torch.Tensor, b: torch.Tensor, model: Any, room: float = 1e-4) -> bool:
    """Whether two results of a model are the same but for rounding."""
    room = room if model.dtype == torch.float32 else 0.05
    return torch.allclose(a.float(), b.float(), rtol=room, atol=room)


@contextlib.contextmanager
def told_of(model: Any, name: str) -> Iterator[None]:
    """Make whatever a model's code raises when it is first asked an error of the user's.

    Raises:
        ConfigError: In place of it.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{name} is a {type(model).__name__}, which cannot be computed here: {reason}"
        ) from None


@torch.inference_mode()
def sees_no_token_to_come(model: Any) -> bool:
    """Whether what stands before the last token is the same whatever that is."""
    if "lsh" in (getattr(model.config, "attn_layers", None) or ()):
        return False  # Reformer sorts all tokens by their hashes, which shows in long texts only
    ids = some_tokens(model, 6)[None]
    changed = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
    states, others = (model.base_model(input_ids=i, use_cache=False)[0] for i in (ids, changed))
    return alike(states[:, :-1], others[:, :-1], model)


@torch.inference_mode()
def reads_last_token(model: Any, head: torch.nn.Module) -> bool:
    """Whether a classifier's logits are its head on the last hidden state of the last token."""
    ids = some_tokens(model, 6)[None]
    states = model.base_model(input_ids=ids)[0]
    return alike(head(states[:, -1]), model(input_ids=ids).logits, model)


@torch.inference_mode()
def hears_padding(model: Any, compute: Callable[[Sequence[TokenIds]], torch.Tensor]) -> bool:
    """Whether a text that is padded comes out otherwise than alone, although the mask hides it.

    There are such encoders: those that convolve, mix by Fourier transforms or hash.

    Args:
        model: Which, loaded.
        compute: Texts -> [B, d] what is made of them in one batch.
    """
    config = model.config.get_text_config()
    # some encoders read it
    end = [token for token in _marks(model, "eos") if token < num_known(model)][:1]
    room = (getattr(config, "max_position_embeddings", None) or 2 * _LONG) // 2
    longest = max(_SHORT[0] + 1, min(_LONG, room))
    texts = [
        np.array([*some_tokens(model, size).tolist(), *end], dtype=np.int32)
        for size in (*(size for size in _SHORT if size < longest), longest)
    ]
    together = compute(texts)
    alone = torch.cat([compute([text]) for text in texts])
    heard = not alike(together, alone, model, _NEAR)
    if heard:
        logger.warning(
            "%s hears padding, although it is masked: only texts of equal length share a batch",
            type(model).__name__,
        )
    return heard
