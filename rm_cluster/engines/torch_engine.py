"""Forward passes on torch: length-sorted batches to a token budget, exact for each text.

Shapes: B texts of a batch, T tokens of its longest, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification

from rm_cluster.config import ClassifierConfig
from rm_cluster.errors import ConfigError

TokenIds = npt.NDArray[np.int32]

_HEADS = ("score", "classifier", "classification_head")


def batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
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


class ClassifierEngine:
    """A sequence classifier in memory.

    Args:
        config: Which, and how.
        dtype: Of the weights, the head excepted, which runs in float32.
        num_threads: Of torch on a CPU; torch's own choice if None.

    Raises:
        ConfigError: The checkpoint lacks weights, such as those of a reward head.
    """

    def __init__(
        self, config: ClassifierConfig, dtype: str, num_threads: int | None = None
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokens_per_batch = config.tokens_per_batch
        self._model = _load(config, getattr(torch, dtype)).to(self.device).eval()
        self._head = _head(self._model, config.name)
        self._head.float()
        self._pools_itself = not _is_decoder(self._model)
        if self._pools_itself:
            self._head.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))

    @torch.inference_mode()
    def rewards(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return the reward of each text; order and company do not matter.

        Equal texts are computed once, so that they tie exactly.
        """
        distinct: dict[bytes, int] = {}
        index = [distinct.setdefault(ids.tobytes(), len(distinct)) for ids in token_ids]
        texts = [np.frombuffer(text, dtype=np.int32) for text in distinct]
        found = np.empty(len(texts))
        for indices in batches([len(ids) for ids in texts], self._tokens_per_batch):
            found[indices] = self._forward([texts[i] for i in indices])
        return found[index]

    def _forward(self, texts: list[TokenIds]) -> npt.NDArray[np.float64]:
        lengths = torch.tensor([len(ids) for ids in texts])
        input_ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)  # [B, T]
        for row, ids in zip(input_ids, texts, strict=True):
            row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
        input_ids = input_ids.to(self.device)
        if self._pools_itself:
            mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long().to(self.device)
            logits = self._model(input_ids=input_ids, attention_mask=mask).logits  # [B, 1]
        else:
            # causal states of a text cannot see the padding to its right, so no mask is needed, and
            # without one attention takes its fast causal path
            hidden = self._model.base_model(input_ids=input_ids, use_cache=False)[0]  # [B, T, H]
            last = hidden[torch.arange(len(texts), device=self.device), lengths.to(self.device) - 1]
            logits = self._head(last.float())
        return logits.float().reshape(len(texts)).cpu().double().numpy()  # type: ignore[no-any-return]


def _load(config: ClassifierConfig, dtype: torch.dtype) -> Any:
    options = (
        {}
        if config.attn_implementation is None
        else {"attn_implementation": config.attn_implementation}
    )
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            config.model,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # safetensors, transformers and the hub each raise their own
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"Cannot load {config.name!r} as a sequence classifier: {reason}"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"{config.name} lacks {len(missing)} weights, such as {missing[0]!r}; they would be "
            "random. Is it a reward model with a trained head?"
        )
    return model


def _is_decoder(model: Any) -> bool:
    """Whether the reward is read off the last token: a bare linear `score` on causal states."""
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def _head(model: Any, name: str) -> torch.nn.Module:
    for attribute in _HEADS:
        head = getattr(model, attribute, None)
        if isinstance(head, torch.nn.Module):
            return head
    raise ConfigError(
        f"{name} is a {type(model).__name__} without a head called {' or '.join(_HEADS)}; it "
        "cannot be scored as a classifier."
    )
