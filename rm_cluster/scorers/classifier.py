"""Reward models that are Hugging Face sequence classifiers with one label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import ClassifierConfig, ScoringConfig
from rm_cluster.engines import engine_module
from rm_cluster.errors import ConfigError
from rm_cluster.scorers.pretrained import open_pretrained
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds, score_rows
from rm_cluster.scorers.template import Template
from rm_cluster.types import Row

if TYPE_CHECKING:
    from rm_cluster.engines.torch_engine import ClassifierEngine


class Classifier:
    """A sequence classifier whose single logit is the reward.

    Takes the fields of `ClassifierConfig` as keywords, and `truncation` as in `ScoringConfig`:

        Classifier(model="path/or/hub-id", dtype="bfloat16").score(rows)

    The reward of a text is the float32 head on the last hidden state of its last token (decoders),
    or the model's own pooling (encoders); it depends on nothing else in the batch.

    Raises:
        ConfigError: No such model, not one label, no reward head, or no safetensors weights.
    """

    uses_gpu = True

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        self.config = ClassifierConfig(**options)
        self.pretrained = open_pretrained(self.config)
        num_labels = self.pretrained.hf.num_labels
        if num_labels != 1:
            raise ConfigError(
                f"{self.config.name} has {num_labels} labels; a classifier reward model has one. "
                "Train or convert it with num_labels=1."
            )
        self._template = Template(
            self.pretrained.tokenizer,
            self.config.template,
            self.pretrained.max_length,
            truncation,
            self.config.name,
        )
        self._engine: ClassifierEngine | None = None

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the rewards; made when asked for, because it reads all the weights."""
        return {
            "type": "classifier",
            **self.pretrained.contract(),
            **self._template.contract,
            "padding_side": "right",
            "pooling": "last token by the mask; encoders pool themselves",
            "head_dtype": "float32",
            "batching": self.pretrained.batching,
        }

    @property
    def notice(self) -> str | None:
        """What the user should know of the contract before it runs."""
        return self._template.notice

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        return self._template.encode(rows)

    def load(self, num_threads: int | None = None) -> None:
        if self._engine is None:
            self._engine = engine_module(self.config).ClassifierEngine(
                self.config, self.pretrained.dtype, num_threads
            )

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[npt.NDArray[np.float64]]:
        self.load()
        assert self._engine is not None
        flat = self._engine.rewards([ids for group in groups for ids in group])
        return np.split(flat, np.cumsum([len(group) for group in groups])[:-1])

    def score(self, prompt_groups: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where a group failed."""
        return score_rows(self, prompt_groups)
